"""The network of a pipeline as a Denoiser, and LCM and LCM-LoRA students of it."""

import types

import diffusers
import pytest
import torch

from pyaccel import solvers
from pyaccel.distill import LCM
from pyaccel.distill.lora import lora_tensors, save_lora
from pyaccel.integrations.diffusers import PlanScheduler, denoiser_of
from pyaccel.training.optimizers import Optimizer
from pyaccel.training.trainer import Trainer
from pyaccel.training.trainer_config import TrainerConfig

from .pipelines import EXAMPLES, TEXT, TOKENS, numbers

NAMES = ["stable-diffusion", "sdxl", "sd3"]


def conditioning(name: str, count: int) -> dict[str, torch.Tensor]:
    """What the network of the pipeline is given beside x and t."""
    embeds = {"encoder_hidden_states": numbers(count, TOKENS, TEXT, seed=1)}
    if name == "sdxl":
        sizes = torch.tensor([[16.0, 16, 0, 0, 16, 16]]).expand(count, -1)
        embeds |= {"text_embeds": numbers(count, TEXT, seed=2), "time_ids": sizes}
    if name == "sd3":
        embeds |= {"pooled_projections": numbers(count, TEXT, seed=2)}
    return embeds


@pytest.mark.parametrize("name", NAMES)
def test_a_plan_samples_the_network_as_the_pipeline_does(name):
    pipe = EXAMPLES[name].pipe()
    denoiser = denoiser_of(pipe)
    plan = solvers.euler(denoiser.schedule, 3, prediction=denoiser.prediction)
    noise = numbers(2, 4, 8, 8, seed=5)
    found = plan.sample(denoiser, noise, **conditioning(name, 2))
    scheduler = PlanScheduler(plan)
    scheduler.set_timesteps(3)
    x = noise * scheduler.init_noise_sigma
    arguments = conditioning(name, 2)
    added = {key: arguments.pop(key) for key in ("text_embeds", "time_ids") if key in arguments}
    if added:
        arguments["added_cond_kwargs"] = added
    network = pipe.transformer if name == "sd3" else pipe.unet
    with torch.no_grad():
        for t in scheduler.timesteps:
            told = t.expand(2)
            output = network(scheduler.scale_model_input(x, t), timestep=told, **arguments, return_dict=False)[0]
            x = scheduler.step(output, t, x, return_dict=False)[0]
    torch.testing.assert_close(found, x, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", [*NAMES, "flux", "pixart-sigma", "dit"])
def test_the_network_is_called_as_by_its_pipeline(name):
    """It is told the time and the guidance that the pipeline's own loop passes, and a second half is split off."""
    pipe = EXAMPLES[name].pipe()
    denoiser, calls = denoiser_of(pipe), []
    denoiser.model.network.register_forward_hook(
        lambda _, args, kwargs, output: calls.append((args, kwargs, output[0])), with_kwargs=True
    )
    EXAMPLES[name].run(pipe)
    args, arguments, output = calls[2]
    given = {**arguments, **(arguments.get("added_cond_kwargs") or {})}
    x = args[0] if args else given.pop("hidden_states")
    told = args[1] if len(args) > 1 else given.pop("timestep")
    given = {key: value for key, value in given.items() if not (key.endswith("kwargs") or key == "return_dict")}
    given = {key: value for key, value in given.items() if value is not None}
    step = 1 if name == "flux" else 2  # Flux makes a second call in each step, for the negative prompt
    t = pipe.scheduler.timesteps[step].float().expand(len(x)) / (1000 if denoiser.schedule.name == "flow" else 1)
    with torch.no_grad():
        found = denoiser(x, t, **given)
    torch.testing.assert_close(calls[-1][1]["timestep"].float(), told.float().expand(len(x)))
    torch.testing.assert_close(found, output[:, : x.shape[1]], rtol=1e-4, atol=1e-5)
    if name == "flux":
        with torch.no_grad():
            denoiser(x, t, **{key: value for key, value in given.items() if key != "guidance"})
        assert calls[-1][1]["guidance"].eq(1).all()  # when nothing is said
        before = denoiser.model.state_dict().keys()
        denoiser.model.add_guidance()  # it has a place for it
        assert denoiser.model.state_dict().keys() == before


HEADS = {"num_attention_heads": 2, "attention_head_dim": 16}
STREAMS = {"in_channels": 16, "num_layers": 1, "num_single_layers": 1, "joint_attention_dim": TEXT, **HEADS}
TOLD = {  # of classes without an example: how a tiny one is made, and what its embedding of the time is told at 0.5
    "ChromaTransformer2DModel": (
        {**STREAMS, "axes_dims_rope": (4, 4, 8), "approximator_num_channels": 8, "approximator_hidden_dim": 16}, 500.0
    ),
    "Flux2Transformer2DModel": ({**STREAMS, "axes_dims_rope": (4,) * 4, "timestep_guidance_channels": 16}, 500.0),
    "LongCatImageTransformer2DModel": (
        {**STREAMS, "axes_dims_rope": [4, 4, 8], "pooled_projection_dim": TEXT}, 500.0
    ),
    "SanaTransformer2DModel": (
        {
            "in_channels": 4, "out_channels": 4, "num_layers": 1, **HEADS, "cross_attention_dim": 32,
            "num_cross_attention_heads": 2, "cross_attention_head_dim": 16, "caption_channels": TEXT, "sample_size": 8,
            "patch_size": 1, "timestep_scale": 0.5,
        },
        250.0,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TOLD)
def test_the_time_that_a_network_embeds(name):
    options, expected = TOLD[name]
    network = getattr(diffusers, name)(**options).eval()
    pipe = types.SimpleNamespace(scheduler=diffusers.FlowMatchEulerDiscreteScheduler(), transformer=network)
    given = {"encoder_hidden_states": numbers(2, TOKENS, TEXT, seed=1)}
    x = numbers(2, 4, 8, 8, seed=2)
    if name != "SanaTransformer2DModel":
        x, axes = numbers(2, 16, 16, seed=2), len(options["axes_dims_rope"])
        given |= {"img_ids": torch.zeros(16, axes), "txt_ids": torch.zeros(TOKENS, axes)}
    if name == "ChromaTransformer2DModel":
        given["attention_mask"] = torch.ones(2, 16 + TOKENS, dtype=torch.bool)
    told = []
    for module in network.modules():
        if type(module).__name__ in ("Timesteps", "ChromaCombinedTimestepTextProjEmbeddings"):
            module.register_forward_pre_hook(lambda _, args: told.append(args[0]))
    with torch.no_grad():
        assert denoiser_of(pipe)(x, torch.full((2,), 0.5), **given).shape == x.shape
    torch.testing.assert_close(told[0], torch.full((2,), expected))


class Latents:
    """Random latents with random prompts."""

    shape, can_flip = (4, 8, 8), False

    def __init__(self, name: str):
        self.x, self.arguments = numbers(16, 4, 8, 8, seed=7), conditioning(name, 16)

    def __len__(self):
        return 16

    def at(self, index, flip=None):
        return self.x[index], {key: value[index] for key, value in self.arguments.items()}


def teacher_of(name: str, pipe):
    without = {key: torch.zeros_like(value[:1]) for key, value in conditioning(name, 1).items() if key != "time_ids"}
    return denoiser_of(pipe, unconditional=without)


@pytest.mark.parametrize("name", NAMES)
def test_lcm_lora(name, tmp_path):
    """The adapters that a pipeline loads make its network the student."""
    pipe = EXAMPLES[name].pipe()
    recipe = LCM(Optimizer(1e-2, "adam"), lora_rank=2)
    made = recipe.networks(teacher_of(name, pipe))
    assert set(made) == {"student", "teacher"}
    config = TrainerConfig(4, 4, ema=(0.5,), bf16=False, flip=False)
    trainer = Trainer(recipe, made, Latents(name), config, tmp_path)
    trainer.fit(progress=False)
    student = trainer.denoiser()
    part = "transformer" if name == "sd3" else "unet"
    assert all(key.startswith(f"{part}.") for key in lora_tensors(student))

    other = EXAMPLES[name].pipe()
    plain, x, t = denoiser_of(other), numbers(3, 4, 8, 8, seed=8), torch.tensor([0.3, 0.7, 1.0])
    given = conditioning(name, 3)
    with torch.no_grad():
        right, before = student(x, t, **given), plain(x, t, **given)
        other.load_lora_weights(save_lora(student, tmp_path / "lora").parent)
        torch.testing.assert_close(plain(x, t, **given), right, rtol=1e-4, atol=1e-5)
    assert float((right - before).abs().max()) > 1e-3
    images = EXAMPLES[name].run(other)
    assert torch.isfinite(images).all()


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_teacher_of_16_bits(dtype, bf16, tmp_path):
    """As most pipelines are loaded; latents and prompts are in float32."""
    pipe = EXAMPLES["sdxl"].pipe()
    exact = teacher_of("sdxl", pipe)
    pipe = EXAMPLES["sdxl"].pipe()
    pipe.unet.to(dtype)
    recipe = LCM(Optimizer(1e-2, "adam"), lora_rank=2)
    made = recipe.networks(teacher_of("sdxl", pipe))
    x, t, given = numbers(3, 4, 8, 8, seed=8), torch.tensor([20.0, 300.0, 999.0]), conditioning("sdxl", 3)
    with torch.no_grad():
        right, found = exact(x, t, **given), made["teacher"](x, t, **given)
    assert found.dtype == torch.float32
    assert float((found - right).norm() / right.norm()) < 0.03
    Trainer(recipe, made, Latents("sdxl"), TrainerConfig(1, 4, ema=(0.5,), bf16=bf16, flip=False), tmp_path).fit(
        progress=False
    )


def test_lcm_of_all_weights_is_told_the_guidance(tmp_path):
    """In the place that LCM's U-Nets have, so that the pipeline of diffusers tells it."""
    pipe = EXAMPLES["stable-diffusion"].pipe()
    recipe = LCM(Optimizer(1e-2, "adam"))
    trainer = Trainer(
        recipe, recipe.networks(teacher_of("stable-diffusion", pipe)), Latents("stable-diffusion"),
        TrainerConfig(3, 4, ema=(0.5,), bf16=False, flip=False), tmp_path,
    )  # fmt: skip
    trainer.fit(progress=False)
    student = trainer.denoiser()
    assert student.model.unet.time_embedding.cond_proj.weight.any()
    student.model.unet.save_pretrained(tmp_path / "unet")
    unet = diffusers.UNet2DConditionModel.from_pretrained(tmp_path / "unet")
    assert unet.config.time_cond_proj_dim == 256
    x, t = numbers(3, 4, 8, 8, seed=8), torch.tensor([20.0, 300.0, 999.0])
    given, guidance = conditioning("stable-diffusion", 3), torch.tensor([1.0, 4.0, 8.5])
    embedded = pipe.get_guidance_scale_embedding(guidance - 1, embedding_dim=256)
    with torch.no_grad():
        right = unet(x, t, **given, timestep_cond=embedded, return_dict=False)[0]
        torch.testing.assert_close(student(x, t, guidance=guidance, **given), right, rtol=1e-4, atol=1e-5)
        assert float((student(x, t, **given) - right)[0].abs().max()) < 1e-5  # without, it is 1
        assert float((student(x, t, **given) - right)[2].abs().max()) > 1e-3


def test_errors():
    sd3 = denoiser_of(EXAMPLES["sd3"].pipe())
    with pytest.raises(ValueError, match="SD3Transformer2DModel has no place for the guidance"):
        sd3.model.add_guidance()
    with pytest.raises(ValueError, match="SD3Transformer2DModel is not told the guidance"):
        sd3.model(numbers(1, 4, 8, 8, seed=0), torch.ones(1), guidance=torch.ones(1), **conditioning("sd3", 1))
    with pytest.raises(ValueError, match="has no adapters"):
        lora_tensors(sd3)

    class Unknown(torch.nn.Module):
        def forward(self, x, timestep):
            return x

    scheduler = EXAMPLES["sd3"].pipe().scheduler
    with pytest.raises(ValueError, match=r"how Unknown is told the time is not known, .*make a Denoiser"):
        denoiser_of(types.SimpleNamespace(scheduler=scheduler, transformer=Unknown()))
    with pytest.raises(ValueError, match="no network that is told the time"):
        denoiser_of(types.SimpleNamespace(scheduler=EXAMPLES["sd3"].pipe().scheduler))
