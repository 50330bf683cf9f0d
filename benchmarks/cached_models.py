"""The models of the caching benchmarks, with random weights, and runs of them."""

import diffusers
import torch

from pyaccel.denoiser import Run, StepContext, announce


def flux():
    torch.manual_seed(0)
    model = diffusers.FluxTransformer2DModel(
        in_channels=64, num_layers=4, num_single_layers=8, attention_head_dim=64, num_attention_heads=8,
        joint_attention_dim=256, pooled_projection_dim=256, axes_dims_rope=(16, 24, 24),
    )  # fmt: skip
    return model.eval().requires_grad_(False)


def flux_inputs(t):
    text, image = 64, 1024
    return {
        "hidden_states": torch.randn(1, image, 64, generator=torch.Generator().manual_seed(0)) * t,
        "encoder_hidden_states": torch.randn(1, text, 256, generator=torch.Generator().manual_seed(1)),
        "pooled_projections": torch.randn(1, 256, generator=torch.Generator().manual_seed(2)),
        "timestep": torch.tensor([t]),
        "img_ids": torch.zeros(image, 3),
        "txt_ids": torch.zeros(text, 3),
        "return_dict": False,
    }


class FluxRun:
    """A run of ``steps`` calls of a model: ``run(i)`` does step i, announced; step 0 begins a new run."""

    def __init__(self, model, steps):
        self.model, self.run, self.steps = model, Run(), steps
        self.inputs = [flux_inputs(1 - i / steps) for i in range(steps)]

    def __call__(self, i):
        if i == 0:
            self.run = Run()
        with announce(StepContext(self.run, i, self.steps, 1 - i / self.steps)):
            self.model(**self.inputs[i])


def unet():
    """Stable Diffusion's U-Net at a quarter of its width, whose channels half as many groups divide."""
    torch.manual_seed(0)
    model = diffusers.UNet2DConditionModel(
        block_out_channels=(80, 160, 320, 320), attention_head_dim=8, cross_attention_dim=192, norm_num_groups=16
    )
    return model.eval().requires_grad_(False)
