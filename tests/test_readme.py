"""The code of the README and of the pages in docs/ runs as written."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from pyaccel import solvers

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PYTHON = [(page.name, code) for page in PAGES for code in re.findall(r"```python\n(.*?)```", page.read_text(), re.S)]
COMMANDS = [
    line.split("#")[0].strip() for block in re.findall(r"```sh\n(.*?)```", README, re.S) for line in block.splitlines()
]


class Tiny:
    """Stands for DiffusionPipeline: what it "downloads" is a tiny FLUX with random weights that reads any prompt."""

    @staticmethod
    def from_pretrained(name):
        from diffusers import FluxPipeline

        from .integrations.pipelines import EXAMPLES

        class Pipeline(FluxPipeline):
            def __call__(self, prompt):
                return super().__call__(**EXAMPLES["flux"].arguments())

        pipe = EXAMPLES["flux"].pipe()
        pipe.__class__ = Pipeline
        return pipe


@pytest.mark.parametrize(("page", "code"), PYTHON, ids=range(len(PYTHON)))
def test_python_blocks(page, code, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    if "from_pretrained" in code:
        monkeypatch.setattr("diffusers.DiffusionPipeline", Tiny)
    before = set(solvers.SOLVERS)
    exec(compile(code, page, "exec"), {"__name__": "readme"})
    for name in set(solvers.SOLVERS) - before:
        del solvers.SOLVERS[name]


def test_the_first_example_has_about_ten_lines():
    assert len(PYTHON[0][1].strip().splitlines()) <= 11


@pytest.mark.parametrize("command", [c for c in COMMANDS if re.match(r"pyaccel (?!train|bench|tune|distill ayf)", c)])
def test_commands(command, tmp_path):
    if "scheduler_config.json" in command:
        pytest.importorskip("diffusers").UniPCMultistepScheduler().save_pretrained(tmp_path)
    arguments = [sys.executable, "-c", "from pyaccel.cli import main; main()", *shlex.split(command)[1:]]
    result = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert result.returncode == 0, result.stderr
    if "--out" in command:
        assert (tmp_path / shlex.split(command)[-1]).stat().st_size > 0


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    targets = [c.split()[1] for c in COMMANDS if c.startswith("make")]
    assert {"demo", "test"} <= set(targets)
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.M)


def test_what_is_listed_is_there():
    for name in solvers.SOLVERS:
        assert f"`{name}`" in README
