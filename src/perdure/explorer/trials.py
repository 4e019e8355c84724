"""What if: a fork on which calls and upgrades are tried, compared with what there is, then done for real or dropped."""

from __future__ import annotations

from typing import Final

from perdure.errors import RejectError
from perdure.explorer.asked import Asked, Page
from perdure.explorer.calls import methods_of, outcome_of
from perdure.explorer.changes import changes_between
from perdure.explorer.site import NotFoundError, Trial
from perdure.inspection.motoko import default_persistence
from perdure.subnet.subnet import Canister

__all__ = ["begin", "call", "check", "end", "overview", "upgrade"]

_MAX_TRIALS: Final = 4
_MAX_MODULE_BYTES: Final = 256 << 20
"""That one fork keeps, to be installed for real."""


def _trial(asked: Asked) -> Trial:
    with asked.site.lock:
        found = asked.site.trials.get(asked.canister.id.raw_bytes)
    if found is None:
        raise NotFoundError("nothing is being tried with this canister: begin a fork first")
    return found


def overview(asked: Asked) -> Page:
    """What is being tried, and what it has changed."""
    canister = asked.canister
    with asked.site.lock:
        trial = asked.site.trials.get(canister.id.raw_bytes)
    if trial is None:
        return Page("what_if.html", {"canister": canister, "trial": None})
    return Page("what_if.html", {"canister": canister, "trial": trial, **_facts(asked, trial, canister)})


def _facts(asked: Asked, trial: Trial, canister: Canister) -> dict[str, object]:
    found = methods_of(asked, trial.canister)
    return {"found": found, "act": "what-if/call", "changes": changes_between(canister, trial.canister)}


def begin(asked: Asked) -> Page:
    """Fork the subnet, to try something with a canister."""
    canister, subnet = asked.canister, asked.subnet
    fork = subnet.fork()
    trial = Trial(fork, fork.canister(canister.id), subnet._state.time_ns)
    with asked.site.lock:
        old = asked.site.trials.pop(canister.id.raw_bytes, None)
        if len(asked.site.trials) >= _MAX_TRIALS:
            oldest = next(iter(asked.site.trials))
            asked.site.trials.pop(oldest).close()
        asked.site.trials[canister.id.raw_bytes] = trial
    if old is not None:
        old.close()
    return Page("_trial.html", {"canister": canister, "trial": trial, **_facts(asked, trial, canister)})


def call(asked: Asked) -> Page:
    """Call a method on the fork."""
    trial = _trial(asked)
    outcome = outcome_of(asked, trial.subnet, trial.canister)
    trial.note(f"{outcome.kind} {outcome.method}")
    changes = changes_between(asked.canister, trial.canister)
    return Page("_outcome.html", {"outcome": outcome, "canister": trial.canister, "changes": changes})


def upgrade(asked: Asked) -> Page:
    """Upgrade the canister on the fork, to the module that was sent."""
    trial, wasm = _trial(asked), asked.request.body
    argument = _argument(asked)
    if sum(len(one) for one, _ in trial.modules) + len(wasm) > _MAX_MODULE_BYTES:
        raise ValueError(f"modules of more than {_MAX_MODULE_BYTES:,} bytes were tried on this fork: fork anew")
    try:
        keep = default_persistence(trial.canister)
        trial.canister.upgrade(wasm, argument, wasm_memory_persistence=keep)
    except RejectError as error:
        return Page("_error.html", {"words": f"the upgrade was rejected: {error}"})
    trial.modules.append((wasm, argument))
    trial.note(f"upgrade to a module of {len(wasm):,} bytes")
    return Page("_trial.html", {"canister": asked.canister, "trial": trial, **_facts(asked, trial, asked.canister)})


def check(asked: Asked) -> Page:
    """Rehearse the upgrade to the module that was sent, and say whether it is safe."""
    report = asked.canister.check_upgrade(asked.request.body, _argument(asked))
    return Page("_report.html", {"report": report})


def _argument(asked: Asked) -> str | None:
    text = asked.values.get("candid", "").strip()
    return (text if text.startswith("(") else f"({text})") if text else None


def end(asked: Asked) -> Page:
    """Drop what was tried; or, ``keep``, do the upgrades for real."""
    trial, canister, what = _trial(asked), asked.canister, asked.parts["what"]
    if what not in ("keep", "drop"):
        raise NotFoundError(f"a trial is kept or dropped, not {what[:40]!r}")
    done = "the fork was dropped; nothing has changed"
    if what == "keep":
        if not trial.modules:
            raise ValueError("no upgrade was tried on the fork; calls are made again on the page of methods")
        for wasm, argument in trial.modules:
            keep = default_persistence(canister)
            canister.upgrade(wasm, argument, wasm_memory_persistence=keep)
        done = "the canister was upgraded as its fork was; what calls did on the fork was dropped"
    with asked.site.lock:
        asked.site.trials.pop(canister.id.raw_bytes, None)
    trial.close()
    return Page("_trial.html", {"canister": canister, "trial": None, "done": done})
