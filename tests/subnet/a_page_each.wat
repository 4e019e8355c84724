;; An update writes a page of the heap and one of stable memory; `benchmarks/against.py` times what `test_counts.py` counts.
(module
  (import "ic0" "stable64_grow" (func $grow (param i64) (result i64)))
  (import "ic0" "stable64_write" (func $write (param i64 i64 i64)))
  (import "ic0" "msg_reply_data_append" (func $append (param i32 i32)))
  (import "ic0" "msg_reply" (func $reply))
  (memory 32)
  (func (export "canister_init") (drop (call $grow (i64.const 1))))
  (func $count (i32.store (i32.const 65536) (i32.add (i32.load (i32.const 65536)) (i32.const 1))))
  (func (export "canister_query look") (call $count) (call $append (i32.const 65536) (i32.const 8)) (call $reply))
  (func (export "canister_update both") (call $count)
    (call $write (i64.const 8192) (i64.const 65536) (i64.const 8))
    (call $append (i32.const 65536) (i32.const 8)) (call $reply)))
