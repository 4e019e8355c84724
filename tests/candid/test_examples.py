"""The examples in docstrings run."""

import doctest
import importlib

import pytest


@pytest.mark.parametrize("name", ["codec", "did", "into", "printing", "service", "text", "types"])
def test_examples_in_docstrings(name):
    result = doctest.testmod(importlib.import_module(f"perdure.candid.{name}"))
    assert result.attempted > 0
    assert result.failed == 0
