"""The network of a pipeline as a Denoiser: to be sampled by any Plan, and to be a teacher of students."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ...denoiser import Denoiser
from ..parts import denoisers
from .schedules import prediction_of, schedule_of

# What U-Nets and PixArt take in one dictionary, added_cond_kwargs.
_ADDED = ("text_embeds", "time_ids", "image_embeds", "resolution", "aspect_ratio")
# What their pipelines' loops multiply the scheduler's timestep by, up to its number of training steps, for each class.
_TOLD = dict.fromkeys(
    (
        "UNet2DModel", "UNet2DConditionModel", "UNet3DConditionModel", "DiTTransformer2DModel",
        "PixArtTransformer2DModel", "SD3Transformer2DModel", "WanTransformer3DModel", "SanaTransformer2DModel",
    ),
    1.0,
) | dict.fromkeys(
    (
        "FluxTransformer2DModel", "Flux2Transformer2DModel", "ChromaTransformer2DModel",
        "LongCatImageTransformer2DModel", "OvisImageTransformer2DModel", "QwenImageTransformer2DModel",
        "AuraFlowTransformer2DModel",
    ),
    1e-3,
)  # fmt: skip


class PipelineNetwork(nn.Module):
    """``forward(x, t, **conditioning)`` of a pipeline's U-Net or transformer; its part of the pipeline keeps its name.

    The conditioning is by the names of the network's own arguments (``encoder_hidden_states``,
    ``pooled_projections``); of a U-Net's ``added_cond_kwargs`` each on its own (``text_embeds``, ``time_ids``).
    The network is told t times ``steps``. ``guidance`` [B] is for networks that are told one, 1 by default.
    """

    def __init__(self, part: str, network: nn.Module, steps: float = 1.0):
        super().__init__()
        self.part, self.steps = part, steps
        self.add_module(part, network)

    @property
    def network(self) -> nn.Module:
        """The network itself."""
        return getattr(self, self.part)

    def add_guidance(self) -> None:
        """Makes a U-Net take ``guidance`` [B] as LCM's do (time_cond_proj_dim); its output stays as it is.

        So does a network that is told one already (``guidance_embeds``). ValueError for networks that have no place.
        """
        network = self.network
        if network.config.get("guidance_embeds"):
            return
        embedding = getattr(network, "time_embedding", None)
        if not hasattr(embedding, "cond_proj"):
            raise ValueError(
                f"{type(network).__name__} has no place for the guidance: take least_guidance=most_guidance, or LoRA"
            )
        if embedding.cond_proj is None:
            like = embedding.linear_1.weight
            embedding.cond_proj = nn.Linear(256, embedding.linear_1.in_features, bias=False).to(like.device, like.dtype)
            nn.init.zeros_(embedding.cond_proj.weight)
            network.register_to_config(time_cond_proj_dim=256)

    def forward(self, x: Tensor, t: Tensor, guidance: Tensor | None = None, **conditioning) -> Tensor:
        network = self.network
        width = network.config.get("time_cond_proj_dim")
        if width:
            from diffusers.models.embeddings import get_timestep_embedding

            beyond = torch.zeros_like(t) if guidance is None else guidance - 1
            conditioning["timestep_cond"] = get_timestep_embedding(1000 * beyond, width).to(x.dtype)
        elif network.config.get("guidance_embeds"):
            conditioning["guidance"] = torch.ones_like(t) if guidance is None else guidance
        elif guidance is not None:
            raise ValueError(f"{type(network).__name__} is not told the guidance")
        added = {name: conditioning.pop(name) for name in _ADDED if name in conditioning}
        if added:
            conditioning["added_cond_kwargs"] = added
        return network(x, timestep=self.steps * t, return_dict=False, **conditioning)[0]


def denoiser_of(pipe: Any, guidance: float = 1.0, unconditional: dict[str, Any] | None = None) -> Denoiser:
    """The U-Net or transformer of a pipeline as a :class:`pyaccel.Denoiser`, with the schedule of its scheduler.

    Args:
        pipe: a pipeline of diffusers with one network that is told the time.
        guidance: the weight of classifier-free guidance.
        unconditional: for arguments of :class:`PipelineNetwork` their value without condition, such as
            ``{"encoder_hidden_states": the embeddings of an empty prompt}`` of shape [1, tokens, width].

    ValueError for a pipeline with several networks or none, and for a network of a class whose times are not known.
    """
    found = denoisers(pipe)
    if len(found) != 1:
        raise ValueError(
            f"{type(pipe).__name__} has {', '.join(found) or 'no network that is told the time'}: need one"
        )
    ((part, network),) = found.items()
    schedule = schedule_of(pipe.scheduler)
    steps = _factor(network) * (pipe.scheduler.config.num_train_timesteps if schedule.name == "flow" else 1.0)
    channels, out = (network.config.get(name) for name in ("in_channels", "out_channels"))
    return Denoiser(
        PipelineNetwork(part, network, steps), schedule, prediction_of(pipe.scheduler), guidance, unconditional or {},
        learned_variance=bool(channels and out == 2 * channels),
    )  # fmt: skip


def _factor(network: nn.Module) -> float:
    """What the scheduler's timestep is multiplied by for this network; ValueError where that is not known."""
    for kind in type(network).__mro__:
        if kind.__name__ in _TOLD:
            return _TOLD[kind.__name__] * network.config.get("timestep_scale", 1.0)  # Sana has one
    raise ValueError(
        f"how {type(network).__name__} is told the time is not known, only for {', '.join(_TOLD)}; for another make a "
        "Denoiser(model, schedule_of(pipe.scheduler), prediction_of(pipe.scheduler)) with model(x, t, **conditioning) "
        "a torch.nn.Module that calls the network as its pipeline does: t is the scheduler's timestep, of flows "
        "divided by num_train_timesteps"
    )
