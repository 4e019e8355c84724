"""The structures of `ic-stable-structures` 0.7.2, byte for byte, over any `Memory`.

| here | crate | Python protocol | over |
|---|---|---|---|
| `MemoryManager`, `VirtualMemory`, `RestrictedMemory` | the same | `Memory` | one memory |
| `StableBTreeMap` | ``BTreeMap`` | `MutableMapping` | one memory |
| `StableBTreeSet` | ``BTreeSet`` | `MutableSet` | one memory |
| `StableVec` | ``Vec`` | `Sequence`, with `push`, `pop` and item assignment | one memory |
| `StableLog` | ``Log`` | `Sequence`, with `append` | two memories |
| `StableCell` | ``Cell`` | `get`, `set`, `value` | one memory |
| `StableMinHeap` | ``MinHeap`` | `push`, `pop`, `peek`, `len`, `iter` | one memory |
| `MemoryStream` | ``Reader``, ``Writer`` | `io.RawIOBase` | one memory |
| `types` | ``Storable`` | `encode`, `decode`, bound, order | |

Three ways in, the same for each: `load` opens what is there and never writes; `create` begins anew and refuses over
anything but a blank memory unless told ``overwrite=True``; `init` loads, or creates on a blank memory. The same
operations leave the same bytes as in Rust, stale ones included. What makes the crate panic or corrupt raises here, and
nothing is left half-done.

Damaged bytes raise `perdure.MalformedError` with the address; no input makes a read hang.

>>> from perdure.memory import BytesMemory
>>> from perdure.stable import MemoryManager, StableBTreeMap, types
>>> memory = BytesMemory()
>>> manager = MemoryManager.create(memory)
>>> balances = StableBTreeMap.create(manager.get(0), types.principal, types.u64)
>>> from perdure.ic.principal import ANONYMOUS
>>> balances[ANONYMOUS] = 100
>>> StableBTreeMap.load(MemoryManager.load(memory).get(0), types.principal, types.u64)[ANONYMOUS]
100
"""

from perdure.stable import types
from perdure.stable.access import GrowFailedError, RestrictedMemory
from perdure.stable.btree import NodeFacts
from perdure.stable.btreemap import StableBTreeMap
from perdure.stable.btreeset import StableBTreeSet
from perdure.stable.cell import StableCell
from perdure.stable.headers import AllocatorHeader, ArrayHeader, CellHeader, LogHeader, ManagerHeader, MapHeader
from perdure.stable.log import StableLog
from perdure.stable.memory_manager import Bucket, MemoryManager, VirtualMemory
from perdure.stable.min_heap import StableMinHeap
from perdure.stable.stream import MemoryStream
from perdure.stable.vec import StableVec

__all__ = [
    "AllocatorHeader",
    "ArrayHeader",
    "Bucket",
    "CellHeader",
    "GrowFailedError",
    "LogHeader",
    "ManagerHeader",
    "MapHeader",
    "MemoryManager",
    "MemoryStream",
    "NodeFacts",
    "RestrictedMemory",
    "StableBTreeMap",
    "StableBTreeSet",
    "StableCell",
    "StableLog",
    "StableMinHeap",
    "StableVec",
    "VirtualMemory",
    "types",
]
