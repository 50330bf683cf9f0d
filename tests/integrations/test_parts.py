"""Denoisers and schedulers are recognised among all the parts that pipelines of diffusers have."""

import inspect

import diffusers
import pytest
import torch
from diffusers.models import autoencoders, controlnets, transformers, unets
from torch import nn

from pyaccel.integrations import parts

from .pipelines import EXAMPLES, controlnet, stable_diffusion_parts, unet


def classes(package):
    """The classes of models in a package of diffusers."""
    found = [value for value in vars(package).values() if isinstance(value, type) and issubclass(value, nn.Module)]
    return [value for value in found if "Model" in value.__name__ or "UNet" in value.__name__]


def names_of(model_class):
    # Only the class is asked, so there is no need for a model.
    return parts.parameters_of(object.__new__(model_class))


# Not told a time: an encoder of steps of motion, discrete tokens, a decoder of audio codes, several sets of latents
# each with a time of its own.
TIMELESS = {"MotionAdapter", "UVit2DModel"}


@pytest.mark.parametrize("package", [transformers, unets], ids=["transformers", "unets"])
def test_denoisers_of_diffusers_take_a_time(package):
    found = [c for c in classes(package) if c.__name__ not in TIMELESS]
    assert len(found) >= 8
    without = {c.__name__ for c in found if not names_of(c) & parts.TIMES}
    assert without <= {"MiniMaxMusic3RVQDepthDecoder"}


def test_control_networks_give_themselves_away():
    single = [c for c in classes(controlnets) if "Multi" not in c.__name__ and "ControlNet" in c.__name__]
    assert len(single) >= 8
    for c in single:
        told = names_of(c)
        assert not told & parts.TIMES or "conditioning_scale" in told, c
        assert "Embedding" in c.__name__ or "conditioning_scale" in told or "Adapter" in c.__name__, c


def test_autoencoders_take_no_time():
    for c in classes(autoencoders):
        assert not names_of(c) & parts.TIMES, c


@pytest.mark.parametrize("example", EXAMPLES.values(), ids=EXAMPLES)
def test_denoisers_of_pipelines(example):
    pipe = example.pipe()
    assert tuple(parts.denoisers(pipe)) == example.denoisers
    assert parts.schedulers(pipe) == {"scheduler": pipe.scheduler}
    assert parts.is_pipeline(pipe)


def test_what_is_in_wrappers():
    pipe = EXAMPLES["sd3"].pipe()
    model = pipe.transformer
    pipe.transformer = torch.compile(model)
    assert parts.denoisers(pipe) == {"transformer": model}
    assert parts.unwrapped(nn.DataParallel(model)) is model


def test_peft_models_are_unwrapped():
    from peft import LoraConfig, get_peft_model

    pipe = EXAMPLES["sd3"].pipe()
    model = pipe.transformer
    assert parts.unwrapped(get_peft_model(model, LoraConfig(target_modules=["to_q"]))) is model


def test_a_control_network_and_unet_in_one():
    pieces = stable_diffusion_parts(unet=unet(layers_per_block=2))
    adapter = diffusers.ControlNetXSAdapter.from_unet(pieces["unet"], size_ratio=1.0, learn_time_embedding=True)
    pipe = diffusers.StableDiffusionControlNetXSPipeline(
        **pieces | {"controlnet": adapter}, requires_safety_checker=False
    )
    assert list(parts.denoisers(pipe)) == ["unet"]


def test_hooks_on_forward_do_not_hide_a_denoiser():
    from accelerate.hooks import ModelHook, add_hook_to_module

    pipe = EXAMPLES["sd3"].pipe()
    add_hook_to_module(pipe.transformer, ModelHook())
    pipe.transformer.forward = lambda *args, **kwargs: None
    assert list(parts.denoisers(pipe)) == ["transformer"]


def test_things_without_parts():
    for thing in (None, 3, [], torch.ones(1), nn.Linear(2, 2), diffusers.DDIMScheduler()):
        assert not parts.is_pipeline(thing)
        assert parts.denoisers(thing) == {}


def test_signatures_are_those_of_the_class():
    assert "timestep" in parts.parameters_of(controlnet().unet)
    assert "timestep" in inspect.signature(diffusers.UNet2DConditionModel.forward).parameters
