"""Module to Module: validate, meter, link the native System API."""

from perdure.instrument.costs import SCHEDULES, PageCharges
from perdure.instrument.link import Instrumented, Options, SavedGlobal, instrument, kernel_for, link
from perdure.instrument.metering import count_instructions
from perdure.instrument.validate import REPLICA, Policy, validate

__all__ = [
    "REPLICA",
    "SCHEDULES",
    "Instrumented",
    "Options",
    "PageCharges",
    "Policy",
    "SavedGlobal",
    "count_instructions",
    "instrument",
    "kernel_for",
    "link",
    "validate",
]
