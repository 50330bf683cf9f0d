"""Networks this small are slower on two cores than on one: the fixture of the tests of pipelines, here too."""

from ..integrations.conftest import _one_core  # noqa: F401
