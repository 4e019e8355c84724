"""The upgrade itself: hooks that trap, limits that are reached or near, what hooks have to set again."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, NamedTuple, final

from perdure.candid.types import brief, is_nullable, resolve
from perdure.canister import Context, Return, Trap, TrapCode
from perdure.execution.effects import compile_instructions
from perdure.memory import WASM_PAGE_BYTES
from perdure.upgrade.finding import Finding, Severity
from perdure.upgrade.rehearsal import Rehearsal
from perdure.upgrade.stage import Call, Stage, one_line

__all__ = ["HOOK_CHECKS", "Usage", "usage"]

LOW_PERCENT: Final = 10
_HOOKS: Final = {Context.PRE_UPGRADE: "pre_upgrade", Context.START: "start", Context.INIT: "post_upgrade"}
_LIMITS: Final = {
    TrapCode.INSTRUCTION_LIMIT_EXCEEDED: "instructions",
    TrapCode.MEMORY_WRITE_LIMIT_EXCEEDED: "written pages of stable memory",
    TrapCode.MEMORY_ACCESS_LIMIT_EXCEEDED: "accessed pages of stable memory",
    TrapCode.WASM_MEMORY_LIMIT_EXCEEDED: "the heap's size",
    TrapCode.INSUFFICIENT_CYCLES_IN_MEMORY_GROW: "cycles for the memory that it grows to",
    TrapCode.RESERVED_CYCLES_LIMIT_EXCEEDED_IN_MEMORY_GROW: "reserved cycles",
    TrapCode.STABLE_GROW_FAILED: "the size of stable memory",
    TrapCode.OUT_OF_MEMORY: "the heap's size",
}
_NO_ARGUMENT: Final = re.compile(
    r"(?i)no more (bytes|values|args)|argument|cannot (parse|decode)|too few|fail(ed)? to decode|IDL error|header"
)


@final
class Usage(NamedTuple):
    """How much of a limit an upgrade takes."""

    what: str
    used: int
    limit: int
    unit: str

    @property
    def left_percent(self) -> float:
        """What is left of it."""
        return 100.0 * (self.limit - self.used) / self.limit if self.limit else 0.0


def usage(found: Rehearsal) -> list[Usage]:
    """Each of the network's limits, and how near the upgrade comes to it."""
    config, entries = found.config, found.upgrade.entries
    compiling = 0 if found.new is None else compile_instructions(found.new_stage.world, found.operators)
    instructions = compiling + found.upgrade.instructions
    fine = [one for one in entries if isinstance(one.result, Return)]
    results = [one.result for one in fine if isinstance(one.result, Return)]
    rows = [
        Usage("instructions", instructions, config.max_instructions_per_install_code, "instructions"),
        Usage("instructions of compiling", compiling, config.max_instructions_per_install_code, "instructions"),
        Usage(
            "accessed pages of stable memory",
            max((one.stable_accessed_pages for one in results), default=0),
            config.stable_accessed_pages_upgrade,
            "pages",
        ),
        Usage(
            "written pages of stable memory",
            max((one.stable_dirty_pages for one in results), default=0),
            config.stable_dirty_pages_upgrade,
            "pages",
        ),
    ]
    if found.after is not None:
        settings = found.new_stage.state.settings
        heap = settings.wasm_memory_limit or config.default_wasm_memory_limit_bytes
        rows.append(Usage("heap", found.after.heap_wasm_pages * WASM_PAGE_BYTES, heap, "bytes"))
        stable = found.after.stable_wasm_pages * WASM_PAGE_BYTES
        rows.append(Usage("stable memory", stable, config.max_stable_memory_bytes, "bytes"))
    return rows


def slices(found: Rehearsal) -> int:
    """Rounds that the upgrade takes, as far as instructions tell."""
    instructions = usage(found)[0].used
    return max(1, -(-instructions // int(found.config.max_instructions_per_round)))


# -- the upgrade failed


def failure(found: Rehearsal) -> Iterator[Finding]:
    """Why the upgrade was refused, or which hook trapped."""
    error = found.upgrade.reject
    if error is None:
        return
    last = found.upgrade.entries[-1] if found.upgrade.entries else None
    trap = last.result if last is not None and isinstance(last.result, Trap) else None
    if trap is None or last is None:
        code = "module-refused" if found.new is None or error.error_code == "IC0505" else "upgrade-refused"
        yield Finding(
            code,
            "breaking",
            f"the upgrade is refused: {one_line(error.message)}",
            "install_code",
            why="nothing is installed; the old version goes on",
            remedy=_refusal_remedy(found, error.message),
        )
        return
    hook = _HOOKS.get(last.context, last.name)
    if found.is_cut_short:
        yield Finding(
            "hook-slow",
            "not certain",
            f"{hook} was not waited for to its end: it had used {found.upgrade.instructions:,} instructions",
            hook,
            f"the network's limit is {found.config.max_instructions_per_install_code:,}",
            f"the time that was given came to {found.limit:,}",
            "whether it ends within the network's limit is not known",
            "check again with a longer --time-limit, or without one",
        )
        return
    yield _trapped(found, hook, trap)


def _trapped(found: Rehearsal, hook: str, trap: Trap) -> Finding:
    """What a hook's trap comes from, and what to do."""
    limit = _LIMITS.get(trap.code)
    argument = _argument_needed(found, hook, trap)
    if limit is not None:
        code, what = "limit", f"{hook} runs out of {limit}"
        remedy = "do less in the hook: keep data in stable structures, migrate in steps from a timer"
    elif argument:
        code, what = "argument-missing", f"{hook} traps on its argument: {argument}"
        remedy = "pass the argument (--args), or make it optional"
    elif trap.code is TrapCode.CONTRACT_VIOLATION and "call" in trap.message:
        code, what = "hook-calls", f"{hook} calls another canister, which it may not: {one_line(trap.message)}"
        remedy = "make the call later: set a timer that is due at once"
    else:
        code, what = "hook-traps", f"{hook} traps: {one_line(trap.message or trap.code.name.lower())}"
        remedy = "mend the hook; until then the old version goes on with its data as it is"
        if "from an actor using enhanced migration" in trap.message:
            remedy = (
                "if no version before had a migration, the runtime takes what is left of the heap of classical "
                "persistence for one (motoko#6363): build with a compiler that does not"
            )
        if hook == "pre_upgrade":
            remedy = (
                "the old version cannot be upgraded with its hook: --skip-pre-upgrade loses what it would have saved"
            )
    why = "the upgrade is undone: on the network it would fail with exactly this"
    said = one_line(trap.message)
    return Finding(
        code,
        "breaking",
        what,
        hook,
        why=why,
        remedy=remedy,
        shows_values=True,
        values=(said,),
        backtrace=trap.backtrace,
    )


def _refusal_remedy(found: Rehearsal, message: str) -> str:
    if "requires that the new canister module supports enhanced orthogonal persistence" in message:
        return (
            "the new module has classical persistence, the old one enhanced orthogonal persistence: build it so; "
            "--wasm-memory-persistence replace installs it and loses what the heap holds"
        )
    if "persistence" in message:
        return "say what becomes of the heap: --wasm-memory-persistence keep, or replace to lose it"
    if "out of cycles" in message:
        return "top the canister up before the upgrade"
    return "build a module that the network takes"


def _argument_needed(found: Rehearsal, hook: str, trap: Trap) -> str:
    """What a post-upgrade hook wants for an argument, where that is why it trapped."""
    if hook != "post_upgrade" or found.options.arg is not None or not _NO_ARGUMENT.search(trap.message):
        return ""
    service = None if found.new is None else found.new.service
    types = () if service is None else service.init or ()
    needed = any(not is_nullable(one) for one in types)
    mentions = re.search(r"(?i)argument|no more (bytes|values)|decode_args", trap.message)
    if not needed and not mentions:
        return ""
    listed = ", ".join(brief(resolve(one)) for one in types)
    return f"none was given{f', it takes ({listed})' if listed else ''}; {one_line(trap.message)}"


# -- it went through


def limits(found: Rehearsal) -> Iterator[Finding]:
    """Limits that are passed afterwards, or nearly reached."""
    if found.after is None:
        return
    for one in usage(found):
        if one.used > one.limit:
            yield Finding(
                "limit",
                "breaking",
                f"{one.what} past the limit after the upgrade",
                one.what,
                f"at most {one.limit:,} {one.unit}",
                f"{one.used:,} {one.unit}",
                "messages that follow are refused",
                "raise the limit, or use less",
            )
        elif one.left_percent < LOW_PERCENT and one.used:
            yield Finding(
                "limit-near",
                "warning",
                f"{one.left_percent:.1f} % is left of {one.what}",
                one.what,
                f"at most {one.limit:,} {one.unit}",
                f"{one.used:,} {one.unit}",
                "with a little more data the upgrade fails",
                "do less in hooks before the next upgrade",
            )
    if found.after.liquid_cycles < 0 <= found.before.liquid_cycles:
        yield Finding(
            "frozen",
            "breaking",
            "the canister is frozen after the upgrade",
            "cycles",
            f"{found.before.liquid_cycles:,} above the freezing limit",
            f"{-found.after.liquid_cycles:,} below it",
            "it takes no messages until somebody tops it up",
            "top it up before the upgrade",
        )


def timer(found: Rehearsal) -> Iterator[Finding]:
    """A timer that was set and is not any more."""
    if found.after is None or not found.before.timer_ns or found.after.timer_ns or found.new is None:
        return
    if found.new.exports("canister_heartbeat") and not found.old.exports("canister_heartbeat"):
        yield Finding("timer-gone", "note", "the timer is not set any more; a heartbeat came instead", "global timer")
        return
    again = found.again
    is_kept_by_old = again is not None and bool(again.state.global_timer_ns)
    recurs = _recurs(found.old_stage)
    severity: Severity = "breaking" if is_kept_by_old or recurs else "not certain"
    what = "the timer is not set again" + (
        ": the old version's own post_upgrade does it" if is_kept_by_old else ": it recurs" if recurs else ""
    )
    yield Finding(
        "timer-gone",
        severity,
        what,
        "global timer",
        f"due at {found.before.timer_ns} ns",
        "none",
        "an upgrade clears the global timer: what it did is not done any more",
        "set it in post_upgrade",
    )


def _recurs(stage: Stage) -> bool:
    """Whether the old version sets its timer again when it is due."""
    fork = stage.fork()
    fork.world.state.time_ns = max(fork.world.state.time_ns, fork.state.global_timer_ns)
    outcome = fork.run(Call("task", "canister_global_timer", origin="task"))
    results = [entry.result for entry in outcome.entries]
    return any(isinstance(one, Return) and bool(one.global_timer_ns) for one in results)


def certified_data(found: Rehearsal) -> Iterator[Finding]:
    """Certified data that was set and is not set again, although the heap that it was computed from is gone."""
    if found.after is None or not found.before.certified_data or found.persistence == "keep":
        return
    if found.new is None or any(_sets_certified(entry.result) for entry in found.upgrade.entries):
        return
    again = found.again
    old_sets = again is not None and found.certified_again
    stays = found.after.certified_data == found.before.certified_data
    why = "clients refuse answers whose certificate does not belong to what they show"
    if old_sets:
        yield Finding(
            "certified-data",
            "breaking",
            "certified data is not set again, as the old version's post_upgrade does it",
            "certified data",
            found.before.certified_data.hex(),
            found.after.certified_data.hex() if not stays else "left as it was",
            why,
            "set it in post_upgrade",
        )
    else:
        yield Finding(
            "certified-data",
            "not certain",
            "certified data is not set by any hook",
            "certified data",
            found.before.certified_data.hex(),
            "left as it was",
            why,
            "set it in post_upgrade, where what it certifies is kept on the heap",
        )


def _sets_certified(result: Trap | Return) -> bool:
    return isinstance(result, Return) and result.certified_data is not None


HOOK_CHECKS = (failure, limits, timer, certified_data)
