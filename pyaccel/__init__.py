"""pyaccel makes existing diffusion models sample faster: fewer steps, cheaper steps, few-step students."""

from importlib.metadata import version

import torch  # noqa: F401 - before the native module, so that torch's OpenMP runtime is the one in use

__version__ = version("pyaccel-diffusion")
