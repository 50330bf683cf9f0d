"""A fused scheduler is its original in all that can be seen of it: attributes, signatures, files, copies."""

import copy
import inspect
import pickle
import threading
import warnings

import pytest
import torch

from pyaccel.integrations.diffusers import FusedScheduler, fuse
from pyaccel.solvers.tracing import probing

from .runs import DPM, X, close, loop, made, same, stepped
from .schedulers import CLASSES, quiet


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16], ids=str)
def test_every_attribute_after_every_step(name, dtype):
    original = made(name)
    fused = fuse(original)
    x, y = X.to(dtype), X.to(dtype)
    with quiet():
        original.set_timesteps(5)
        fused.set_timesteps(5)
        for t in original.timesteps:
            x, y = stepped(original, x, t), stepped(fused, y, t)
            same(vars(fused), vars(original))
            same(y, x)
            y = x.clone()
            for attribute in ("step_index", "begin_index", "order", "init_noise_sigma"):
                assert hasattr(fused, attribute) == hasattr(original, attribute)
                same(getattr(fused, attribute, None), getattr(original, attribute, None), attribute)
    assert fused._pyaccel.original_steps.total() == 0


@pytest.mark.parametrize("name", CLASSES)
def test_it_is_its_class(name, tmp_path):
    original = made(name)
    fused, scheduler_class = fuse(original), type(original)
    assert isinstance(fused, scheduler_class)
    assert isinstance(fused, FusedScheduler)
    assert fuse(fused) is fused
    assert fused.pyaccel_original is original
    assert (type(fused).__name__, type(fused).__module__) == (scheduler_class.__name__, scheduler_class.__module__)
    assert fused.config == original.config
    assert len(fused) == len(original)
    assert fused.compatibles == original.compatibles
    assert repr(fused) == repr(original)
    names = {n for n in dir(fused) if "pyaccel" not in n} - {"__slots__"}
    assert names == set(dir(original)) - {"__slots__"}
    for method in ("step", "set_timesteps", "scale_model_input", "add_noise", "scale_noise", "set_begin_index"):
        assert hasattr(fused, method) == hasattr(original, method)
        if hasattr(original, method):
            assert inspect.signature(getattr(fused, method)) == inspect.signature(getattr(original, method))
    fused.save_pretrained(tmp_path)
    assert type(scheduler_class.from_pretrained(tmp_path)) is scheduler_class
    with quiet():
        again = type(fused).from_config(fused.config)
    assert type(again) is type(fused)


def test_copies_and_pickles_go_on_by_themselves():
    fused = fuse(made("UniPCMultistepScheduler"))
    expected = loop(fused)
    fused.set_timesteps(6)
    x = X
    for t in fused.timesteps[:3]:
        x = stepped(fused, x, t)
    others = [copy.deepcopy(fused), pickle.loads(pickle.dumps(fused)), copy.copy(fused)]
    for other in [*others, fused]:
        assert type(other) is type(fused)
        y = x
        for t in fused.timesteps[3:]:
            y = stepped(other, y, t)
        close(y, expected)


def test_tables_are_shared_and_probed_once(monkeypatch):
    loop(fuse(made("DEISMultistepScheduler")), steps=7)
    probed = []
    monkeypatch.setattr(probing, "_probed", lambda *_: probed.append(1))
    fused = fuse(made("DEISMultistepScheduler"))
    loop(fused, steps=7)
    loop(copy.deepcopy(fused), steps=7)
    assert not probed
    assert fused._pyaccel.fused_steps == 7


@pytest.mark.parametrize(
    "edit",
    [
        lambda s: s.model_outputs.__setitem__(-1, 0.5 * s.model_outputs[-1]),
        lambda s: setattr(s, "model_outputs", [m if m is None else 0.5 * m for m in s.model_outputs]),
        lambda s: setattr(s, "lower_order_nums", 0),
        lambda s: setattr(s, "_step_index", s._step_index + 1),
        lambda s: s.sigmas.mul_(0.9),
        lambda s: vars(s).update(extra=len(vars(s))),
    ],
)
def test_attributes_that_others_write(edit):
    """The original's step takes over for one step, with one warning for all; then steps are fused again."""
    original = made("DPMSolverMultistepScheduler")
    fused = fuse(original)
    results = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for scheduler in (original, fused):
            x = X
            scheduler.set_timesteps(9)
            for i, t in enumerate(scheduler.timesteps[:-2]):
                x = stepped(scheduler, x, t)
                if i in (2, 4):
                    edit(scheduler)
            results.append(x)
    close(results[1], results[0])
    assert len([w for w in caught if "were written to" in str(w.message)]) == 1
    assert fused._pyaccel.original_steps == {"attributes were written to between two steps": 2}
    assert fused._pyaccel.fused_steps == 5


def test_registers_may_be_edited_in_place():
    """They are the attributes themselves, so no warning is due."""
    original = made("DPMSolverMultistepScheduler")
    fused = fuse(original)
    results = []
    for scheduler in (original, fused):
        x = X
        scheduler.set_timesteps(5)
        for t in scheduler.timesteps:
            x = stepped(scheduler, x, t)
            scheduler.model_outputs[-1].mul_(0.7)
            x.add_(0.01)  # what a pipeline does to its latents never reaches the state
        results.append(x)
    close(results[1], results[0])
    assert fused._pyaccel.original_steps.total() == 0


def test_attributes_copied_into_another_scheduler():
    original = made("UniPCMultistepScheduler")
    fused = fuse(original)
    expected = loop(original)
    for target in (made("UniPCMultistepScheduler"), fuse(made("UniPCMultistepScheduler"))):
        fused.set_timesteps(6)
        x = X
        for t in fused.timesteps[:3]:
            x = stepped(fused, x, t)
        vars(target).update(copy.copy(vars(fused)))
        with quiet():
            for t in fused.timesteps[3:]:
                x = stepped(target, x, t)
        close(x, expected)


@pytest.mark.parametrize("name", ["UniPCMultistepScheduler", "PNDMScheduler", "DDIMScheduler"])
@pytest.mark.parametrize("done", [0, 1])
def test_two_threads(name, done):
    """The thread whose run another one ends is told; that other one's result is right."""
    fused = fuse(made(name))
    expected = loop(made(name))
    fused.set_timesteps(6)
    x = stepped(fused, X, fused.timesteps[0]) if done else X
    found = []

    def other():
        found.append(loop(fused))

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    close(found[0], expected)
    with pytest.raises(RuntimeError, match="two threads"):
        fused.step(X, fused.timesteps[done], x)
    if hasattr(fused, "set_begin_index"):
        with pytest.raises(RuntimeError, match="two threads"):
            fused.set_begin_index(0)
    torch.testing.assert_close(loop(fused), expected, rtol=1e-5, atol=1e-5)  # one after the other is fine


def test_where_a_run_stands():
    fused = fuse(DPM())
    assert fused.pyaccel_position() is None
    fused.set_timesteps(3)
    first = fused.pyaccel_position()
    assert (first.step, first.steps, first.t) == (0, 3, float(fused.timesteps[0]))
    stepped(fused, X, fused.timesteps[0])
    assert fused.pyaccel_position().run is first.run
    assert fused.pyaccel_position().step == 1
    loop(fused, steps=3)
    assert fused.pyaccel_position() is None
    fused.set_timesteps(4)
    fused.set_begin_index(2)
    last = fused.pyaccel_position()
    assert last.run is not first.run
    assert (last.step, last.steps, last.t) == (0, 2, float(fused.timesteps[2]))
