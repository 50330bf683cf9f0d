import json
import os
import tarfile

import pytest

from pyaccel.training.datasets import tar_index
from pyaccel.training.datasets.tar_index import tar_members

from .tars import write_tar

MEMBERS = {"a.txt": b"text", "d/" + "x" * 150 + ".bin": b"\1" * 700, "ünïcode.cls": b"", "e.txt": b"last"}


@pytest.fixture
def path(tmp_path):
    return write_tar(tmp_path / "t.tar", MEMBERS)


@pytest.fixture
def never_scanned(monkeypatch):
    def refuse(path):
        raise AssertionError(f"{path} was read though it has an index")

    return lambda: monkeypatch.setattr(tar_index, "_scan", refuse)


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_lie_where_the_index_says(tmp_path, form, monkeypatch):
    monkeypatch.setattr(tarfile.TarFile, "format", form)
    path = write_tar(tmp_path / "t.tar", MEMBERS)
    content = path.read_bytes()
    for _ in range(2):
        assert {name: content[start : start + size] for name, start, size in tar_members(path)} == MEMBERS


def test_the_index_is_read_the_next_time(path, never_scanned):
    first = tar_members(path)
    never_scanned()
    assert tar_members(path) == first


def test_an_index_of_another_file_or_a_damaged_one_is_made_anew(path):
    tar_members(path)
    index = path.with_name("t.tar.index.json")
    facts = json.loads(index.read_text())
    for wrong in (
        "",
        "[]",
        "{",
        json.dumps({**facts, "members": [["a.txt", 0, 10**9]]}),
        json.dumps({**facts, "size": 1}),
    ):
        index.write_text(wrong)
        assert len(tar_members(path)) == 4
        assert json.loads(index.read_text()) == facts
    write_tar(path, {**MEMBERS, "f.txt": b""})
    assert len(tar_members(path)) == 5
    os.utime(path, ns=(0, 0))
    assert len(tar_members(path)) == 5
    assert json.loads(index.read_text())["mtime_ns"] == 0


def test_without_a_place_for_the_index_it_is_made_each_time(path, monkeypatch):
    def full(*args):
        raise OSError("no space left, or read-only")

    monkeypatch.setattr(tar_index, "write_atomically", full)
    assert len(tar_members(path)) == 4
    assert not path.with_name("t.tar.index.json").exists()


def test_links_and_folders_are_no_members(tmp_path):
    with tarfile.open(tmp_path / "t.tar", "w") as tar:
        for name, kind in (("d", tarfile.DIRTYPE), ("l.txt", tarfile.SYMTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
    assert tar_members(tmp_path / "t.tar") == []


def test_damaged_cut_off_and_compressed_files_are_named(tmp_path, path):
    content = path.read_bytes()
    last = tar_members(path)[-1][1] - 512
    cases = {
        "cut.tar": content[: last + 600 - 512 - 400],
        "header.tar": content[: last + 100] + b"\xff" * 8 + content[last + 108 :],
        "empty.tar": b"",
        "text.tar": b"no tar" * 200,
    }
    for name, damaged in cases.items():
        (tmp_path / name).write_bytes(damaged)
        with pytest.raises(ValueError, match=name):
            tar_members(tmp_path / name)
    write_tar(tmp_path / "z.tar", MEMBERS, "w:gz")
    with pytest.raises(ValueError, match=r"z\.tar is not a whole, uncompressed tar file"):
        tar_members(tmp_path / "z.tar")
