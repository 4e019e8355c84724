"""The libraries of the ``signatures`` extra, imported when first used."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from perdure.errors import HostError

__all__ = ["is_installed", "library"]


@cache
def is_installed(name: str) -> bool:
    """Whether there is such a library here."""
    return find_spec(name) is not None


@cache
def library(name: str) -> Any:
    """A library.

    Raises:
        HostError: it is not installed. That is no answer to a canister, which would depend on the machine then.
    """
    try:
        return import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        words = f"threshold keys need {package}, of the extra signatures: pip install 'perdure[signatures]'"
        raise HostError(words) from error
