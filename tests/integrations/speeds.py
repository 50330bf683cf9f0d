"""The two ways to accelerate that the tests of other tools go through."""

import pytest

from pyaccel import caching

CACHED = {"cache": "taylorseer", "interval": 2, "order": 1, "warmup": 1}
_skip = pytest.mark.skipif(not hasattr(caching.Cache, "attach"), reason="caches do not attach to pipelines yet")

speeds = pytest.mark.parametrize("options", [{}, pytest.param(CACHED, marks=_skip)], ids=["fused", "cached"])
needs_caches = _skip
