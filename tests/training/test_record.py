from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import yaml

from pyaccel import __version__
from pyaccel.training.record import from_yaml, to_yaml, versions, write_record


@dataclass(frozen=True)
class Inner:
    rate: float = 0.5
    betas: tuple[float, ...] = (0.9, 0.99)


@dataclass(frozen=True)
class Outer:
    inner: Inner = Inner()
    name: str | None = None
    out: Path | None = None


def test_there_and_back(tmp_path):
    config = Outer(Inner(0.25, (0.1,)), "ü", Path("a/b"))
    path = tmp_path / "c.yaml"
    path.write_text(to_yaml(config))
    again = from_yaml(Outer(), path)
    assert again.inner == config.inner
    assert (again.name, str(again.out)) == ("ü", "a/b")
    path.write_text("inner: {rate: 2}\n")
    assert from_yaml(config, path) == Outer(Inner(2, (0.1,)), "ü", Path("a/b"))
    path.write_text("")
    assert from_yaml(config, path) == config


@pytest.mark.parametrize(
    ("text", "message"),
    [("inner: {rat: 2}", "did you mean 'rate'"), ("- 1", "must hold a mapping"), ("inner: 3", "inner must hold"),
     ("a: [", "is not YAML")],
)  # fmt: skip
def test_errors(tmp_path, text, message):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        from_yaml(Outer(), path)
    with pytest.raises(ValueError, match="there is no configuration"):
        from_yaml(Outer(), tmp_path / "d.yaml")


def test_what_stands_beside_the_weights(tmp_path):
    write_record(tmp_path, Outer())
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["inner"]["betas"] == [0.9, 0.99]
    facts = yaml.safe_load((tmp_path / "versions.yaml").read_text())
    assert facts["pyaccel"] == __version__
    assert facts["torch"] == str(torch.__version__)
    assert set(versions()) == set(facts)
