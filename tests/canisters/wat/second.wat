;; The second memory of c/second.c, by functions.
(module
  (memory $second i64 0)
  (func (export "size") (result i64) (memory.size $second))
  (func (export "grow") (param i64) (result i64) (memory.grow $second (local.get 0)))
  (func (export "load") (param i64) (result i64) (i64.load $second (local.get 0)))
  (func (export "store") (param i64 i64) (i64.store $second (local.get 0) (local.get 1))))
