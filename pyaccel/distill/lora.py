"""Low-rank adapters by ``peft`` (Hu et al. 2021, arXiv 2106.09685): a student that is its teacher and a few numbers."""

from __future__ import annotations

import os
from pathlib import Path

from torch import Tensor, nn

from ..training.checkpoints import save_tensors
from ..training.recipe import Network, module_of

FILE = "pytorch_lora_weights.safetensors"
# Those of LCM-LoRA (Luo et al. 2023, arXiv 2311.05556): attention, feed-forward layers and ResNets of diffusers.
LAYERS = (
    "to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2", "conv1", "conv2",
    "conv_shortcut", "downsamplers.0.conv", "upsamplers.0.conv", "time_emb_proj",
)  # fmt: skip


def add_lora(network: nn.Module, rank: int, layers: tuple[str, ...] = LAYERS) -> None:
    """Puts adapters of this rank on all layers whose names end so; they alone are trained, and do nothing at first.

    ValueError where ``peft`` is not installed, or no layer has such a name.
    """
    peft = _peft()
    config = peft.LoraConfig(r=rank, lora_alpha=rank, target_modules=list(layers))
    try:
        peft.inject_adapter_in_model(config, network)
    except ValueError as error:
        raise ValueError(
            f"{type(network).__name__} has no layers for LoRA whose names end in {', '.join(layers)}: say lora_layers"
        ) from error


def lora_tensors(network: Network) -> dict[str, Tensor]:
    """The adapters' weights by their names in diffusers; ValueError where there are none."""
    module = module_of(network)
    if not hasattr(module, "peft_config"):
        raise ValueError(f"{type(module).__name__} has no adapters: train it with lora_rank above 0")
    tensors = _peft().get_peft_model_state_dict(module)
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def save_lora(network: Network, folder: str | os.PathLike) -> Path:
    """Writes the adapters of a pipeline's network for ``pipe.load_lora_weights(folder)``; returns the file."""
    path = Path(folder) / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    save_tensors(path, lora_tensors(network), {"format": "pt"})
    return path


def _peft():
    try:
        import peft
    except ImportError:
        raise ValueError("LoRA needs the package peft: pip install 'pyaccel-diffusion[lora]'") from None
    return peft
