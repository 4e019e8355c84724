"""What calls between subnets cost, against calls within one; and what it costs a subnet to be one of a network.

    python benchmarks/network_figures.py [--quick] [--json]

Processor time. A call is made by a counter in Motoko, ``incOther``: three entries, a request and a response.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from figures import Table, main
from perdure import Canister, Network, Principal, Subnet
from perdure.candid import encode, parse_types
from perdure.execution import submit_ingress

WASM = Path(__file__).parents[1] / "tests" / "canisters" / "modules" / "motoko_eop_v1.wasm.gz"
BATCH = 100
NOTHING = encode((), [])


def _seconds(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def _batch(caller: Canister, callee: Principal, count: int, go_on: Callable[[], object]) -> float:
    """Seconds of a call."""
    arg = encode(parse_types("(principal)"), [callee])
    world = caller._subnet._world
    for _ in range(count):
        submit_ingress(world, caller.id.raw_bytes, "incOther", arg)
    return _seconds(go_on) / count


def measure(quick: bool) -> Table:
    """All figures."""
    table, rounds = Table("network_figures"), 10 if quick else 60
    with Subnet() as alone, Network(2) as network:
        first, second = alone.install(WASM), alone.install(WASM)
        near, far = (subnet.install(WASM) for subnet in network.subnets)
        for size in (BATCH, 1):
            pairs = []
            for number in range(rounds + 2):
                local = _batch(first, second.id, size, alone.run_until_idle)
                across = _batch(near, far.id, size, network.run_until_idle)
                if number > 1:
                    pairs.append((across, local))
            what = f"a call across in batches of {size}" if size > 1 else "a call across, one at a time"
            table.add(what, median(across for across, _ in pairs) * 1e6, "us")
            table.add(
                f"{what} / a local one", median(one / other for one, other in pairs), "x", 1.2 if size > 1 else None
            )
        ratios = []
        for _ in range(rounds):
            member = _seconds(lambda: [near.update("inc", NOTHING) for _ in range(200)])
            bare = _seconds(lambda: [first.update("inc", NOTHING) for _ in range(200)])
            ratios.append(member / bare)
        table.add("an update of one of a network's subnets / of a subnet alone", median(ratios), "x", 1.03)
    return table


if __name__ == "__main__":
    main(measure)
