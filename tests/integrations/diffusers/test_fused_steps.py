"""Steps of fused schedulers with every kind of sample and argument: what the original gives, or its error."""

import collections

import pytest
import torch

from pyaccel.integrations.diffusers import fuse

from .runs import DPM, SHAPE, X, close, loop, made, same, stepped
from .schedulers import diffusers, network, quiet


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
        # Each of these is linear on tensors of one sample, channel and column.
        "differs from its own coefficients": lambda self, m, x: x.flip(-1) - 0.1 * m,
        "it differs from its own": lambda self, m, x: torch.cat([x[:, :1] * 0.5, x[:, 1:]], 1) - 0.1 * m,
        "differs from its": lambda self, m, x: torch.cat([x[:1] - 0.1 * m[:1], x[1:] - 0.2 * m[1:]]),
        "differs from": lambda self, m, x: x - m * x.shape[-1] / 8,
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


def test_a_step_that_cannot_take_zeros():
    class Own:
        timesteps, num_inference_steps = torch.arange(3, 0, -1), 3

        def set_timesteps(self, n): ...

        def step(self, model_output, timestep, sample):
            return (sample * min(1.0, 1e6 / float(sample.norm())) - model_output,)

    fused = fuse(Own())
    torch.testing.assert_close(fused.step(X, fused.timesteps[0], X)[0], torch.zeros_like(X))
    torch.testing.assert_close(fused.step(0 * X + 1, fused.timesteps[1], X)[0], X - 1)


def test_a_largest_value_below_1():
    """There diffusers' limits cross, and the quantile has no say."""
    options = {"thresholding": True, "sample_max_value": 0.5, "prediction_type": "sample"}
    with quiet():
        close(loop(fuse(diffusers.DDIMScheduler(**options))), loop(diffusers.DDIMScheduler(**options)))


def test_state_in_any_container():
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
