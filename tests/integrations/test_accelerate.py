"""What ``accelerate``, ``restore`` and ``summary`` take, refuse and leave behind."""

import gc
import subprocess
import sys
import weakref

import diffusers
import pytest
import torch
from torch import nn

import pyaccel
from pyaccel import models

from .pipelines import EXAMPLES, discrete
from .speeds import needs_caches, speeds

SD = EXAMPLES["stable-diffusion"]


def test_nothing_imports_diffusers():
    code = (
        "import sys, pyaccel, pyaccel.integrations, pyaccel.integrations.accelerate; "
        "pyaccel.accelerate, pyaccel.restore, pyaccel.summary; "
        "assert not {'diffusers', 'transformers', 'accelerate', 'peft'} & set(sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@needs_caches
def test_a_bare_model_is_cached_without_diffusers():
    code = (
        "import sys, pyaccel; from pyaccel import models; m = models.DiT(); pyaccel.accelerate(m); pyaccel.restore(m); "
        "assert 'diffusers' not in sys.modules"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_twice_and_not_at_all():
    pipe = SD.pipe()
    for function in (pyaccel.restore, pyaccel.summary):
        with pytest.raises(ValueError, match=r"this StableDiffusionPipeline is not accelerated: pyaccel.accelerate"):
            function(pipe)
    pyaccel.accelerate(pipe)
    fused = pipe.scheduler
    with pytest.raises(ValueError, match=r"is accelerated already; call pyaccel.restore"):
        pyaccel.accelerate(pipe)
    assert pipe.scheduler is fused
    pyaccel.restore(pipe)
    with pytest.raises(ValueError, match="not accelerated"):
        pyaccel.restore(pipe)
    pyaccel.accelerate(pipe)  # and again
    assert pipe.scheduler is not fused


@pytest.mark.parametrize("thing", [None, 3, "pipe", torch.ones(2), object(), diffusers.StableDiffusionPipeline, dict])
def test_what_is_neither_a_pipeline_nor_a_model(thing):
    with pytest.raises(TypeError, match="expected a pipeline"):
        pyaccel.accelerate(thing)
    with pytest.raises(ValueError, match="not accelerated"):
        pyaccel.restore(thing)


@pytest.mark.parametrize("make", [SD.pipe, models.DiT])
def test_wrong_caches_and_options_change_nothing(make):
    thing = make()
    before = dict(vars(thing))
    for error, words, arguments in [
        (
            ValueError,
            r"unknown cache 'taylorsear'; there are: .*; did you mean 'taylorseer'\?",
            {"cache": "taylorsear"},
        ),
        (
            TypeError,
            r"taylorseer has no option 'intervall'; it has: interval, .*did you mean 'interval'\?",
            {"cache": "taylorseer", "intervall": 3},
        ),
        (ValueError, "interval must be", {"cache": "taylorseer", "interval": 0}),
        (TypeError, "cache must be a name, a Cache or a function", {"cache": 5}),
        (TypeError, "must return a pyaccel.caching.Cache", {"cache": lambda model: "cache"}),
    ]:
        with pytest.raises(error, match=words):
            pyaccel.accelerate(thing, **arguments)
        assert vars(thing).keys() == before.keys()
        assert all(vars(thing)[key] is value for key, value in before.items())


def test_options_without_a_cache_and_nothing_to_do():
    with pytest.raises(TypeError, match=r"interval: options of a cache, but there is none"):
        pyaccel.accelerate(SD.pipe(), interval=3)
    with pytest.raises(ValueError, match="nothing to do"):
        pyaccel.accelerate(SD.pipe(), scheduler=False)


def test_a_bare_model_without_places_for_a_cache():
    model = nn.Sequential(nn.Linear(3, 3))
    with pytest.raises(ValueError, match="Sequential"):
        pyaccel.accelerate(model)
    assert "forward" not in vars(model)


def test_a_scheduler_that_is_no_scheduler():
    class Scheduler:
        timesteps = ()

        def set_timesteps(self, steps):
            pass

        def step(self, x):
            pass

    pipe = SD.pipe()
    pipe.scheduler = scheduler = Scheduler()
    with pytest.raises(TypeError, match="Scheduler is not a scheduler with the interface of diffusers"):
        pyaccel.accelerate(pipe)
    assert pipe.scheduler is scheduler
    with pytest.raises(ValueError, match="not accelerated"):
        pyaccel.summary(pipe)


def test_a_fused_scheduler_stays_in_restore():
    from pyaccel.integrations.diffusers import fuse

    pipe = SD.pipe()
    pipe.scheduler = fused = fuse(pipe.scheduler)
    pyaccel.accelerate(pipe)
    assert pipe.scheduler is fused
    pyaccel.restore(pipe)
    assert pipe.scheduler is fused


def test_a_scheduler_assigned_afterwards_stays():
    pipe = pyaccel.accelerate(SD.pipe())
    pipe.scheduler = mine = discrete(diffusers.DDIMScheduler)
    assert "DDIMScheduler, not fused" in str(pyaccel.summary(pipe))
    plain = SD.pipe()
    plain.scheduler = discrete(diffusers.DDIMScheduler)
    assert torch.equal(SD.run(pipe), SD.run(plain))
    pyaccel.restore(pipe)
    assert pipe.scheduler is mine


def test_a_scheduler_made_from_the_fused_ones_configuration():
    pipe = pyaccel.accelerate(SD.pipe())
    pipe.scheduler = diffusers.UniPCMultistepScheduler.from_config(pipe.scheduler.config)
    plain = SD.pipe()
    plain.scheduler = diffusers.UniPCMultistepScheduler.from_config(plain.scheduler.config)
    assert torch.equal(SD.run(pipe), SD.run(plain))
    again = type(pipe.scheduler).from_config(pipe.scheduler.config)
    assert type(again).__name__ == "UniPCMultistepScheduler"


def test_another_pipeline_with_the_same_parts():
    pipe = pyaccel.accelerate(SD.pipe())
    other = diffusers.StableDiffusionImg2ImgPipeline(**pipe.components, requires_safety_checker=False)
    other.set_progress_bar_config(disable=True)
    example = EXAMPLES["stable-diffusion-img2img"]
    assert torch.allclose(example.run(other), example.run(example.pipe()), atol=2e-6)
    with pytest.raises(ValueError, match="Another pipeline may share its parts"):
        pyaccel.restore(other)
    pyaccel.restore(pipe)


def test_a_pipeline_of_ones_own():
    class Mine:
        def __init__(self, model, scheduler):
            self.model, self.scheduler = model, scheduler

    scheduler = discrete(diffusers.EulerDiscreteScheduler)
    pipe = Mine(models.UNet(), scheduler)
    pyaccel.accelerate(pipe)
    assert isinstance(pipe.scheduler, diffusers.EulerDiscreteScheduler)
    assert pipe.scheduler is not scheduler
    pyaccel.restore(pipe)
    assert pipe.scheduler is scheduler
    assert set(vars(pipe)) == {"model", "scheduler"}


@speeds
def test_nothing_is_kept_alive(options):
    pipe = pyaccel.accelerate(SD.pipe(), **options)
    SD.run(pipe)
    references = [weakref.ref(thing) for thing in (pipe, pipe.unet, pipe.scheduler)]
    del pipe
    gc.collect()
    assert [r() for r in references] == [None] * 3


@speeds
def test_a_model_taken_out_keeps_nothing_but_itself(options):
    pipe = pyaccel.accelerate(SD.pipe(), **options)
    SD.run(pipe)
    unet, reference = pipe.unet, weakref.ref(pipe.vae)
    del pipe
    gc.collect()
    assert reference() is None
    assert unet(torch.ones(1, 4, 8, 8), 1, torch.ones(1, 6, 16)).sample.isfinite().all()


@speeds
def test_a_failure_at_the_last_moment_leaves_nothing_patched(options):
    class Sealed:
        def __init__(self):
            self.components = SD.pipe().components

        @property
        def scheduler(self):
            return self.components["scheduler"]

    pipe = Sealed()
    with pytest.raises(AttributeError):
        pyaccel.accelerate(pipe, **options)
    assert set(vars(pipe)) == {"components"}
    assert not [m for m in pipe.components["unet"].modules() if "forward" in vars(m)]


def test_the_summary_is_a_table_of_plain_text():
    pipe = pyaccel.accelerate(SD.pipe())
    SD.run(pipe)
    summary = pyaccel.summary(pipe)
    lines = str(summary).splitlines()
    assert lines[0] == "StableDiffusionPipeline, accelerated"
    assert lines[-1].split(None, 1)[0] == "scheduler"
    assert "DPMSolverMultistepScheduler, fused" in lines[-1]
    assert "6 fused steps" in lines[-1]
    assert "\x1b" not in str(summary)
    assert max(map(len, lines)) <= 120
    assert summary.rows[0].part == "scheduler"


def test_modular_pipelines():
    from diffusers.modular_pipelines.flux import FluxAutoBlocks

    example, blocks = EXAMPLES["flux"], FluxAutoBlocks()
    del blocks.sub_blocks["text_encoder"]
    pipe, parts = blocks.init_pipeline(), example.pipe().components
    pipe.update_components(**{name: parts[name] for name in ("transformer", "vae", "scheduler")})
    arguments = {name: value for name, value in example.arguments().items() if "negative" not in name}
    del arguments["true_cfg_scale"]

    def run():
        return pipe(**arguments, generator=torch.Generator().manual_seed(0), output="images")

    plain = run()
    pyaccel.accelerate(pipe)
    assert torch.allclose(run(), plain, atol=2e-6)
    assert "6 fused steps" in str(pyaccel.summary(pipe))
    pyaccel.restore(pipe)
    assert torch.equal(run(), plain)
    assert pipe.scheduler is parts["scheduler"]
