"""The data models of one memory manager: the catalogue, the trees that it names, and what is pending in them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Final, TypeVar, final

from perdure.data.catalogue import CATALOGUE_ID, MAGIC, Catalogue, Model, Move, Tree, name_in_sql
from perdure.data.evolution import DeclaredModel, evolve
from perdure.data.tree import Journal, PendingTree
from perdure.errors import MalformedError, PerdureError
from perdure.memory import Memory
from perdure.stable import MemoryManager, StableCell
from perdure.stable.access import is_blank
from perdure.stable.layout import CELL_MAGIC
from perdure.stable.types import raw

__all__ = ["Store", "find_catalogue", "read_catalogue"]

T = TypeVar("T")
_FIRST_TREE_ID: Final = CATALOGUE_ID - 1
"""Trees take memories from above, variables that a program declares itself from below."""


@final
class Store:
    """The data models of a memory manager.

    Args:
        memory_of: gives a memory of the manager by id.
        catalogue_id: where the catalogue is.
        is_taken: whether a program means to use a memory for something else.
    """

    def __init__(
        self,
        memory_of: Callable[[int], Memory],
        catalogue_id: int = CATALOGUE_ID,
        is_taken: Callable[[int], bool] = lambda memory_id: False,
    ) -> None:
        self._memory_of = memory_of
        self._catalogue_id = catalogue_id
        self._is_taken = is_taken
        self._trees: dict[int, PendingTree] = {}
        self._read: tuple[bytes, Catalogue] = (b"", Catalogue())
        self._kept: dict[str, Any] = {}
        self.journal = Journal()

    @classmethod
    def open(cls, memory: Memory) -> Store:
        """The models in a whole stable memory, live or not.

        Raises:
            MalformedError: it has no memory manager, or no catalogue.
        """
        manager = MemoryManager.load(memory)
        found = find_catalogue(manager.get)
        if found is None:
            raise MalformedError("no catalogue in any memory: nothing here was declared by `perdure.data`")
        return cls(manager.get, found)

    @property
    def catalogue(self) -> Catalogue:
        """As it is now; empty where there is none yet.

        Raises:
            MalformedError: something else is in its memory.
        """
        memory = self._memory_of(self._catalogue_id)
        if is_blank(memory):
            return Catalogue()
        data = StableCell.load(memory, raw).raw()
        if data != self._read[0]:
            self._read = data, Catalogue.decode(data)
        return self._read[1]

    def kept(self, name: str, make: Callable[[], T]) -> T:
        """Something that is made once, until models change or what was written is dropped."""
        if name not in self._kept:
            self._kept[name] = make()
        found: T = self._kept[name]
        return found

    def _save(self, catalogue: Catalogue) -> None:
        data = catalogue.encode()
        memory = self._memory_of(self._catalogue_id)
        StableCell.init(memory, raw, data).set(data)
        self._kept.clear()

    def tree(self, tree: Tree) -> PendingTree:
        """A tree of a model, opened."""
        found = self._trees.get(tree.memory_id)
        if found is None:
            found = self._trees[tree.memory_id] = PendingTree(self._memory_of(tree.memory_id), self.journal)
        return found

    def declare(self, declared: DeclaredModel, fill: Callable[[Model, Tree], None]) -> Model:
        """A model as it is declared, new or as it grew out of what is there; nothing is written where it is the same.

        Args:
            declared: the model.
            fill: fills a tree that is new from the first one of its model.

        Raises:
            MalformedError: what is there does not read as it is declared; a new name that SQL cannot have.
        """
        catalogue = self.catalogue
        ids = self._free_ids(catalogue)
        try:
            evolution = evolve(catalogue.model(declared.name), declared, lambda: next(ids))
        except StopIteration as end:
            raise MalformedError(f"{declared.name!r} needs a memory, and all are taken") from end
        changed = catalogue.with_model(evolution.model)
        if changed == catalogue:
            return evolution.model
        _check_names(catalogue.model(declared.name), evolution.model)
        self._save(changed)
        for tree in evolution.cleared:
            self.tree(tree).clear()
        for tree in evolution.built:
            fill(evolution.model, tree)
        return evolution.model

    def retire(self, names: Callable[[str], bool]) -> None:
        """Say of the models that `names` does not know that no version names them any more; their bytes stay."""
        catalogue = self.catalogue
        models = tuple(replace(one, state="active" if names(one.name) else "unused") for one in catalogue.models)
        if models != catalogue.models:
            self._save(replace(catalogue, models=models))

    @property
    def moves(self) -> tuple[Move, ...]:
        """The tables of the code before whose rows are on their way."""
        return self.catalogue.moves

    def note_move(self, move: Move, *, has_ended: bool = False) -> None:
        """Say how far a move is; the others come first then."""
        catalogue = self.catalogue
        others = tuple(one for one in catalogue.moves if one.migration != move.migration)
        self._save(replace(catalogue, moves=others if has_ended else (*others, move)))

    def _free_ids(self, catalogue: Catalogue) -> Iterator[int]:
        taken = {tree.memory_id for model in catalogue.models for tree in model.trees}
        for memory_id in range(_FIRST_TREE_ID, -1, -1):
            if memory_id not in taken and not self._is_taken(memory_id) and is_blank(self._memory_of(memory_id)):
                yield memory_id

    def begin(self) -> None:
        """A message begins: what it writes waits for `flush`."""
        self.journal.is_held = True

    def flush(self) -> None:
        """The message has ended: write what it has written."""
        self.journal.flush()
        self._end_transactions()

    def discard(self) -> None:
        """The message has trapped, or was a query: forget what it has written, of which nothing has reached memory."""
        self.journal.discard()
        self._end_transactions()

    def forget(self) -> None:
        """Memory is going to be what it was: forget what was written, and all that was read or opened."""
        self.journal.forget()
        self._trees.clear()
        self._kept.clear()
        self._read = (b"", Catalogue())

    def _end_transactions(self) -> None:
        # A connection within a transaction is the message's that began it: the next one would begin another, and fail.
        self._kept = {name: one for name, one in self._kept.items() if not getattr(one, "in_transaction", False)}


def _check_names(before: Model | None, after: Model) -> None:
    """New names only, as what is there has its own: SQL knows no case, and keeps one prefix for itself."""
    known = {one.name for one in before.columns} if before else set()
    if before is None and name_in_sql(after.name).startswith("sqlite_"):
        raise MalformedError(f"{after.name!r}: SQL keeps names that begin with sqlite_ for itself: take another name")
    seen: dict[str, str] = {}
    for one in after.columns:
        if one.state == "unused":
            continue
        other = seen.setdefault(name_in_sql(one.name), one.name)
        if other != one.name and not {other, one.name} <= known:
            raise MalformedError(
                f"columns {other!r} and {one.name!r} of {after.name!r} are one name to SQL, which knows no case: "
                "rename one"
            )


def read_catalogue(memory: Memory) -> Catalogue | None:
    """The catalogue in a whole stable memory; `None`: there is none.

    Raises:
        MalformedError: it does not read.
        UnsupportedError: it has a newer version.
    """
    try:
        manager = MemoryManager.load(memory)
    except PerdureError:
        return None
    found = find_catalogue(manager.get)
    return None if found is None else Store(manager.get, found).catalogue


def find_catalogue(memory_of: Callable[[int], Memory]) -> int | None:
    """The memory in which a catalogue is; the last one is where programs in Python have it."""
    candidates: list[int] = [CATALOGUE_ID, *range(CATALOGUE_ID)]
    for memory_id in candidates:
        memory = memory_of(memory_id)
        if is_blank(memory) or memory.read(0, 3) != CELL_MAGIC:
            continue
        try:
            if StableCell.load(memory, raw).raw().startswith(MAGIC):
                return memory_id
        except PerdureError:
            continue
    return None
