;; The counter of c/second.c, written by hand: memory 0 is the heap, and memory 1 what the policy says.
(module
  (import "ic0" "msg_reply_data_append" (func $append (param i32 i32)))
  (import "ic0" "msg_reply" (func $reply))
  (memory $heap 1)
  (memory $second i64 0)
  (func $show
    (i64.store $heap (i32.const 0)
      (if (result i64) (i64.eqz (memory.size $second)) (then (i64.const 0)) (else (i64.load $second (i64.const 8)))))
    (call $append (i32.const 0) (i32.const 8))
    (call $reply))
  (func (export "canister_update inc")
    (if (i64.eqz (memory.size $second)) (then (drop (memory.grow $second (i64.const 1)))))
    (i64.store $second (i64.const 8) (i64.add (i64.load $second (i64.const 8)) (i64.const 1)))
    (call $show))
  (func (export "canister_update trap")
    (i64.store $second (i64.const 8) (i64.const 99))
    (unreachable))
  (func (export "canister_query get") (call $show)))
