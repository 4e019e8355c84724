"""Which canisters there are, and what the network would say of one."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from perdure.errors import PerdureError
from perdure.explorer.asked import MEMORY, Asked, Page
from perdure.explorer.site import Site
from perdure.explorer.subject import contents_of, trouble
from perdure.ic.principal import Principal
from perdure.inspection.source import Source
from perdure.memory import WASM_PAGE_BYTES
from perdure.network import Network
from perdure.subnet.subnet import Canister

__all__ = ["index", "logs", "overview", "structure_rows"]

_ROWS: Final = 50
_LOGS: Final = 200


def index(asked: Asked) -> Page:
    """All canisters, a page at a time, or those whose id or name has a text in it."""
    site, names, wanted, skip = (
        asked.site,
        asked.site.names,
        asked.values.get("q", "").strip().lower(),
        asked.number("skip"),
    )
    if not site.subnets:
        return Page("index.html", {"rows": [], "total": 0, "skip": 0, "more": False, "q": "", "memory": MEMORY})
    with site.subnets[0]._gate.lock:  # which all of them share
        ids = sorted(raw for subnet in site.subnets for raw in subnet._state.canisters)
    if wanted:
        texts = ((raw, _text_of(raw)) for raw in ids)
        ids = [raw for raw, text in texts if wanted in text or wanted in names.get(text, "").lower()]
    total = len(ids)
    page = [(Principal(raw), names.get(_text_of(raw), "")) for raw in ids[skip : skip + _ROWS]]
    found_on = [(site.subnet_of(one), one, name) for one, name in page]
    rows = [
        {**_row(subnet.canister(one), name), "subnet_id": subnet.id}
        for subnet, one, name in found_on
        if subnet is not None
    ]
    facts = {
        "rows": rows,
        "subnets": _subnets(site),
        "total": total,
        "skip": skip,
        "rows_a_page": _ROWS,
        "more": skip + _ROWS < total,
    }
    return Page("index.html", {**facts, "q": asked.values.get("q", ""), "memory": None})


@lru_cache(65_536)
def _text_of(canister_id: bytes) -> str:
    """Whoever types asks for all of them at each letter."""
    return str(Principal(canister_id))


def _subnets(site: Site) -> dict[Principal, str]:
    """Kinds of subnets by id, where there is more than one."""
    return site.what.kinds if isinstance(site.what, Network) and len(site.subnets) > 1 else {}


def _row(canister: Canister, name: str) -> dict[str, object]:
    module = canister.module
    methods = (
        len(
            [
                one
                for one in module.exported_methods
                if one.startswith(("canister_query", "canister_update", "canister_composite"))
            ]
        )
        if module
        else 0
    )
    return {"canister": canister, "name": name, "status": canister.status(), "methods": methods}


def overview(asked: Asked) -> Page:
    """A canister, or a memory alone."""
    subject = asked.subject
    structures, words = structure_rows(subject)
    if isinstance(subject, Source):
        size = subject.memory.size() * WASM_PAGE_BYTES
        return Page("memory.html", {"structures": structures, "words": words, "label": subject.label, "size": size})
    status = subject.status()
    memories = [
        {"name": name, "size": memory.size() * WASM_PAGE_BYTES, "lifetime": memory.lifetime, "state": memory.state}
        for name, memory in (subject.memories if subject.module is not None else {}).items()
    ]
    facts = {"canister": subject, "status": status, "last": subject.last, "memories": memories}
    return Page("canister.html", {**facts, "structures": structures, "words": words, "settings": subject.settings()})


def structure_rows(subject: Canister | Source) -> tuple[list[dict[str, object]], str]:
    """What a stable memory has in it, and what is wrong with that."""
    try:
        with contents_of(subject) as (inventory, _):
            from perdure.inspection.occupancy import colours_of

            colours = colours_of(inventory)
            rows: list[dict[str, object]] = [
                {"structure": one, "colour": colours[one.label], "name": one.name or one.table_name}
                for one in inventory.structures
            ]
            variables = [{"variable": one.name} for one in inventory.variables.tables()]
            return rows + [dict(one) for one in variables], ""
    except (PerdureError, ValueError, KeyError) as error:
        return [], trouble(error)


def logs(asked: Asked) -> Page:
    """The newest lines that a canister has printed."""
    records = asked.canister.logs()
    return Page("_logs.html", {"records": records[-_LOGS:], "canister": asked.canister})
