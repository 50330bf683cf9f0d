"""pyaccel makes existing diffusion models sample faster: fewer steps, cheaper steps, few-step students.

``accelerate(pipe)`` does it for a pipeline of diffusers or a model in one line, and ``restore`` takes it back.
``solvers`` turn a noise schedule into a Plan, ``caching`` makes its model calls cheaper, a ``Denoiser`` says what a
model predicts, ``zoo`` holds small trained models, and ``ops`` is the engine under all of them.
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("pyaccel-diffusion")
except PackageNotFoundError:  # run from a source tree that was never installed
    __version__ = "0+unknown"

_MODULES = (
    "caching",
    "denoiser",
    "evaluation",
    "integrations",
    "models",
    "ops",
    "predictions",
    "schedules",
    "solvers",
    "time_grids",
    "training",
    "zoo",
)

_FUNCTIONS = ("accelerate", "restore", "summary")

__all__ = ["Denoiser", "__version__", *_FUNCTIONS, *_MODULES]


def __getattr__(name: str):
    # Loaded when first used: the command line answers --help without waiting for torch.
    if name in _MODULES:
        return import_module(f"{__name__}.{name}")
    if name in _FUNCTIONS:
        return getattr(import_module(f"{__name__}.integrations.accelerate"), name)
    if name == "Denoiser":
        return import_module(f"{__name__}.denoiser").Denoiser
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
