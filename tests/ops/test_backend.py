"""The choice of a backend, and what happens when one is forced that cannot serve."""

import os
import subprocess
import sys

import pytest
import torch

from pyaccel import ops
from pyaccel.ops import backend

CPU, META = torch.device("cpu"), torch.device("meta")

PROGRAM = """
import torch
from pyaccel import ops
from pyaccel.ops import backend, reference

calls = []
def spy(module, name):
    original = getattr(module, name)
    def wrapped(*args, **kwargs):
        calls.append(name)
        return original(*args, **kwargs)
    setattr(module, name, wrapped)

spy(reference, "linear_combination")
a, b = torch.arange(5.0), torch.ones(5)
(x,) = ops.linear_combination([a, b], [[2.0, 3.0]])
(y,) = ops.prepare([[2.0, 3.0]], [torch.float32] * 2, [torch.float32])([a, b], [torch.empty(5)])
assert torch.equal(x, 2 * a + 3 * b) and torch.equal(y, x)
print(backend.choose(torch.device("cpu")), len(calls))
"""


def run(name, **environment):
    environment = {**os.environ, "PYACCEL_BACKEND": name, **environment}
    return subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, env=environment, timeout=120)


@pytest.mark.parametrize(("name", "said"), [("reference", "reference 2"), ("native", "native 0"), ("", "native 0")])
def test_forced_backend_is_the_one_that_computes(name, said):
    done = run(name)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == said


def test_forced_triton_without_its_interpreter_is_refused_on_the_cpu():
    done = run("triton", TRITON_INTERPRET="0")
    assert done.returncode != 0
    assert "PYACCEL_BACKEND=triton cannot serve tensors on cpu" in done.stderr


def test_unknown_backend_names_those_that_there_are(monkeypatch):
    monkeypatch.setenv("PYACCEL_BACKEND", "nonsense")
    with pytest.raises(ValueError, match="'nonsense': there are native, triton, reference"):
        backend.choose(CPU)


def test_choice_by_device(monkeypatch):
    monkeypatch.delenv("PYACCEL_BACKEND", raising=False)
    assert backend.choose(META) == "reference"
    assert backend.choose(CPU) == ("native" if backend._native else "reference")


def test_forced_native_cannot_serve_other_devices(monkeypatch):
    monkeypatch.setenv("PYACCEL_BACKEND", "native")
    with pytest.raises(RuntimeError, match="cannot serve tensors on meta"):
        backend.choose(META)


def test_without_the_native_module_the_reference_serves(monkeypatch):
    monkeypatch.delenv("PYACCEL_BACKEND", raising=False)
    monkeypatch.setattr(backend, "native_missing", "it was not built")
    assert backend.why_not("native", CPU) == "it was not built"
    assert backend.choose(CPU) == "reference"


def test_private_names_of_torch_still_mean_what_they_meant():
    assert backend.private_names_work()
    assert not backend.transformed()


def test_changed_private_names_are_noticed(monkeypatch):
    monkeypatch.setattr(backend, "transformed", lambda: False)
    assert not backend.private_names_work.__wrapped__()
    monkeypatch.delattr(backend, "transformed")
    assert not backend.private_names_work.__wrapped__()


def test_unknown_instruction_set_is_refused(restored_instruction_set):
    with pytest.raises(ValueError, match="no instruction set 'mmx'"):
        restored_instruction_set("mmx")


def test_describe_names_every_backend():
    names = [name for name, _ in backend.describe()]
    assert {"native (CPU)", "native (CUDA)", "triton", "reference", "chosen on the CPU"} <= set(names)


@pytest.mark.skipif(backend._native is None, reason=backend.native_missing or "built")
def test_native_module_refuses_what_it_cannot_check_away():
    """Numbers where addresses are expected: counts, null pointers and dtype codes that do not fit are errors."""
    t = torch.ones(4)
    good = ([1.0], 1, [t.data_ptr()], [0], [t.data_ptr()], [0], 4, True)
    backend._native.linear_combination(*good)
    for place, wrong, error in [
        (0, [1.0, 2.0], ValueError),
        (0, ["one"], TypeError),
        (0, 3, TypeError),
        (1, 0, ValueError),
        (2, [], ValueError),
        (2, [0], ValueError),
        (3, [4], ValueError),
        (3, [-1], ValueError),
        (4, [0], ValueError),
        (6, -1, ValueError),
    ]:
        bad = list(good)
        bad[place] = wrong
        with pytest.raises(error):
            backend._native.linear_combination(*bad)


def test_compiled_calls_outside_and_inside_of_forward_mode():
    """torch.compile reads an attribute once; a tangent must not vanish because of a call before it."""

    def f(x):
        plain = ops.linear_combination([x], [[2.0]])[0]
        return plain, torch.func.jvp(lambda x: ops.linear_combination([x], [[3.0]])[0], (x,), (torch.ones_like(x),))[1]

    torch.compiler.reset()
    plain, tangent = torch.compile(f, fullgraph=True, backend="aot_eager")(torch.ones(4))
    assert plain.tolist() == [2.0] * 4
    assert tangent.tolist() == [3.0] * 4
