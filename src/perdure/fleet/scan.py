"""One huge map read by several workers: each a part by address, each byte once, the counts held against the header.

```
 here      finds the map, cuts it into parts                         (tens of requests, a few bytes each)
 workers   open the source, read a part, take its nodes apart        one request a run of at most 8 MiB
 here      joins what parts have left over, checks the counts, makes columns of what came
```

Bytes, not objects, go between processes: CBOR of columns as they are encoded in the map.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, Literal, final

import cbor2
import numpy as np

from perdure.errors import HostError, MalformedError, PerdureError, StorageError, UnsupportedError
from perdure.fleet.workers import Processes, Worker, Workers
from perdure.inspection.export import BATCH_ROWS, Tell, export_batches
from perdure.inspection.open import open_source
from perdure.inspection.rows import Rows
from perdure.inspection.source import Source
from perdure.memory import WASM_PAGE_BYTES, Memory
from perdure.stable import types
from perdure.stable.columns import Column
from perdure.stable.headers import MapHeader
from perdure.stable.layout import FIRST_CHUNK_ADDRESS
from perdure.stable.parts import Part, Rest, check_counts, join, read_part, used_chunks
from perdure.stable.region import Region

__all__ = ["Scan", "export_in_parts", "processes", "work"]

_PART_BYTES: Final = 32 << 20
_RUN_BYTES: Final = 8 << 20
_ERRORS: Final = {one.__name__: one for one in (MalformedError, StorageError, UnsupportedError)}


@final
class Scan:
    """All entries of a map, in the order in which they come.

    Args:
        source: as a worker can open it: no standard input.
        table: the map in it.
        workers: who reads; `None`: this process.
        part_bytes: of each part, about.

    Attributes:
        table: the map.
        parts: the first chunk of each, and how many it has.

    Raises:
        UnsupportedError: it is no map, or what its entries are is known only after all have been seen.
    """

    def __init__(self, source: str, table: Rows, workers: Workers | None = None, part_bytes: int = _PART_BYTES) -> None:
        if table.tree is None:
            raise UnsupportedError(f"{table.name} is no map: it is not read in parts")
        region = table.structure.region
        self.table = table
        self._workers = workers
        self._header = table.tree.header
        self._key_bytes = table.tree.nodes.key_bytes
        self._memory_bytes = region.size() * WASM_PAGE_BYTES
        head = region.read(0, FIRST_CHUNK_ADDRESS)
        count = used_chunks(_reader(region), self._header, region.size_bytes)
        each = max(1, part_bytes // self._header.allocator.stride)
        if workers is not None:  # all of them are to have something to do, as long as it is worth a request
            each = min(each, max(1, -(-count // workers.count)))
        self._request = {
            "source": source,
            "memory_bytes": self._memory_bytes,
            "head": head,
            "key_bytes": self._key_bytes,
        }
        self.parts = [(first, min(each, count - first)) for first in range(0, count, each)]

    def columns(self) -> Iterator[tuple[Column, Column]]:
        """Keys and values of each part, encoded.

        Raises:
            MalformedError: a part is damaged, or, after the last one, the counts are not those of the header.
            StorageError: a worker cannot read the source.
            HostError: a worker died twice over the same part.
        """
        entries = allocated = 0
        rests = []
        for part in self._read():
            entries += len(part.keys)
            allocated += part.allocated
            rests.append(part.rest)
            if len(part.keys):
                yield part.keys, part.values
        if self._header.length or allocated:
            last = join(rests, self._header, self._key_bytes, self._memory_bytes)
            if len(last.keys):
                yield last.keys, last.values
            check_counts(entries + len(last.keys), allocated, self._header)

    def _read(self) -> Iterator[Part]:
        requests = (self._request_of(*part) for part in self.parts)
        if self._workers is None:
            yield from (_answered(work(request)) for request in requests)
            return
        yield from map(_answered, _spread(list(requests), self._workers))

    def _request_of(self, first: int, count: int) -> bytes:
        """What a worker is asked for: where below the chunks lie, and which they are."""
        stride = self._header.allocator.stride
        pieces = self.table.structure.region.pieces(FIRST_CHUNK_ADDRESS + first * stride, count * stride)
        runs = [(run.address, run.size_bytes) for run in pieces]
        return cbor2.dumps(self._request | {"first": first, "runs": runs})


def export_in_parts(
    scan: Scan,
    path: Path,
    form: Literal["arrow", "parquet"],
    *,
    overwrite: bool = False,
    tell: Tell = lambda rows: None,
) -> int:
    """Write a map into a file of its rows, in the order in which they come; how many they are.

    Raises:
        UnsupportedError: the types of its columns are known only after all values were seen.
        StorageError: the file exists, or cannot be written.
        MalformedError: as `Scan.columns`; there is no file then.
    """
    from perdure.inspection.arrow import column_batches, is_known_before, schema_of

    table = scan.table
    if not is_known_before(table):
        raise UnsupportedError(f"what the columns of {table.name} are is known only after all values were seen")
    batches = column_batches(table, scan.columns(), BATCH_ROWS)
    return export_batches(schema_of(table), batches, path, form, overwrite=overwrite, tell=tell)


def _spread(requests: list[bytes], workers: Workers) -> Iterator[bytes]:
    """The answers to requests, in the order in which they come. A request that a worker dies of is given twice."""
    left = deque((request, 0) for request in requests)
    busy: dict[Worker, tuple[bytes, int] | None] = {}
    try:
        while left or any(busy.values()):
            while len(busy) < min(workers.count, len(left) + sum(one is not None for one in busy.values())):
                busy[workers.start()] = None
            for worker, answer in workers.heard(busy, None):
                given = busy[worker]
                if answer is None:
                    del busy[worker]
                    why = worker.end()
                    if given is None or given[1]:
                        raise HostError(f"a worker ended with {why}")
                    left.append((given[0], 1))
                    continue
                if given is not None:
                    yield answer
                busy[worker] = left.popleft() if left else None
                if (following := busy[worker]) is not None:
                    worker.give(following[0])
                elif given is not None:
                    del busy[worker]
                    worker.end()
    finally:
        for worker in busy:
            worker.end()


def processes(count: int) -> Processes:
    """So many workers on this machine."""
    return Processes(f"{__name__}:work", count)


# -- what a worker does


@lru_cache(maxsize=1)
def _opened(source: str) -> Source:
    """The source of the last request, which is that of the next one."""
    return open_source(source)


def work(request: bytes) -> bytes:
    """Read a part; what came of it. For `perdure.fleet.worker`."""
    asked = cbor2.loads(request)
    try:
        source = _opened(asked["source"])
        memory_bytes = asked["memory_bytes"]
        header = MapHeader.decode(asked["head"], memory_bytes)
        data = _read_all(source.memory, asked["runs"])
        part = read_part(np.frombuffer(data, np.uint8), asked["first"], header, asked["key_bytes"], memory_bytes)
    except PerdureError as error:
        kind = type(error).__name__
        facts = {
            "error": kind if kind in _ERRORS else "MalformedError",
            "message": str(error),
            "code": error.error_code,
        }
        return cbor2.dumps(facts | {"path": getattr(error, "path", ""), "words": getattr(error, "message", str(error))})
    return cbor2.dumps(
        {
            "keys": _packed(part.keys),
            "values": _packed(part.values),
            "allocated": part.allocated,
            "nodes": part.rest.nodes,
            "overflow": part.rest.overflow,
        }
    )


def _reader(region: Region) -> Callable[[int, int], bytes]:
    """Reads a few bytes, past whatever would read more than that."""
    read = _uncached(region.below)
    return lambda address, size_bytes: b"".join(
        read(run.address, run.size_bytes) for run in region.pieces(address, size_bytes)
    )


def _uncached(memory: Memory) -> Callable[[int, int], bytes]:
    read: Callable[[int, int], bytes] = getattr(memory, "read_uncached", memory.read)
    return read


def _read_all(memory: Memory, runs: Iterable[tuple[int, int]]) -> bytes:
    """Runs of bytes, in requests of bounded size."""
    read = _uncached(memory)
    return b"".join(
        read(at, min(_RUN_BYTES, address + size_bytes - at))
        for address, size_bytes in runs
        for at in range(address, address + size_bytes, _RUN_BYTES)
    )


def _packed(column: Column) -> tuple[bytes, bytes]:
    sizes = np.diff(np.append(column.spans()[0], len(column.data)))
    return sizes.astype("<u4").tobytes(), column.data.tobytes()


def _unpacked(packed: Any) -> Column:
    sizes = np.frombuffer(packed[0], "<u4").astype(np.int64)
    ends = np.cumsum(np.concatenate([np.zeros(1, dtype=np.int64), sizes]))
    return Column(types.raw, np.frombuffer(packed[1], np.uint8), ends, 0, len(sizes))


def _answered(answer: bytes) -> Part:
    found = cbor2.loads(answer)
    if "error" in found:
        kind = _ERRORS[found["error"]]
        words = (found["words"], found["path"]) if kind is StorageError else (found["message"].split("\n")[0],)
        error: PerdureError = kind(*words)
        error.error_code = found["code"]
        raise error
    rest = Rest(found["nodes"], found["overflow"])
    return Part(_unpacked(found["keys"]), _unpacked(found["values"]), found["allocated"], rest)
