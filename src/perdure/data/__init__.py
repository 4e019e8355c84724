"""Data models over stable B-trees: tables, verbs, triples and documents, in one transaction a message.

```
declaration ─evolve▶ Model, in the catalogue ─▶ trees ─▶ StableBTreeMap in a memory of the manager
row ─plain▶ packed key, CBOR array      write ─▶ pending ─flush▶ tree
```
"""

from perdure.data.catalogue import CATALOGUE_ID, Catalogue, Column, Model, Move, Tree
from perdure.data.declare import table
from perdure.data.documents import Documents, documents
from perdure.data.moving import Rows
from perdure.data.parts import TableFault
from perdure.data.sharded import Counted, ShardedTable, ShardError
from perdure.data.store import Store
from perdure.data.tables import ConstraintError, Index, Table, open_tables
from perdure.data.triples import Triples
from perdure.data.verbs import Verb, neighbourhood, verb
from perdure.values.packed import Uri

__all__ = [
    "CATALOGUE_ID",
    "Catalogue",
    "Column",
    "ConstraintError",
    "Counted",
    "Documents",
    "Index",
    "Model",
    "Move",
    "Rows",
    "ShardError",
    "ShardedTable",
    "Store",
    "Table",
    "TableFault",
    "Tree",
    "Triples",
    "Uri",
    "Verb",
    "documents",
    "neighbourhood",
    "open_tables",
    "table",
    "verb",
]
