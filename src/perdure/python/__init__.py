"""Canisters in Python: an engine beside `perdure.embedder`, behind the same hinge.

A class is a module, its stable variables lie in stable memory as Rust would have them, its attributes are the heap.
`perdure.kit` has the names that people use; `catalogue` is where subnets look code up.
"""
