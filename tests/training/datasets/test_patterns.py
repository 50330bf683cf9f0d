import pytest

from pyaccel.training.datasets.patterns import contents, expand_braces, files_of


def test_braces_stand_for_what_they_do_in_a_shell():
    assert expand_braces("a") == ["a"]
    assert expand_braces("t-{08..11}.tar") == ["t-08.tar", "t-09.tar", "t-10.tar", "t-11.tar"]
    assert expand_braces("{a,b}/{0..1}") == ["a/0", "a/1", "b/0", "b/1"]


@pytest.mark.parametrize("text", ["{5..1}", "{0..99999999}", "{0..9999}{0..9999}"])
def test_braces_that_stand_for_nothing_or_too_much(text):
    with pytest.raises(ValueError, match="1000000"):
        expand_braces(text)


@pytest.fixture
def folder(tmp_path):
    for name in ("b1.tar", "a0.tar", "a1.tar", "x.txt", ".a.tar", "odd[1].tar"):
        (tmp_path / name).write_text("")
    return tmp_path


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", ["a0.tar", "a1.tar", "b1.tar", "odd[1].tar"]),
        ("a*.tar", ["a0.tar", "a1.tar"]),
        ("{b,a}1.tar", ["b1.tar", "a1.tar"]),
        ("{a,b}*.tar", ["a0.tar", "a1.tar", "b1.tar"]),
        ("odd[1].tar", ["odd[1].tar"]),
    ],
)
def test_files_by_folder_glob_and_braces(folder, text, names):
    assert [path.name for path in files_of(f"{folder}/{text}", ".tar")] == names


def test_several_texts_one_after_another(folder):
    assert [path.name for path in files_of([folder / "b1.tar", folder / "a*.tar"], ".tar")] == [
        "b1.tar",
        "a0.tar",
        "a1.tar",
    ]


def test_what_is_not_there_says_what_is(folder):
    with pytest.raises(
        FileNotFoundError,
        match=r"a2\.tar too: there is no such file; the folder holds \.tar files \(5\), \.txt files \(1\)",
    ):
        files_of(f"{folder}/a{{0..2}}.tar", ".tar")
    with pytest.raises(FileNotFoundError, match=r"no \.safetensors files"):
        files_of(folder, ".safetensors")
    with pytest.raises(FileNotFoundError, match="no folder"):
        files_of(folder / "none" / "x.tar", ".tar")
    with pytest.raises(FileNotFoundError, match="no files were named"):
        files_of([], ".tar")
    with pytest.raises(ValueError, match="named twice"):
        files_of([folder / "b1.tar", folder], ".tar")


def test_contents(tmp_path):
    assert contents(tmp_path) == "nothing"
    for name in ("a", "b", "c.txt"):
        (tmp_path / name).write_text("")
    (tmp_path / "d").mkdir()
    assert contents(tmp_path) == "nameless files (2), .txt files (1), folders (1)"
