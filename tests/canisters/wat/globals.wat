;; What of an instance is state and what is not. Memory, and globals that are mutable or exported, last from message to
;; message; tables and dropped segments do not: the next message finds them as the module has them.
;;
;; Every reply is little-endian. `read` and `read_query` reply with
;;   i32 counter | i64 counter | f32 counter | f64 counter | v128 counter | exported counter (i32) | start count (i32)
;;   | byte 16 of memory | table answer (i32)
;; `bump` adds one to all counters; `bump_and_trap` does so and traps; `bump_query` is the query that does so.
(module
  (import "ic0" "msg_reply_data_append" (func $append (param i32 i32)))
  (import "ic0" "msg_reply" (func $reply))
  (import "ic0" "trap" (func $trap (param i32 i32)))

  (memory (export "memory") 1 4)
  (table $table 2 2 funcref)

  (global $i32 (mut i32) (i32.const 1))
  (global $i64 (mut i64) (i64.const 0x100000001))
  (global $f32 (mut f32) (f32.const 0.5))
  (global $f64 (mut f64) (f64.const -0.25))
  (global $v128 (mut v128) (v128.const i64x2 1 2))
  (global $exported (export "exported") (mut i32) (i32.const 10))
  (global $constant (export "constant") i64 (i64.const 99))
  (global $started (mut i32) (i32.const 0))

  (data (i32.const 16) "A")
  (data (i32.const 1024) "bumped everything, then trapped")
  (data $passive "passive bytes")

  (elem (table $table) (i32.const 0) func $seven $eight)
  (elem $spare func $eight)

  (type $answer (func (result i32)))
  (func $seven (type $answer) (i32.const 7))
  (func $eight (type $answer) (i32.const 8))

  (start $start)
  (func $start
    (global.set $started (i32.add (global.get $started) (i32.const 1))))

  (func $bump
    (global.set $i32 (i32.add (global.get $i32) (i32.const 1)))
    (global.set $i64 (i64.add (global.get $i64) (i64.const 1)))
    (global.set $f32 (f32.add (global.get $f32) (f32.const 1)))
    (global.set $f64 (f64.add (global.get $f64) (f64.const 1)))
    (global.set $v128 (i64x2.add (global.get $v128) (v128.const i64x2 1 1)))
    (global.set $exported (i32.add (global.get $exported) (i32.const 1)))
    (i32.store8 (i32.const 16) (i32.add (i32.load8_u (i32.const 16)) (i32.const 1))))

  (func $report
    (i32.store offset=64 (i32.const 0) (global.get $i32))
    (i64.store offset=68 (i32.const 0) (global.get $i64))
    (f32.store offset=76 (i32.const 0) (global.get $f32))
    (f64.store offset=80 (i32.const 0) (global.get $f64))
    (v128.store offset=88 (i32.const 0) (global.get $v128))
    (i32.store offset=104 (i32.const 0) (global.get $exported))
    (i32.store offset=108 (i32.const 0) (global.get $started))
    (i32.store8 offset=112 (i32.const 0) (i32.load8_u (i32.const 16)))
    (i32.store offset=113 (i32.const 0) (call_indirect $table (type $answer) (i32.const 0)))
    (call $append (i32.const 64) (i32.const 53))
    (call $reply))

  (func (export "canister_init") (call $bump))
  (func (export "canister_post_upgrade"))
  (func (export "canister_update bump") (call $bump) (call $report))
  (func (export "canister_query bump_query") (call $bump) (call $report))
  (func (export "canister_update read") (call $report))
  (func (export "canister_query read_query") (call $report))
  (func (export "canister_update bump_and_trap")
    (call $bump)
    (drop (memory.grow (i32.const 1)))
    (call $trap (i32.const 1024) (i32.const 31)))

  ;; Changes the table: the reply shows 8, the next message 7 again.
  (func (export "canister_update change_table")
    (table.set $table (i32.const 0) (ref.func $eight))
    (call $report))
  (func (export "canister_update init_table")
    (table.init $table $spare (i32.const 0) (i32.const 0) (i32.const 1))
    (elem.drop $spare)
    (call $report))

  ;; Copies the passive segment and drops it; works once in a message, and again in the next. Replies with the bytes.
  (func (export "canister_update use_segment")
    (memory.init $passive (i32.const 256) (i32.const 0) (i32.const 13))
    (data.drop $passive)
    (call $append (i32.const 256) (i32.const 13))
    (call $reply))
  (func (export "canister_update use_dropped_segment")
    (data.drop $passive)
    (memory.init $passive (i32.const 256) (i32.const 0) (i32.const 13))
    (call $reply))

  ;; Up to the declared limit of four pages and no further; replies with what memory.grow gave, twice.
  (func (export "canister_update grow_to_limit")
    (i32.store offset=64 (i32.const 0) (memory.grow (i32.sub (i32.const 4) (memory.size))))
    (i32.store offset=68 (i32.const 0) (memory.grow (i32.const 1)))
    (call $append (i32.const 64) (i32.const 8))
    (call $reply)))
