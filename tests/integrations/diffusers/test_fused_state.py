"""A fused scheduler is its original in all that can be seen of it: attributes, signatures, files, errors."""

import copy
import inspect
import pickle
import threading
import warnings

import pytest
import torch

from pyaccel.integrations.diffusers import FusedScheduler, fuse
from pyaccel.solvers.tracing import probing

from .schedulers import CLASSES, diffusers, network, quiet

SHAPE = (2, 3, 4, 5)
X = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
OPTIONS = {
    "DPMSolverMultistepScheduler": {"solver_order": 3},
    "UniPCMultistepScheduler": {"solver_order": 3, "use_karras_sigmas": True},
    "DEISMultistepScheduler": {"solver_order": 3},
}
DPM = diffusers.DPMSolverMultistepScheduler


def made(name):
    with quiet():
        return getattr(diffusers, name)(**OPTIONS.get(name, {}))


def stepped(scheduler, x, t, **options):
    seen = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(float(t)))
        return scheduler.step(network(seen, t), t, x, return_dict=False, **options)[0]


def loop(scheduler, x=X, steps=6, **options):
    scheduler.set_timesteps(steps)
    for t in scheduler.timesteps:
        x = stepped(scheduler, x, t, **options)
    return x


def close(a, b, tolerance=1e-5):
    """To a part of the largest value: constants of schedulers are float32, and early steps amplify."""
    torch.testing.assert_close(a, b, rtol=0, atol=tolerance * max(1.0, float(b.abs().max())), equal_nan=True)


def same(a, b, path=""):
    """The same structure, types and dtypes; the same values in float64, where no rounding grows."""
    assert type(a) is type(b), (path, a, b)
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype, path
        if a.dtype == torch.float64 or a.dim() < 2:
            close(a, b)
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), path
        for key in a:
            same(a[key], b[key], f"{path}.{key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), path
        for i, (p, q) in enumerate(zip(a, b, strict=True)):
            same(p, q, f"{path}[{i}]")
    elif isinstance(a, (int, float, str, type(None))):
        assert a == b, path


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


def outcome(scheduler, act):
    try:
        with quiet():
            return act(scheduler)
    except Exception as error:
        return type(error), str(error)


@pytest.mark.parametrize("name", ["DPMSolverMultistepScheduler", "EulerDiscreteScheduler", "DDIMScheduler"])
@pytest.mark.parametrize(
    "act",
    [
        lambda s: s.step(X, 999, X),  # before set_timesteps
        lambda s: (loop(s), s.step(X, s.timesteps[-1], X))[1][0],  # beyond the end
        lambda s: (s.set_timesteps(5), s.step(X, s.timesteps[0], X[:, :2]))[1][0],
        lambda s: (s.set_timesteps(5), s.step(X, 17, X))[1][0],
        lambda s: (s.set_timesteps(5), s.step(X, s.timesteps[3], X))[1][0],  # out of order
        lambda s: (s.set_timesteps(5), s.step(X, s.timesteps[0]))[1][0],
        lambda s: (s.set_timesteps(5), s.step(X, s.timesteps[0], X, nonsense=1))[1][0],
        lambda s: (s.set_timesteps(5), stepped(s, X, s.timesteps[0]), s.set_timesteps(8), loop(s))[-1],
        lambda s: (s.set_timesteps(4), s.set_begin_index(2), [stepped(s, X, t) for t in s.timesteps[2:]])[-1][-1],
        lambda s: (s.set_timesteps(timesteps=[900, 500, 100]), [stepped(s, X, t) for t in s.timesteps])[-1][-1],
        lambda s: s.set_timesteps(0),
        lambda s: (s.set_timesteps(5), s.step(X.long(), s.timesteps[0], X.long()))[1][0],
        lambda s: (s.set_timesteps(5), s.step(X[0, 0, 0], s.timesteps[0], X[0, 0, 0]))[1][0],
        lambda s: (s.set_timesteps(5), s.step(model_output=X, timestep=s.timesteps[0], sample=X))[1][0],
        lambda s: (s.set_timesteps(5), s.step(X, s.timesteps[0].item(), X))[1][0],
    ],
)
def test_odd_use_is_as_before(name, act):
    """The same result, or the same error."""
    original = made(name)
    expected, found = outcome(original, act), outcome(fuse(original), act)
    if isinstance(expected, torch.Tensor):
        close(found, expected)
    else:
        assert found == expected


def test_samples_of_every_layout():
    for shape in [(2, 6), (3, 4, 5), (1, 3, 2, 4, 5)]:
        x = torch.randn(shape)
        close(loop(fuse(made("DEISMultistepScheduler")), x), loop(made("DEISMultistepScheduler"), x))
    for x in (X.to(memory_format=torch.channels_last), X.transpose(1, 2), X[:, :, ::2], X[:1].expand(SHAPE)):
        close(loop(fuse(DPM()), x), loop(DPM(), x))
    with torch.inference_mode():
        close(loop(fuse(DPM()), X), loop(DPM(), X))


def test_gradients_are_the_originals():
    gradients = []
    for scheduler in (DPM(), fuse(DPM()), made("UniPCMultistepScheduler"), fuse(made("UniPCMultistepScheduler"))):
        x = X.clone().requires_grad_()
        loop(scheduler, x, 4).square().sum().backward()
        gradients.append(x.grad)
    close(gradients[1], gradients[0], 1e-3)
    close(gradients[3], gradients[2], 1e-3)


@pytest.mark.parametrize("name", ["EulerAncestralDiscreteScheduler", "DDPMScheduler", "LCMScheduler", "TCDScheduler"])
@pytest.mark.parametrize("kind", ["one", "each", "global"])
def test_the_same_random_numbers(name, kind):
    results, states = [], []
    for scheduler in (made(name), fuse(made(name))):
        torch.manual_seed(7)
        one = torch.Generator().manual_seed(3)
        generator = {"one": one, "each": [one, torch.Generator().manual_seed(4)], "global": None}[kind]
        scheduler.set_timesteps(4)
        x = X
        for t in scheduler.timesteps:
            seen = scheduler.scale_model_input(x, t)
            x = scheduler.step(network(seen, t), t, x, generator=generator, return_dict=False)[0]
        results.append(x)
        states.append((one.get_state(), torch.get_rng_state()))
    close(results[1], results[0])
    assert all(torch.equal(a, b) for a, b in zip(*states, strict=True))


def test_variance_noise_and_old_predictions():
    """Tensors like the sample among the arguments go through the launch."""
    noise = torch.randn(SHAPE, dtype=torch.float64)
    for scheduler_class, options in ((DPM, {"algorithm_type": "sde-dpmsolver++"}), (diffusers.DDIMScheduler, {})):
        more = {"eta": 1.0} if scheduler_class is diffusers.DDIMScheduler else {}
        a, b = scheduler_class(**options), fuse(scheduler_class(**options))
        close(loop(b, variance_noise=noise, **more), loop(a, variance_noise=noise, **more))
        assert b._pyaccel.original_steps.total() == 0
    results = []
    for scheduler in (diffusers.CogVideoXDPMScheduler(), fuse(diffusers.CogVideoXDPMScheduler())):
        torch.manual_seed(0)
        scheduler.set_timesteps(5)
        x, old = X, None
        for i, t in enumerate(scheduler.timesteps):
            back = scheduler.timesteps[i - 1] if i > 0 else None
            x, old = scheduler.step(network(x, t), old, t, back, x, return_dict=False)
        results.append(x)
    close(results[1], results[0])
    assert scheduler._pyaccel.original_steps.total() == 0


@pytest.mark.parametrize("name", ["DPMSolverSDEScheduler", "CosineDPMSolverMultistepScheduler"])
def test_brownian_noise(name):
    """The scheduler makes its tree in its first step; the others are fused, and ask that tree."""
    pytest.importorskip("torchsde")

    def run(scheduler):
        torch.manual_seed(0)
        scheduler.set_timesteps(5)
        x = X * scheduler.init_noise_sigma
        with quiet():
            for t in scheduler.timesteps:
                x = scheduler.step(network(scheduler.scale_model_input(x, t), t), t, x).prev_sample
        return x

    make = getattr(diffusers, name)
    options = {"noise_sampler_seed": 3} if name == "DPMSolverSDEScheduler" else {}
    fused = fuse(make(**options))
    first, second = run(make(**options)), run(fused)
    close(second, first, 1e-4)
    assert fused._pyaccel.original_steps == {"the scheduler makes its noise sampler": 1}


def test_outputs_are_the_originals_classes():
    for name in ("DDIMScheduler", "EulerDiscreteScheduler", "LCMScheduler", "FlowMatchEulerDiscreteScheduler"):
        outputs = []
        for scheduler in (made(name), fuse(made(name))):
            scheduler.set_timesteps(3)
            torch.manual_seed(0)
            with quiet():
                outputs.append(scheduler.step(X, scheduler.timesteps[0], X))
        assert type(outputs[0]) is type(outputs[1])
        same(dict(outputs[1]), dict(outputs[0]))


def test_what_is_not_linear_is_the_originals_and_is_told():
    learned = diffusers.DDPMScheduler(variance_type="learned_range")
    fused = fuse(learned)
    wide = torch.randn(2, 6, 4, 5)
    results = []
    for scheduler in (learned, fused):
        torch.manual_seed(0)
        scheduler.set_timesteps(4)
        x = X
        for t in scheduler.timesteps:
            x = scheduler.step(wide, t, x).prev_sample
        results.append(x)
    assert torch.equal(*results)
    assert "0 fused steps, 4 by the original" in fused.pyaccel_summary()

    class Own:
        timesteps, num_inference_steps = torch.arange(3, 0, -1), 3

        def set_timesteps(self, n): ...

        def step(self, model_output, timestep, sample):
            return (self.next(model_output, sample),)

    cases = {
        "not linear": lambda self, m, x: x + m * m,
        "draws random numbers by torch.rand": lambda self, m, x: x + torch.rand(x.shape),
        "only a range from −a to a": lambda self, m, x: (x + m).clamp(0, 1),
        "adds a constant": lambda self, m, x: x + m + 1,
    }
    for reason, rule in cases.items():
        fused = fuse(type("Own", (Own,), {"next": rule})())
        torch.manual_seed(0)
        found = fused.step(X, fused.timesteps[0], X)[0]
        torch.manual_seed(0)
        torch.testing.assert_close(found, rule(None, X, X))
        assert reason in fused.pyaccel_summary()
    with pytest.raises(TypeError, match="it has no set_timesteps"):
        fuse(type("Half", (), {"step": lambda self, model_output, sample: None})())


def test_state_in_any_container():
    import collections

    class Own:
        def set_timesteps(self, n):
            self.num_inference_steps, self.timesteps = n, torch.arange(n, 0, -1)
            self.past, self.named = collections.deque(maxlen=2), {}

        def step(self, model_output, timestep, sample):
            self.past.append(model_output)
            self.named = {"last": sample, "pair": (sample, model_output)}
            return (sample - 0.1 * sum(self.past) + 0.01 * self.named["pair"][1],)

    def run(scheduler):
        scheduler.set_timesteps(5)
        x = X
        for t in scheduler.timesteps:
            x = scheduler.step(network(x, t), t, x)[0]
        return x

    fused = fuse(Own())
    torch.testing.assert_close(run(fused), run(Own()))
    assert fused._pyaccel.fused_steps == 5


def test_two_threads():
    """The thread whose run another one ends is told; that other one's result is right."""
    fused = fuse(made("UniPCMultistepScheduler"))
    expected = loop(made("UniPCMultistepScheduler"))
    fused.set_timesteps(6)
    x = stepped(fused, X, fused.timesteps[0])
    found = []

    def other():
        found.append(loop(fused))

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    close(found[0], expected)
    with pytest.raises(RuntimeError, match="two threads"):
        fused.step(X, fused.timesteps[1], x)
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


@pytest.mark.parametrize("name", ["DPMSolverMultistepScheduler", "HeunDiscreteScheduler", "EulerDiscreteScheduler"])
def test_compiled_without_breaks(name):
    """One graph for a step and one for a loop, no step compiled anew, and eager's numbers."""
    counters = torch._dynamo.utils.counters
    fused, eager = fuse(made(name)), fuse(made(name))
    expected = loop_plain(eager)
    torch._dynamo.reset()
    counters.clear()
    step = torch.compile(one_step, backend="eager", fullgraph=True)
    fused.set_timesteps(5)
    x = X
    with torch.no_grad(), quiet():
        for t in fused.timesteps:
            x = step(fused, x, t)
    assert counters["stats"]["unique_graphs"] == 1
    close(x, expected)
    torch._dynamo.reset()
    fused.set_timesteps(5)

    def whole(x):
        for t in fused.timesteps:
            x = fused.step(torch.sin(2 * x), t, x).prev_sample
        return x

    with torch.no_grad(), quiet():
        x = torch.compile(whole, backend="eager", fullgraph=True)(X)
    close(x, expected)
    assert fused._pyaccel.original_steps.total() == 0


def one_step(scheduler, x, t):
    return scheduler.step(torch.sin(2 * x), t, x, return_dict=False)[0]


def loop_plain(scheduler):
    scheduler.set_timesteps(5)
    x = X
    with torch.no_grad(), quiet():
        for t in scheduler.timesteps:
            x = one_step(scheduler, x, t)
    return x


def test_compiled_by_inductor():
    """What the scheduler remembers is not written over by a compiler that reuses its buffers."""
    for name in ("HeunDiscreteScheduler", "UniPCMultistepScheduler"):
        torch._dynamo.reset()
        fused = fuse(made(name))
        expected = loop_plain(fuse(made(name)))
        fused.set_timesteps(5)

        def whole(x, fused=fused):
            for t in fused.timesteps:
                x = one_step(fused, x, t) * 1.0
            return x

        with torch.no_grad(), quiet():
            x = torch.compile(whole, fullgraph=True)(X)
        close(x, expected)
