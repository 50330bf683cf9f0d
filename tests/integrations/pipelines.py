"""Pipelines of diffusers from tiny configs with random weights: no download, no text encoders, a call in half a second.

Each :class:`Example` builds its pipeline anew, always with the same weights, and says how it is called.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import diffusers
import torch

TEXT = 16  # width of the embeddings of a prompt
TOKENS = 6


@dataclass(frozen=True)
class Example:
    """A pipeline: ``build()`` makes it, ``arguments()`` are those of a call but for the generator.

    ``scale`` is the argument that sets the strength of guidance, ``denoisers`` the components that are called in
    the loop.
    """

    name: str
    build: Callable[[], Any]
    arguments: Callable[[], dict]
    scale: str = "guidance_scale"
    denoisers: tuple[str, ...] = ("transformer",)

    def pipe(self):
        """A new pipeline; the weights are the same each time."""
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.manual_seed(0)
            pipe = self.build()
        pipe.set_progress_bar_config(disable=True)
        return pipe

    def run(self, pipe, seed: int = 0, **changes) -> torch.Tensor:
        """One call; the images or latents [B, ...] as a tensor."""
        arguments = self.arguments() | {"generator": torch.Generator().manual_seed(seed)} | changes
        return torch.as_tensor(pipe(**arguments)[0])


def numbers(*shape: int, seed: int) -> torch.Tensor:
    """Always the same normal numbers."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def image(size: int = 16) -> torch.Tensor:
    """An image [1, 3, size, size] in [0, 1]."""
    return numbers(1, 3, size, size, seed=3).sigmoid()


def prompt(pooled: bool = True, negative: bool = True, batch: int = 1) -> dict:
    """The embeddings of a prompt and of a negative prompt."""
    arguments = {"prompt_embeds": numbers(batch, TOKENS, TEXT, seed=1)}
    if pooled:
        arguments["pooled_prompt_embeds"] = numbers(batch, TEXT, seed=2)
    if negative:
        arguments |= {f"negative_{name}": 0.5 - value for name, value in list(arguments.items())}
    return arguments


# -- parts -------------------------------------------------------------------------------------------------------------


def vae(latent_channels: int = 4, **options):
    """An autoencoder that halves height and width."""
    return diffusers.AutoencoderKL(
        block_out_channels=(4, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=latent_channels,
        norm_num_groups=2,
        sample_size=16,
        **options,
    ).eval()


def unet(**options):
    """A U-Net with two levels and cross-attention in the lower one."""
    defaults = {
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "sample_size": 8,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "cross_attention_dim": TEXT,
        "attention_head_dim": 4,
        "norm_num_groups": 4,
    }
    return diffusers.UNet2DConditionModel(**(defaults | options)).eval()


def discrete(scheduler_class, **options):
    """A scheduler with the betas of Stable Diffusion."""
    betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    return scheduler_class(**betas, **options)


def stable_diffusion_parts(**parts) -> dict:
    """The components of Stable Diffusion 1."""
    empty = ("text_encoder", "tokenizer", "safety_checker", "feature_extractor")
    scheduler = discrete(diffusers.DPMSolverMultistepScheduler)
    return {"vae": vae(), "unet": unet(), "scheduler": scheduler, **dict.fromkeys(empty), **parts}


def sdxl_parts() -> dict:
    """The components of SDXL."""
    empty = ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")
    added = {"addition_embed_type": "text_time", "addition_time_embed_dim": 4}
    model = unet(**added, projection_class_embeddings_input_dim=TEXT + 6 * 4, use_linear_projection=True)
    return {
        "vae": vae(force_upcast=False),
        "unet": model,
        "scheduler": discrete(diffusers.EulerDiscreteScheduler),
        "add_watermarker": False,
        **dict.fromkeys(empty),
    }


def sd3_parts() -> dict:
    """The components of Stable Diffusion 3."""
    empty = [f"{kind}{n}" for kind in ("text_encoder", "tokenizer") for n in ("", "_2", "_3")]
    model = diffusers.SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        num_layers=3,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=TEXT,
        caption_projection_dim=16,
        pooled_projection_dim=TEXT,
        out_channels=4,
        pos_embed_max_size=16,
        qk_norm="rms_norm",
    ).eval()
    return {
        "transformer": model,
        "vae": vae(shift_factor=0.1),
        "scheduler": diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        **dict.fromkeys(empty),
    }


def flux_parts() -> dict:
    """The components of FLUX."""
    empty = [f"{kind}{n}" for kind in ("text_encoder", "tokenizer") for n in ("", "_2")]
    model = diffusers.FluxTransformer2DModel(
        in_channels=16,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=TEXT,
        pooled_projection_dim=TEXT,
        axes_dims_rope=(4, 4, 8),
        guidance_embeds=True,
    ).eval()
    return {
        "transformer": model,
        "vae": vae(shift_factor=0.1, use_quant_conv=False, use_post_quant_conv=False),
        "scheduler": diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        **dict.fromkeys(empty),
    }


# -- pipelines ---------------------------------------------------------------------------------------------------------


def pixart():
    model = diffusers.PixArtTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=3,
        norm_num_groups=2,
        cross_attention_dim=16,
        sample_size=8,
        caption_channels=TEXT,
        interpolation_scale=1,
        use_additional_conditions=False,
    ).eval()
    scheduler = diffusers.DPMSolverMultistepScheduler()
    return diffusers.PixArtSigmaPipeline(None, None, vae(), model, scheduler)


def pixart_arguments() -> dict:
    mask = torch.ones(1, TOKENS, dtype=torch.long)
    options = {"use_resolution_binning": False, "negative_prompt": None}
    return (
        size()
        | prompt(pooled=False)
        | options
        | {"prompt_attention_mask": mask, "negative_prompt_attention_mask": mask}
    )


def dit():
    model = diffusers.DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, out_channels=8, num_layers=3, norm_num_groups=2, sample_size=8
    ).eval()
    return diffusers.DiTPipeline(model, vae(), discrete(diffusers.DDIMScheduler, clip_sample=False))


def wan():
    def transformer():
        return diffusers.WanTransformer3DModel(
            num_attention_heads=2,
            attention_head_dim=12,
            in_channels=16,
            out_channels=16,
            text_dim=TEXT,
            freq_dim=16,
            ffn_dim=32,
            num_layers=2,
            rope_max_seq_len=32,
        ).eval()

    autoencoder = diffusers.AutoencoderKLWan(base_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1).eval()
    scheduler = diffusers.UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0, num_train_timesteps=1000
    )
    # Wan 2.2: one transformer for the first half of the steps and another one for the rest
    return diffusers.WanPipeline(None, None, autoencoder, scheduler, transformer(), transformer(), boundary_ratio=0.7)


def controlnet():
    model = diffusers.ControlNetModel(
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        cross_attention_dim=TEXT,
        attention_head_dim=4,
        norm_num_groups=4,
        conditioning_embedding_out_channels=(4, 8),
    ).eval()
    with torch.no_grad():  # these layers are zero where training starts
        for zero in (
            *model.controlnet_down_blocks,
            model.controlnet_mid_block,
            model.controlnet_cond_embedding.conv_out,
        ):
            zero.weight.normal_(0, 0.1)
    parts = stable_diffusion_parts(controlnet=model, scheduler=discrete(diffusers.UniPCMultistepScheduler))
    return diffusers.StableDiffusionControlNetPipeline(**parts, requires_safety_checker=False)


def size(pixels: int = 16, steps: int = 6) -> dict:
    """What nearly all calls have in common."""
    return {"height": pixels, "width": pixels, "num_inference_steps": steps, "output_type": "latent"}


def from_image(arguments: dict, strength: float = 0.7) -> dict:
    """The call with an image to start from, instead of a size; the result is decoded."""
    changed = {name: value for name, value in arguments.items() if name not in ("height", "width")}
    return changed | {"image": image(), "strength": strength, "output_type": "pt"}


def _stable_diffusion(pipeline_class, **parts):
    return lambda: pipeline_class(**stable_diffusion_parts(**parts), requires_safety_checker=False)


def _of(pipeline_class, parts: Callable[[], dict]):
    return lambda: pipeline_class(**parts())


UNET = ("unet",)
EXAMPLES = {
    example.name: example
    for example in (
        Example(
            "stable-diffusion",
            _stable_diffusion(diffusers.StableDiffusionPipeline),
            lambda: size() | prompt(pooled=False) | {"output_type": "pt"},
            denoisers=UNET,
        ),
        Example(
            "stable-diffusion-img2img",
            _stable_diffusion(diffusers.StableDiffusionImg2ImgPipeline),
            lambda: from_image(size() | prompt(pooled=False)),
            denoisers=UNET,
        ),
        Example(
            "sdxl", _of(diffusers.StableDiffusionXLPipeline, sdxl_parts), lambda: size() | prompt(), denoisers=UNET
        ),
        Example(
            "sdxl-img2img",
            _of(diffusers.StableDiffusionXLImg2ImgPipeline, sdxl_parts),
            lambda: from_image(size() | prompt()),
            denoisers=UNET,
        ),
        Example("sd3", _of(diffusers.StableDiffusion3Pipeline, sd3_parts), lambda: size() | prompt()),
        Example(
            "sd3-img2img",
            _of(diffusers.StableDiffusion3Img2ImgPipeline, sd3_parts),
            lambda: from_image(size() | prompt()) | {"height": 16, "width": 16},
        ),
        Example(
            "flux",
            _of(diffusers.FluxPipeline, flux_parts),
            lambda: size() | prompt() | {"true_cfg_scale": 3.0},
            scale="true_cfg_scale",
        ),
        Example(
            "flux-img2img",
            _of(diffusers.FluxImg2ImgPipeline, flux_parts),
            lambda: from_image(size() | prompt()) | {"true_cfg_scale": 3.0, "height": 16, "width": 16},
            scale="true_cfg_scale",
        ),
        Example("pixart-sigma", pixart, pixart_arguments),
        Example("dit", dit, lambda: {"class_labels": [1, 3], "num_inference_steps": 6, "output_type": "np"}),
        Example(
            "wan",
            wan,
            lambda: size(32) | prompt(pooled=False) | {"num_frames": 5},
            denoisers=("transformer", "transformer_2"),
        ),
        Example(
            "controlnet",
            controlnet,
            lambda: size() | prompt(pooled=False) | {"image": image()},
            denoisers=UNET,
        ),
    )
}
