"""The commands about caches: calibrate, bench caching, and sample with any cache."""

import json

import pytest
from click.testing import CliRunner

from pyaccel import caching, zoo
from pyaccel.cli import cli


def run(*arguments):
    return CliRunner().invoke(cli, list(map(str, arguments)), catch_exceptions=True)


def test_calibrate_and_sample_with_its_file(tmp_path):
    path = tmp_path / "dit.json"
    result = run("calibrate", "--model", "fashion-dit", "--steps", 6, "--count", 2, "--out", path)
    assert result.exit_code == 0, result.output
    assert f"20 branches over 6 steps: {path}" in result.output
    assert (tmp_path / "dit.png").read_bytes().startswith(b"\x89PNG")
    found = caching.Calibration.load(path).check(zoo.load_model("fashion-dit"))
    assert found.steps == 6
    for options in (
        ["--cache", "blockcache", "-c", f"calibration={path}", "-c", "delta=0.2"],
        ["--cache", "teacache", "-c", f"coefficients={path}"],
        ["--cache", "magcache", "-c", f"ratios={path}"],
        ["--cache", "taylorseer", "--interval", 3, "--order", 1, "-c", "memory=int8"],
    ):
        out = tmp_path / "x.png"
        result = run("sample", "--model", "fashion-dit", "--steps", 6, "--count", 2, *options, "--out", out)
        assert result.exit_code == 0, result.output
        assert "6 model calls" in result.output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--cache", "taylorsear"], "unknown cache 'taylorsear'.*did you mean 'taylorseer'"),
        (["--cache", "fora", "-c", "intervall=3"], "unknown option of fora 'intervall'.*did you mean 'interval'"),
        (["-c", "interval=3"], "options of a cache, but there is none"),
        (["--cache", "fora", "--interval", 3, "-c", "interval=4"], "--interval and -c interval= are the same"),
        (["--cache", "deepcache"], "DiT is no U-Net of a known form"),
        (["--cache", "blockcache", "-c", "calibration=none.json"], "no calibration in none.json"),
    ],
)
def test_mistakes(options, message, tmp_path):
    result = run("sample", "--model", "fashion-dit", "--count", 1, *options, "--out", tmp_path / "x.png")
    assert result.exit_code != 0
    with pytest.raises((ValueError, TypeError), match=message):
        raise result.exception


def test_bench(tmp_path):
    options = ["--steps", 6, "--count", 8, "--caches", "auto,deepcache", "--out", tmp_path, "--no-progress"]
    result = run("bench", "caching", "--model", "fashion-unet", *options)
    assert result.exit_code == 0, result.output
    results = json.loads((tmp_path / "results.json").read_text())
    rows = {row["name"]: row for row in results["rows"]}
    assert rows["euler 6, uncached"]["rmse"] == 0
    cached = [row for row in rows.values() if row["family"] == "caching"]
    assert len(cached) == 7
    assert all(row["full_calls"] < 6 and row["rmse"] > 0 and "FID" in row["note"] for row in cached)
    assert any(row["family"] == "few steps" for row in rows.values())
    for name in ("report.html", "pareto.png", "samples.png", "steps.png"):
        assert (tmp_path / name).stat().st_size > 1000
    assert "to the uncached run from the same noise" in (tmp_path / "report.html").read_text()
    (tmp_path / "rows" / "auto%3A interval 3.safetensors").unlink()
    assert run("bench", "caching", "--model", "fashion-unet", *options, "--resume").exit_code == 0
    again = {row["name"]: row for row in json.loads((tmp_path / "results.json").read_text())["rows"]}
    other = [name for name in rows if again[name]["seconds"] != rows[name]["seconds"]]
    assert other == ["auto: interval 3"]  # all others were kept
    assert again[other[0]]["fid"] == rows[other[0]]["fid"]
    result = run("bench", "caching", "--model", "fashion-unet", "--caches", "teacache")
    with pytest.raises(ValueError, match="unknown cache for this model 'teacache'; there are: auto, fora"):
        raise result.exception
