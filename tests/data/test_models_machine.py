"""All data models of one canister in one machine; `models_script` says what it does, and runs it for longer."""

from __future__ import annotations

import pytest
from models_script import ModelsMachine, settings_of

pytestmark = pytest.mark.slow
ModelsMachine.TestCase.settings = settings_of(3, 25)
test_all_models_against_their_oracles = ModelsMachine.TestCase
