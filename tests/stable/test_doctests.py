"""The examples in the docstrings run."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import perdure.stable

MODULES = [
    "perdure.stable",
    *(f"perdure.stable.{module.name}" for module in pkgutil.iter_modules(perdure.stable.__path__)),
]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0
