"""The same as `perdure.values.annotations`, where it is now."""

from perdure.values.annotations import *  # noqa: F403
from perdure.values.annotations import __all__ as __all__
