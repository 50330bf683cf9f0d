"""The command line in this process, in an empty folder: it need not import torch anew for each test."""

import sys
from dataclasses import dataclass

import pytest

from pyaccel.cli import main


@dataclass
class Result:
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def pyaccel(monkeypatch, capsys, tmp_path):
    """Runs ``pyaccel ARGUMENTS`` as the shell would, with a pipe for standard output."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["pyaccel", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        out, err = capsys.readouterr()
        return Result(end.value.code or 0, out, err)

    return run


@pytest.fixture
def mistake(pyaccel, tmp_path):
    """Runs a wrong call: one line that has ``words`` in it, exit code 2, and no file left behind."""

    def run(words, *arguments):
        result = pyaccel(*arguments)
        assert result.returncode == 2
        (line,) = result.stderr.strip().splitlines()
        assert words in line
        assert not list(tmp_path.iterdir())

    return run
