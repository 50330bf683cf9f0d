"""Sampling from the command line by any solver; models, caches and pictures are in tests/test_cli.py."""

import torch

from pyaccel import solvers, zoo
from pyaccel.evaluation.sampling import generate
from pyaccel.training.checkpoints import load_tensors


def samples(pyaccel, path, *arguments):
    result = pyaccel("sample", "--model", "fashion-dit", "--steps", 3, "--count", 3, *arguments, "--out", path)
    assert result.returncode == 0, result.stderr
    return load_tensors(path)[0]["samples"]


def test_options_reach_the_solver(pyaccel, tmp_path):
    denoiser = zoo.load("fashion-dit")
    path = tmp_path / "x.safetensors"
    x = samples(pyaccel, path, "--solver", "deis", "-o", "order=1", "-o", "polynomial=rho", "--grid", "quadratic")
    plan = solvers.deis(denoiser.schedule, 3, order=1, polynomial="rho", grid="quadratic")
    torch.testing.assert_close(x, generate(denoiser, plan, 3).images, rtol=0, atol=1e-5)
    y = samples(pyaccel, path, "--solver", "deis", "--solver-order", 1)
    z = samples(pyaccel, path, "--solver", "deis", "-o", "order=1")
    torch.testing.assert_close(y, z, rtol=0, atol=1e-5)


def test_a_stochastic_solver_is_seeded_sample_by_sample(pyaccel, tmp_path):
    path = tmp_path / "x.safetensors"
    arguments = "--solver", "euler_ancestral", "--classes", 4, "--seed", 2
    whole, split = samples(pyaccel, path, *arguments), samples(pyaccel, path, *arguments, "--batch", 1)
    torch.testing.assert_close(whole, split, rtol=0, atol=1e-4)
    assert not torch.allclose(whole, samples(pyaccel, path, *arguments[:-1], 3), atol=1e-2)


def test_mistakes(mistake):
    common = "sample", "--model", "fashion-dit", "--out", "x.png"
    mistake("did you mean 'variant'", *common, "-o", "varient=bh1")
    mistake("give one of them", *common, "--solver-order", 2, "-o", "order=2")
    mistake("chooses its steps", *common, "--solver", "dpm_adaptive")
    mistake("did you mean 'karras'", *common, "--grid", "karas")
