"""The samplers of k-diffusion without the dozens of packages that it asks for and its samplers do not need.

``pip install --no-deps k-diffusion`` is enough; ``make test`` and ``make bench`` do that.
"""

from __future__ import annotations

import importlib.util
import sys
import types


def sampling() -> types.ModuleType | None:
    """k_diffusion/sampling.py by itself, with empty modules for what only its other functions need; None if absent."""
    spec = importlib.util.find_spec("k_diffusion")
    if spec is None or importlib.util.find_spec("scipy") is None:  # its LMS integrates with scipy
        return None
    folder = spec.submodule_search_locations[0]
    names = {"torchdiffeq": ["odeint"], "torchsde": [], "k_diffusion_alone": [], "k_diffusion_alone.utils": []}
    before = {name: sys.modules.get(name) for name in names}
    try:
        for name, members in names.items():
            sys.modules[name] = types.ModuleType(name)
            for member in members:
                setattr(sys.modules[name], member, None)
        sys.modules["k_diffusion_alone"].utils = sys.modules["k_diffusion_alone.utils"]
        sys.modules["k_diffusion_alone.utils"].append_dims = lambda x, n: x[(...,) + (None,) * (n - x.ndim)]
        spec = importlib.util.spec_from_file_location("k_diffusion_alone.sampling", f"{folder}/sampling.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        for name, module_before in before.items():
            sys.modules.pop(name)
            if module_before is not None:
                sys.modules[name] = module_before
    return module
