import subprocess
import sys
import time

import pytest

from pyaccel.training.checkpoints import load_tensors


def pyaccel(*arguments, **options):
    code = "from pyaccel.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, timeout=120, **options
    )


def test_info_and_models():
    info = pyaccel("info")
    assert info.returncode == 0
    assert "native (CPU)" in info.stdout
    models = pyaccel("models")
    for name in ("fashion-dit", "fashion-unet", "fashion-classifier"):
        assert name in models.stdout


def test_help_does_not_wait_for_torch():
    code = "import sys; from pyaccel.cli import cli; cli(['--help'], standalone_mode=False); "
    code += "assert 'torch' not in sys.modules"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    for command in ("bench", "demo", "distill", "info", "models", "plan", "sample", "solvers", "train"):
        assert command in result.stdout


def test_samples_to_safetensors(tmp_path):
    out = tmp_path / "x.safetensors"
    arguments = ["--model", "fashion-dit", "--solver", "unipc", "--steps", 8, "--cache", "taylorseer", "--interval", 3]
    result = pyaccel("sample", *arguments, "--count", 5, "--seed", 3, "--classes", "0,3", "--out", out)
    assert result.returncode == 0, result.stderr
    tensors, metadata = load_tensors(out)
    assert tensors["samples"].shape == (5, 1, 28, 28)
    assert tensors["samples"].abs().max() <= 1
    assert tensors["labels"].tolist() == [0, 3, 0, 3, 0]
    assert metadata["model_calls"] == "8"
    assert metadata["full_calls"] == "4"
    assert float(metadata["seconds"]) > 0


def test_samples_to_a_picture_with_guidance(tmp_path):
    from PIL import Image

    out = tmp_path / "x.png"
    result = pyaccel("sample", "--model", "fashion-unet", "--steps", 2, "--count", 4, "--guidance", 1.5, "--out", out)
    assert result.returncode == 0, result.stderr
    assert min(Image.open(out).size) > 28


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["sample", "--model", "fashion-dt", "--out", "x.png"], "did you mean 'fashion-dit'"),
        (["sample", "--model", "fashion-dit", "--solver", "unipcc", "--out", "x.png"], "did you mean 'unipc'"),
        (["sample", "--model", "fashion-dit", "--steps", "0", "--out", "x.png"], "steps"),
        (["sample", "--model", "fashion-dit", "--steps", "-2", "--out", "x.png"], "steps"),
        (["sample", "--model", "fashion-dit", "--steps", "many", "--out", "x.png"], "many"),
        (["sample", "--model", "fashion-dit", "--classes", "0,x", "--out", "x.png"], "--classes"),
        (["sample", "--model", "fashion-dit", "--classes", "10", "--out", "x.png"], "classes"),
        (["sample", "--model", "fashion-dit", "--count", "0", "--out", "x.png"], "count"),
        (["sample", "--model", "fashion-dit", "--seed", "-1", "--out", "x.png"], "seed"),
        (["sample", "--model", "fashion-dit", "--cache", "taylorseeer", "--out", "x.png"], "did you mean 'taylorseer'"),
        (["sample", "--model", "fashion-dit", "--out", "x.gif"], ".safetensors"),
        (["sample", "--model", "fashion-dit"], "--out"),
        (["sample", "--modell", "x"], "--modell"),
        (["smaple"], "smaple"),
        (["train", "fashion-dit", "--data", "/nowhere"], "dataset-fashion-mnist"),
        (["train", "fashion-dti"], "did you mean 'fashion-dit'"),
    ],
)
def test_mistakes_print_one_line_and_exit_with_2(arguments, words, tmp_path):
    result = pyaccel(*arguments, cwd=tmp_path)
    assert result.returncode == 2
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert words in lines[0]
    assert not list(tmp_path.iterdir())


def test_an_interrupted_demo_leaves_no_broken_file(tmp_path):
    import signal

    code = "from pyaccel.cli import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "demo", "--quick", "--out", str(tmp_path / "demo")],
        stderr=subprocess.PIPE,
        text=True,
        # Who starts the tests in the background hands down that SIGINT is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    time.sleep(6)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.strip().splitlines()[-1] == "pyaccel: interrupted"
    assert not (tmp_path / "demo").exists()


def test_backends_that_cannot_serve_are_errors(tmp_path):
    import os

    environment = {**os.environ, "PYACCEL_BACKEND": "triton"}
    environment.pop("TRITON_INTERPRET", None)
    result = pyaccel(
        "sample", "--model", "fashion-dit", "--steps", 2, "--count", 1, "--out", tmp_path / "x.png", env=environment
    )
    assert result.returncode == 2
    assert "PYACCEL_BACKEND=triton" in result.stderr
