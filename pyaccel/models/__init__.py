"""Small networks of our own, so that everything works without a download."""

from .classifier import Classifier
from .dit import DiT
from .unet import UNet

ARCHITECTURES = {"DiT": DiT, "UNet": UNet, "Classifier": Classifier}

__all__ = ["ARCHITECTURES", "Classifier", "DiT", "UNet"]
