;; The native System API: what `link` appends to a canister's module.
;;
;; `abi.py` draws the memories and the header that this text is written against. The text is the form for 32-bit heaps;
;; each place where a heap address, size or pointer-wide value stands is marked (;I;), and tools/build_kernel.py turns
;; those places into the 64-bit form. kernel.wasm and kernel64.wasm are built from here; a test proves them equal.
;;
;; Functions may call each other and use the globals below, nothing else; memory indices are those of the linked module.
;; Source of the stable memory bodies and their order of checks: `system_api_replacements.rs` of the replica.
(module
  (import "canister" "memory" (memory $heap 0)) (;I;)
  (memory $stable i64 0)
  (memory $accounting 18432 18432)
  (memory $message i64 2064)

  (global $counter (export "counter") (mut i64) (i64.const 0x7fffffffffffffff))
  (global $accessed_pages_left (mut i64) (i64.const 0x7fffffffffffffff))
  (global $dirty_pages_left (mut i64) (i64.const 0x7fffffffffffffff))
  (global $touched_end (mut i32) (i32.const 0x08000000))
  (global $written_end (mut i32) (i32.const 0x28000000))
  (global $dropped (export "dropped") (mut i32) (i32.const 0))

  ;; ---------------------------------------------------------------------------------------------- around a message

  (func $begin (export "begin")
    (local $entry i32)
    ;; Unmark what the last message touched: proportional to that, not to the size of the memory.
    (local.set $entry (i32.const 0x08000000))
    (block $done
      (loop $next
        (br_if $done (i32.ge_u (local.get $entry) (global.get $touched_end)))
        (i32.store8 $accounting (i32.load $accounting (local.get $entry)) (i32.const 0))
        (local.set $entry (i32.add (local.get $entry) (i32.const 4)))
        (br $next)))
    (global.set $touched_end (i32.const 0x08000000))
    (global.set $written_end (i32.const 0x28000000))
    (global.set $counter (i64.load $message offset=0x08 (i64.const 0)))
    (global.set $accessed_pages_left (i64.load $message offset=0x10 (i64.const 0)))
    (global.set $dirty_pages_left (i64.load $message offset=0x18 (i64.const 0)))
    (i64.store $message offset=0xa0 (i64.const 0) (i64.const 0)))  ;; reply_bytes, trap_code

  (func $finish (export "finish")
    (i64.store $message offset=0xc0 (i64.const 0) (global.get $counter))
    (i64.store $message offset=0xc8 (i64.const 0) (global.get $accessed_pages_left))
    (i64.store $message offset=0xd0 (i64.const 0) (global.get $dirty_pages_left))
    (i64.store $message offset=0xd8 (i64.const 0) (i64.extend_i32_u (;I;) (memory.size $heap)))
    (i64.store $message offset=0xe0 (i64.const 0) (memory.size $stable))
    (i32.store $message offset=0xe8 (i64.const 0) (global.get $touched_end))
    (i32.store $message offset=0xec (i64.const 0) (global.get $written_end))
    (i32.store $message offset=0xf0 (i64.const 0) (global.get $dropped))
    (call $save_globals))

  ;; `link` writes the bodies of these two: one store, or load and set, for each saved global.
  (func $save_globals (export "save_globals"))
  (func $load_globals (export "load_globals"))

  ;; A table index past 32 bits must stay out of bounds of a 32-bit table.
  (func $callback_index (export "callback_index") (result i32)
    (if (result i32) (i64.gt_u (i64.load $message offset=0x80 (i64.const 0)) (i64.const 0xffffffff))
      (then (i32.const -1))
      (else (i32.wrap_i64 (i64.load $message offset=0x80 (i64.const 0))))))
  (func $callback_index64 (export "callback_index64") (result i64)
    (i64.load $message offset=0x80 (i64.const 0)))
  (func $callback_environment (export "callback_environment") (result i32 (;I;))
    (i32.wrap_i64 (;I;) (i64.load $message offset=0x88 (i64.const 0))))

  ;; --------------------------------------------------------------------------------------------- traps and metering

  (func $trap (param $code i32)
    (i32.store $message offset=0xa4 (i64.const 0) (local.get $code))
    (unreachable))

  (func $out_of_instructions (export "out_of_instructions")
    (call $trap (i32.const 7)))

  ;; Saturates: a cost that would wrap the counter empties it.
  (func $charge (export "charge") (param $instructions i64)
    (local $left i64)
    (local.set $left (i64.sub (global.get $counter) (local.get $instructions)))
    (if (i64.gt_s (local.get $left) (global.get $counter))
      (then (local.set $left (i64.const 0x8000000000000000))))
    (global.set $counter (local.get $left))
    (if (i64.lt_s (local.get $left) (i64.const 0)) (then (call $out_of_instructions))))

  ;; Bytes to be charged for, few enough that no product of them wraps and so many that nobody can pay for them.
  (func $chargeable (export "chargeable") (param $size i64) (result i64)
    (select (local.get $size) (i64.const 0x800000000000) (i64.lt_u (local.get $size) (i64.const 0x800000000000))))

  ;; For a line of the log: 2 instructions a byte of what the log can hold at all, 50 of what it has room for.
  (func $log_charge (export "log_charge") (param $size i64) (result i64)
    (local $capacity i64) (local $room i64)
    (local.set $capacity (i64.load32_u $message offset=0x90 (i64.const 0)))
    (local.set $room (i64.load32_u $message offset=0x94 (i64.const 0)))
    (i64.add
      (i64.mul (i64.const 2)
        (select (local.get $size) (local.get $capacity) (i64.lt_u (local.get $size) (local.get $capacity))))
      (i64.mul (i64.const 50)
        (select (local.get $size) (local.get $room) (i64.lt_u (local.get $size) (local.get $room))))))

  (func $print_charge (export "print_charge") (param $size i64) (result i64)
    (i64.mul (local.get $size) (i64.load $message offset=0x98 (i64.const 0))))

  (func $charge_size32 (export "charge_size32") (param $size i32) (result i32)
    (call $charge (i64.extend_i32_u (local.get $size)))
    (local.get $size))
  (func $charge_size64 (export "charge_size64") (param $size i64) (result i64)
    (call $charge (local.get $size))
    (local.get $size))

  ;; The memory has grown already when the limit is found exceeded, so it must trap, as on the network.
  (func $memory_grow (export "memory_grow") (param $delta i32 (;I;)) (result i32 (;I;))
    (local $old_size i32 (;I;))
    (local.set $old_size (memory.grow $heap (local.get $delta)))
    (if (i64.ne (i64.extend_i32_s (;I;) (local.get $old_size)) (i64.const -1))
      (then
        (if (i64.gt_u (i64.extend_i32_u (;I;) (memory.size $heap)) (i64.load $message offset=0x30 (i64.const 0)))
          (then (call $trap (i32.load16_u $message offset=0x3a (i64.const 0)))))))
    (local.get $old_size))

  ;; ------------------------------------------------------------------------------------------------- page accounting

  ;; Marks the pages of [first, last] as written and accessed, lists the new ones, holds them against the limits and
  ;; charges the newly accessed and the newly written ones.
  (func $mark_written (param $first i64) (param $last i64)
    (local $page i32) (local $end i32) (local $mark i32) (local $accessed i64) (local $dirty i64)
    (local.set $page (i32.wrap_i64 (local.get $first)))
    (local.set $end (i32.wrap_i64 (local.get $last)))
    (loop $next
      (local.set $mark (i32.load8_u $accounting (local.get $page)))
      (if (i32.ne (local.get $mark) (i32.const 3))
        (then
          (i32.store $accounting (global.get $written_end) (local.get $page))
          (global.set $written_end (i32.add (global.get $written_end) (i32.const 4)))
          (local.set $dirty (i64.add (local.get $dirty) (i64.const 1)))
          (if (i32.eqz (local.get $mark))
            (then
              (i32.store $accounting (global.get $touched_end) (local.get $page))
              (global.set $touched_end (i32.add (global.get $touched_end) (i32.const 4)))
              (local.set $accessed (i64.add (local.get $accessed) (i64.const 1)))))
          (i32.store8 $accounting (local.get $page) (i32.const 3))))
      (local.set $page (i32.add (local.get $page) (i32.const 1)))
      (br_if $next (i32.le_u (local.get $page) (local.get $end))))
    (if (i64.gt_u (local.get $accessed) (global.get $accessed_pages_left)) (then (call $trap (i32.const 5))))
    (if (i64.gt_u (local.get $dirty) (global.get $dirty_pages_left)) (then (call $trap (i32.const 4))))
    (global.set $accessed_pages_left (i64.sub (global.get $accessed_pages_left) (local.get $accessed)))
    (global.set $dirty_pages_left (i64.sub (global.get $dirty_pages_left) (local.get $dirty)))
    (call $charge
      (i64.add
        (i64.mul (local.get $accessed) (i64.load32_u $message offset=0x3c (i64.const 0)))
        (i64.mul (local.get $dirty) (i64.load32_u $message offset=0x5c (i64.const 0))))))

  (func $mark_accessed (param $first i64) (param $last i64)
    (local $page i32) (local $end i32) (local $accessed i64)
    (local.set $page (i32.wrap_i64 (local.get $first)))
    (local.set $end (i32.wrap_i64 (local.get $last)))
    (loop $next
      (if (i32.eqz (i32.load8_u $accounting (local.get $page)))
        (then
          (i32.store8 $accounting (local.get $page) (i32.const 2))
          (i32.store $accounting (global.get $touched_end) (local.get $page))
          (global.set $touched_end (i32.add (global.get $touched_end) (i32.const 4)))
          (local.set $accessed (i64.add (local.get $accessed) (i64.const 1)))))
      (local.set $page (i32.add (local.get $page) (i32.const 1)))
      (br_if $next (i32.le_u (local.get $page) (local.get $end))))
    (if (i64.gt_u (local.get $accessed) (global.get $accessed_pages_left)) (then (call $trap (i32.const 5))))
    (global.set $accessed_pages_left (i64.sub (global.get $accessed_pages_left) (local.get $accessed)))
    (call $charge (i64.mul (local.get $accessed) (i64.load32_u $message offset=0x3c (i64.const 0)))))

  ;; For accesses that a host function has carried out: `link` calls these after it.
  (func $account_write (export "account_write") (param $address i64) (param $size i64)
    (if (i64.ne (local.get $size) (i64.const 0))
      (then
        (call $mark_written
          (i64.shr_u (local.get $address) (i64.const 12))
          (i64.shr_u (i64.sub (i64.add (local.get $address) (local.get $size)) (i64.const 1)) (i64.const 12))))))

  (func $account_read (export "account_read") (param $address i64) (param $size i64)
    (if (i64.ne (local.get $size) (i64.const 0))
      (then
        (call $mark_accessed
          (i64.shr_u (local.get $address) (i64.const 12))
          (i64.shr_u (i64.sub (i64.add (local.get $address) (local.get $size)) (i64.const 1)) (i64.const 12))))))

  ;; ---------------------------------------------------------------------------------------------------- stable memory

  ;; Traps unless [address, address + size) lies in stable memory and size and heap address fit the heap; size > 0.
  (func $check_range (param $address i64) (param $heap_address i64) (param $size i64)
    (local $end i64)
    (local.set $end (i64.add (local.get $address) (local.get $size)))
    (if (i64.le_u (local.get $end) (local.get $address)) (then (call $trap (i32.const 2))))
    (if (i64.gt_u (local.get $end) (i64.shl (memory.size $stable) (i64.const 16))) (then (call $trap (i32.const 2))))
    (if (i64.gt_u (local.get $heap_address) (i64.const 0xffffffff (;max;))) (then (call $trap (i32.const 1))))
    (if (i64.gt_u (local.get $size) (i64.const 0xffffffff (;max;))) (then (call $trap (i32.const 1)))))

  (func $stable64_size (export "stable64_size") (result i64) (memory.size $stable))

  (func $stable64_grow (export "stable64_grow") (param $delta i64) (result i64)
    (local $size i64)
    (call $charge (i64.const 100))
    (local.set $size (memory.size $stable))
    (if (i64.gt_u (local.get $delta)
          (i64.sub (i64.load $message offset=0x20 (i64.const 0)) (local.get $size)))
      (then (return (i64.const -1))))
    (if (i64.gt_u (i64.add (local.get $size) (local.get $delta)) (i64.load $message offset=0x28 (i64.const 0)))
      (then (call $trap (i32.load16_u $message offset=0x38 (i64.const 0)))))
    (local.set $size (memory.grow $stable (local.get $delta)))
    (if (i64.eq (local.get $size) (i64.const -1)) (then (call $trap (i32.const 6))))
    (local.get $size))

  ;; The hot paths: up to 16 bytes within one page that is marked already. A marked page lies in stable memory, so no
  ;; bounds are left to check there. 0xffffff8000000fff takes away the page number: what remains is the offset in the
  ;; page, or far too much where the address is beyond the 2^39 bytes that the accounting covers. A real map makes 95 %
  ;; of its accesses with 4, 7, 8 and 16 bytes: two loads and stores, overlapping where they must, do 4 to 16. Up to 64
  ;; bytes go by hand too (memory.copy costs 3.8 ns at any small size), larger requests and unmarked pages in the cold
  ;; bodies.
  (func $stable64_write (export "stable64_write") (param $address i64) (param $source i64) (param $size i64)
    (if (i64.le_u (local.get $size) (i64.const 16))
      (then
        (if (i64.le_u
              (i64.add (i64.and (local.get $address) (i64.const 0xffffff8000000fff)) (local.get $size))
              (i64.const 4096))
          (then
            (if (i32.eq
                  (i32.load8_u $accounting (i32.wrap_i64 (i64.shr_u (local.get $address) (i64.const 12))))
                  (i32.const 3))
              (then
                (if (i64.le_u (local.get $source) (i64.const 0xffffffff (;max;)))
                  (then
                    (global.set $counter
                      (i64.sub (global.get $counter) (i64.add (local.get $size) (i64.const 20))))
                    (if (i64.lt_s (global.get $counter) (i64.const 0)) (then (call $out_of_instructions)))
                    (if (i64.ge_u (local.get $size) (i64.const 8))
                      (then
                        (i64.store $stable (local.get $address) (i64.load $heap (i32.wrap_i64 (;I;) (local.get $source))))
                        (if (i64.ne (local.get $size) (i64.const 8))
                          (then
                            (i64.store $stable (i64.sub (i64.add (local.get $address) (local.get $size)) (i64.const 8))
                                (i64.load $heap (i32.wrap_i64 (;I;) (i64.sub (i64.add (local.get $source) (local.get $size)) (i64.const 8)))))))
                        (return)))
                    (if (i64.ge_u (local.get $size) (i64.const 4))
                      (then
                        (i32.store $stable (local.get $address) (i32.load $heap (i32.wrap_i64 (;I;) (local.get $source))))
                        (if (i64.ne (local.get $size) (i64.const 4))
                          (then
                            (i32.store $stable (i64.sub (i64.add (local.get $address) (local.get $size)) (i64.const 4))
                                (i32.load $heap (i32.wrap_i64 (;I;) (i64.sub (i64.add (local.get $source) (local.get $size)) (i64.const 4)))))))
                        (return)))
                    (call $copy_tiny_to_stable (local.get $address) (local.get $source) (local.get $size))
                    (return)))))))))
    (call $stable64_write_warm (local.get $address) (local.get $source) (local.get $size)))

  (func $stable64_write_warm (param $address i64) (param $source i64) (param $size i64)
    (if (i64.lt_u (i64.sub (local.get $size) (i64.const 1)) (i64.const 4096))
      (then
        (if (i64.le_u
              (i64.add (i64.and (local.get $address) (i64.const 0xffffff8000000fff)) (local.get $size))
              (i64.const 4096))
          (then
            (if (i32.eq
                  (i32.load8_u $accounting (i32.wrap_i64 (i64.shr_u (local.get $address) (i64.const 12))))
                  (i32.const 3))
              (then
                (call $charge (i64.add (local.get $size) (i64.const 20)))
                (if (i64.gt_u (local.get $source) (i64.const 0xffffffff (;max;))) (then (call $trap (i32.const 1))))
                (call $copy_to_stable (local.get $address) (local.get $source) (local.get $size))
                (return)))))))
    (call $stable64_write_cold (local.get $address) (local.get $source) (local.get $size)))

  (func $stable64_write_cold (param $address i64) (param $source i64) (param $size i64)
    (call $charge (i64.add (local.get $size) (i64.const 20)))
    (if (i64.eqz (local.get $size)) (then (return)))
    (call $check_range (local.get $address) (local.get $source) (local.get $size))
    (call $mark_written
      (i64.shr_u (local.get $address) (i64.const 12))
      (i64.shr_u (i64.sub (i64.add (local.get $address) (local.get $size)) (i64.const 1)) (i64.const 12)))
    (call $copy_to_stable (local.get $address) (local.get $source) (local.get $size)))

  (func $stable64_read (export "stable64_read") (param $target i64) (param $address i64) (param $size i64)
    (if (i64.le_u (local.get $size) (i64.const 16))
      (then
        (if (i64.le_u
              (i64.add (i64.and (local.get $address) (i64.const 0xffffff8000000fff)) (local.get $size))
              (i64.const 4096))
          (then
            (if (i32.load8_u $accounting (i32.wrap_i64 (i64.shr_u (local.get $address) (i64.const 12))))
              (then
                (if (i64.le_u (local.get $target) (i64.const 0xffffffff (;max;)))
                  (then
                    (global.set $counter
                      (i64.sub (global.get $counter) (i64.add (local.get $size) (i64.const 20))))
                    (if (i64.lt_s (global.get $counter) (i64.const 0)) (then (call $out_of_instructions)))
                    (if (i64.ge_u (local.get $size) (i64.const 8))
                      (then
                        (i64.store $heap (i32.wrap_i64 (;I;) (local.get $target)) (i64.load $stable (local.get $address)))
                        (if (i64.ne (local.get $size) (i64.const 8))
                          (then
                            (i64.store $heap (i32.wrap_i64 (;I;) (i64.sub (i64.add (local.get $target) (local.get $size)) (i64.const 8)))
                                (i64.load $stable (i64.sub (i64.add (local.get $address) (local.get $size)) (i64.const 8))))))
                        (return)))
                    (if (i64.ge_u (local.get $size) (i64.const 4))
                      (then
                        (i32.store $heap (i32.wrap_i64 (;I;) (local.get $target)) (i32.load $stable (local.get $address)))
                        (if (i64.ne (local.get $size) (i64.const 4))
                          (then
                            (i32.store $heap (i32.wrap_i64 (;I;) (i64.sub (i64.add (local.get $target) (local.get $size)) (i64.const 4)))
                                (i32.load $stable (i64.sub (i64.add (local.get $address) (local.get $size)) (i64.const 4))))))
                        (return)))
                    (call $copy_tiny_from_stable (local.get $target) (local.get $address) (local.get $size))
                    (return)))))))))
    (call $stable64_read_warm (local.get $target) (local.get $address) (local.get $size)))

  (func $stable64_read_warm (param $target i64) (param $address i64) (param $size i64)
    (if (i64.lt_u (i64.sub (local.get $size) (i64.const 1)) (i64.const 4096))
      (then
        (if (i64.le_u
              (i64.add (i64.and (local.get $address) (i64.const 0xffffff8000000fff)) (local.get $size))
              (i64.const 4096))
          (then
            (if (i32.load8_u $accounting (i32.wrap_i64 (i64.shr_u (local.get $address) (i64.const 12))))
              (then
                (call $charge (i64.add (local.get $size) (i64.const 20)))
                (if (i64.gt_u (local.get $target) (i64.const 0xffffffff (;max;))) (then (call $trap (i32.const 1))))
                (call $copy_from_stable (local.get $target) (local.get $address) (local.get $size))
                (return)))))))
    (call $stable64_read_cold (local.get $target) (local.get $address) (local.get $size)))

  (func $stable64_read_cold (param $target i64) (param $address i64) (param $size i64)
    (call $charge (i64.add (local.get $size) (i64.const 20)))
    (if (i64.eqz (local.get $size)) (then (return)))
    (call $check_range (local.get $address) (local.get $target) (local.get $size))
    (call $mark_accessed
      (i64.shr_u (local.get $address) (i64.const 12))
      (i64.shr_u (i64.sub (i64.add (local.get $address) (local.get $size)) (i64.const 1)) (i64.const 12)))
    (call $copy_from_stable (local.get $target) (local.get $address) (local.get $size)))

  ;; Copies of checked ranges. Parts overlap where a size is no power of two.
  (func $copy_tiny_to_stable (param $address i64) (param $source i64) (param $size i64)
    (if (i64.ge_u (local.get $size) (i64.const 2))
      (then
        (i32.store16 $stable (local.get $address) (i32.load16_u $heap (i32.wrap_i64 (;I;) (local.get $source))))
        (i32.store16 $stable (i64.sub (i64.add (local.get $address) (local.get $size)) (i64.const 2))
                (i32.load16_u $heap (i32.wrap_i64 (;I;) (i64.sub (i64.add (local.get $source) (local.get $size)) (i64.const 2)))))
        (return)))
    (if (i64.eq (local.get $size) (i64.const 1))
      (then
        (i32.store8 $stable (local.get $address) (i32.load8_u $heap (i32.wrap_i64 (;I;) (local.get $source)))))))

  (func $copy_to_stable (param $address i64) (param $source i64) (param $size i64)
    (if (i64.gt_u (local.get $size) (i64.const 64))
      (then (call $block_copy_to_stable (local.get $address) (local.get $source) (local.get $size)) (return)))
    (if (i64.ge_u (local.get $size) (i64.const 16))
      (then
        (v128.store $stable (local.get $address) (v128.load $heap (i32.wrap_i64 (;I;) (local.get $source))))
        (if (i64.gt_u (local.get $size) (i64.const 32))
          (then
            (v128.store $stable offset=16 (local.get $address) (v128.load $heap offset=16 (i32.wrap_i64 (;I;) (local.get $source))))
            (if (i64.gt_u (local.get $size) (i64.const 48))
              (then (v128.store $stable offset=32 (local.get $address) (v128.load $heap offset=32 (i32.wrap_i64 (;I;) (local.get $source))))))))
        (v128.store $stable (i64.sub (i64.add (local.get $address) (local.get $size)) (i64.const 16))
                (v128.load $heap (i32.wrap_i64 (;I;) (i64.sub (i64.add (local.get $source) (local.get $size)) (i64.const 16)))))
        (return)))
    (if (i64.ge_u (local.get $size) (i64.const 8))
      (then
        (i64.store $stable (local.get $address) (i64.load $heap (i32.wrap_i64 (;I;) (local.get $source))))
        (i64.store $stable (i64.sub (i64.add (local.get $address) (local.get $size)) (i64.const 8))
                (i64.load $heap (i32.wrap_i64 (;I;) (i64.sub (i64.add (local.get $source) (local.get $size)) (i64.const 8)))))
        (return)))
    (if (i64.ge_u (local.get $size) (i64.const 4))
      (then
        (i32.store $stable (local.get $address) (i32.load $heap (i32.wrap_i64 (;I;) (local.get $source))))
        (i32.store $stable (i64.sub (i64.add (local.get $address) (local.get $size)) (i64.const 4))
                (i32.load $heap (i32.wrap_i64 (;I;) (i64.sub (i64.add (local.get $source) (local.get $size)) (i64.const 4)))))
        (return)))
    (call $copy_tiny_to_stable (local.get $address) (local.get $source) (local.get $size)))

  (func $block_copy_to_stable (param $address i64) (param $source i64) (param $size i64)
    (memory.copy $stable $heap
      (local.get $address)
      (i32.wrap_i64 (;I;) (local.get $source))
      (i32.wrap_i64 (;I;) (local.get $size))))

  (func $copy_tiny_from_stable (param $target i64) (param $address i64) (param $size i64)
    (if (i64.ge_u (local.get $size) (i64.const 2))
      (then
        (i32.wrap_i64 (;I;) (local.get $target))
        (i32.load16_u $stable (local.get $address))
        (i32.wrap_i64 (;I;) (i64.sub (i64.add (local.get $target) (local.get $size)) (i64.const 2)))
        (i32.load16_u $stable (i64.sub (i64.add (local.get $address) (local.get $size)) (i64.const 2)))
        (i32.store16 $heap)
        (i32.store16 $heap)
        (return)))
    (if (i64.eq (local.get $size) (i64.const 1))
      (then
        (i32.store8 $heap (i32.wrap_i64 (;I;) (local.get $target)) (i32.load8_u $stable (local.get $address))))))

  (func $copy_from_stable (param $target i64) (param $address i64) (param $size i64)
    (if (i64.gt_u (local.get $size) (i64.const 64))
      (then (call $block_copy_from_stable (local.get $target) (local.get $address) (local.get $size)) (return)))
    (if (i64.ge_u (local.get $size) (i64.const 16))
      (then
        (v128.store $heap (i32.wrap_i64 (;I;) (local.get $target)) (v128.load $stable (local.get $address)))
        (if (i64.gt_u (local.get $size) (i64.const 32))
          (then
            (v128.store $heap offset=16 (i32.wrap_i64 (;I;) (local.get $target)) (v128.load $stable offset=16 (local.get $address)))
            (if (i64.gt_u (local.get $size) (i64.const 48))
              (then (v128.store $heap offset=32 (i32.wrap_i64 (;I;) (local.get $target)) (v128.load $stable offset=32 (local.get $address)))))))
        (v128.store $heap (i32.wrap_i64 (;I;) (i64.sub (i64.add (local.get $target) (local.get $size)) (i64.const 16)))
                (v128.load $stable (i64.sub (i64.add (local.get $address) (local.get $size)) (i64.const 16))))
        (return)))
    (if (i64.ge_u (local.get $size) (i64.const 8))
      (then
        (i64.store $heap (i32.wrap_i64 (;I;) (local.get $target)) (i64.load $stable (local.get $address)))
        (i64.store $heap (i32.wrap_i64 (;I;) (i64.sub (i64.add (local.get $target) (local.get $size)) (i64.const 8)))
                (i64.load $stable (i64.sub (i64.add (local.get $address) (local.get $size)) (i64.const 8))))
        (return)))
    (if (i64.ge_u (local.get $size) (i64.const 4))
      (then
        (i32.store $heap (i32.wrap_i64 (;I;) (local.get $target)) (i32.load $stable (local.get $address)))
        (i32.store $heap (i32.wrap_i64 (;I;) (i64.sub (i64.add (local.get $target) (local.get $size)) (i64.const 4)))
                (i32.load $stable (i64.sub (i64.add (local.get $address) (local.get $size)) (i64.const 4))))
        (return)))
    (call $copy_tiny_from_stable (local.get $target) (local.get $address) (local.get $size)))

  (func $block_copy_from_stable (param $target i64) (param $address i64) (param $size i64)
    (memory.copy $heap $stable
      (i32.wrap_i64 (;I;) (local.get $target))
      (local.get $address)
      (i32.wrap_i64 (;I;) (local.get $size))))

  ;; The same without accounting: nothing is marked, the host finds changed pages by asking the operating system. Hot:
  ;; up to 16 bytes from an address that is not in the last page. (Signed, as an empty memory has no last page.)
  (func $stable64_write_unaccounted (export "stable64_write unaccounted")
    (param $address i64) (param $source i64) (param $size i64)
    (if (i64.le_u (local.get $size) (i64.const 16))
      (then
        (if (i64.lt_s
              (i64.shr_u (local.get $address) (i64.const 12))
              (i64.sub (i64.shl (memory.size $stable) (i64.const 4)) (i64.const 1)))
          (then
            (if (i64.le_u (local.get $source) (i64.const 0xffffffff (;max;)))
              (then
                (global.set $counter
                  (i64.sub (global.get $counter) (i64.add (local.get $size) (i64.const 20))))
                (if (i64.lt_s (global.get $counter) (i64.const 0)) (then (call $out_of_instructions)))
                (if (i64.ge_u (local.get $size) (i64.const 8))
                  (then
                    (i64.store $stable (local.get $address) (i64.load $heap (i32.wrap_i64 (;I;) (local.get $source))))
                    (if (i64.ne (local.get $size) (i64.const 8))
                      (then
                        (i64.store $stable (i64.sub (i64.add (local.get $address) (local.get $size)) (i64.const 8))
                            (i64.load $heap (i32.wrap_i64 (;I;) (i64.sub (i64.add (local.get $source) (local.get $size)) (i64.const 8)))))))
                    (return)))
                (if (i64.ge_u (local.get $size) (i64.const 4))
                  (then
                    (i32.store $stable (local.get $address) (i32.load $heap (i32.wrap_i64 (;I;) (local.get $source))))
                    (if (i64.ne (local.get $size) (i64.const 4))
                      (then
                        (i32.store $stable (i64.sub (i64.add (local.get $address) (local.get $size)) (i64.const 4))
                            (i32.load $heap (i32.wrap_i64 (;I;) (i64.sub (i64.add (local.get $source) (local.get $size)) (i64.const 4)))))))
                    (return)))
                (call $copy_tiny_to_stable (local.get $address) (local.get $source) (local.get $size))
                (return)))))))
    (call $stable64_write_unaccounted_cold (local.get $address) (local.get $source) (local.get $size)))

  (func $stable64_write_unaccounted_cold (param $address i64) (param $source i64) (param $size i64)
    (local $end i64)
    (call $charge (i64.add (local.get $size) (i64.const 20)))
    (if (i64.eqz (local.get $size)) (then (return)))
    (local.set $end (i64.add (local.get $address) (local.get $size)))
    (if (i64.le_u (local.get $end) (local.get $address)) (then (call $trap (i32.const 2))))
    (if (i64.gt_u (local.get $end) (i64.shl (memory.size $stable) (i64.const 16))) (then (call $trap (i32.const 2))))
    (if (i64.gt_u (i64.or (local.get $source) (local.get $size)) (i64.const 0xffffffff (;max;)))
      (then (call $trap (i32.const 1))))
    (call $copy_to_stable (local.get $address) (local.get $source) (local.get $size)))

  ;; Of a read the engine checks the bounds, and its trap is told by where the instruction stands: the replica's order
  ;; holds, stable memory before the heap, as both loads come before the first store. (So 1.0 of the accounted read, whose
  ;; hot path tests a byte; with the check above it was 1.14.)
  (func $stable64_read_unaccounted (export "stable64_read unaccounted")
    (param $target i64) (param $address i64) (param $size i64)
    (if (i64.le_u (local.get $size) (i64.const 16))
      (then
        (if (i64.le_u (local.get $target) (i64.const 0xffffffff (;max;)))
          (then
            (global.set $counter
              (i64.sub (global.get $counter) (i64.add (local.get $size) (i64.const 20))))
            (if (i64.lt_s (global.get $counter) (i64.const 0)) (then (call $out_of_instructions)))
            (if (i64.eq (local.get $size) (i64.const 8))
              (then
                (i64.store $heap (i32.wrap_i64 (;I;) (local.get $target)) (i64.load $stable (local.get $address)))
                (return)))
            (if (i64.gt_u (local.get $size) (i64.const 8))
              (then
                (i32.wrap_i64 (;I;) (local.get $target))
                (i64.load $stable (local.get $address))
                (i32.wrap_i64 (;I;) (i64.sub (i64.add (local.get $target) (local.get $size)) (i64.const 8)))
                (i64.load $stable (i64.sub (i64.add (local.get $address) (local.get $size)) (i64.const 8)))
                (i64.store $heap)
                (i64.store $heap)
                (return)))
            (if (i64.ge_u (local.get $size) (i64.const 4))
              (then
                (i32.wrap_i64 (;I;) (local.get $target))
                (i32.load $stable (local.get $address))
                (i32.wrap_i64 (;I;) (i64.sub (i64.add (local.get $target) (local.get $size)) (i64.const 4)))
                (i32.load $stable (i64.sub (i64.add (local.get $address) (local.get $size)) (i64.const 4)))
                (i32.store $heap)
                (i32.store $heap)
                (return)))
            (call $copy_tiny_from_stable (local.get $target) (local.get $address) (local.get $size))
            (return)))))
    (call $stable64_read_unaccounted_cold (local.get $target) (local.get $address) (local.get $size)))

  (func $stable64_read_unaccounted_cold (param $target i64) (param $address i64) (param $size i64)
    (local $end i64)
    (call $charge (i64.add (local.get $size) (i64.const 20)))
    (if (i64.eqz (local.get $size)) (then (return)))
    (local.set $end (i64.add (local.get $address) (local.get $size)))
    (if (i64.le_u (local.get $end) (local.get $address)) (then (call $trap (i32.const 2))))
    (if (i64.gt_u (local.get $end) (i64.shl (memory.size $stable) (i64.const 16))) (then (call $trap (i32.const 2))))
    (if (i64.gt_u (i64.or (local.get $target) (local.get $size)) (i64.const 0xffffffff (;max;)))
      (then (call $trap (i32.const 1))))
    (call $copy_from_stable (local.get $target) (local.get $address) (local.get $size)))

  ;; The 32-bit functions: the same over memories of at most 4 GiB. A write of nothing is still held against the bounds,
  ;; a read of nothing is not: the replica's order.
  (func $check_small (if (i64.gt_u (memory.size $stable) (i64.const 65536)) (then (call $trap (i32.const 3)))))

  (func $stable_size (export "stable_size") (result i32)
    (call $check_small)
    (i32.wrap_i64 (memory.size $stable)))

  (func $stable_grow (export "stable_grow") (param $delta i32) (result i32)
    (call $check_small)
    (if (i64.gt_u (i64.add (memory.size $stable) (i64.extend_i32_u (local.get $delta))) (i64.const 65536))
      (then (call $charge (i64.const 100)) (return (i32.const -1))))
    (i32.wrap_i64 (call $stable64_grow (i64.extend_i32_u (local.get $delta)))))

  (func $check_write_of_nothing (param $address i32) (param $size i32)
    (if (i32.eqz (local.get $size))
      (then
        (if (i64.gt_u (i64.extend_i32_u (local.get $address)) (i64.shl (memory.size $stable) (i64.const 16)))
          (then (call $trap (i32.const 2)))))))

  (func $stable_write (export "stable_write") (param $address i32) (param $source i32) (param $size i32)
    (call $check_small)
    (call $check_write_of_nothing (local.get $address) (local.get $size))
    (call $stable64_write
      (i64.extend_i32_u (local.get $address))
      (i64.extend_i32_u (local.get $source))
      (i64.extend_i32_u (local.get $size))))

  (func $stable_read (export "stable_read") (param $target i32) (param $address i32) (param $size i32)
    (if (local.get $size) (then (call $check_small)))
    (call $stable64_read
      (i64.extend_i32_u (local.get $target))
      (i64.extend_i32_u (local.get $address))
      (i64.extend_i32_u (local.get $size))))

  (func $stable_write_unaccounted (export "stable_write unaccounted")
    (param $address i32) (param $source i32) (param $size i32)
    (call $check_small)
    (call $check_write_of_nothing (local.get $address) (local.get $size))
    (call $stable64_write_unaccounted
      (i64.extend_i32_u (local.get $address))
      (i64.extend_i32_u (local.get $source))
      (i64.extend_i32_u (local.get $size))))

  (func $stable_read_unaccounted (export "stable_read unaccounted")
    (param $target i32) (param $address i32) (param $size i32)
    (if (local.get $size) (then (call $check_small)))
    (call $stable64_read_unaccounted
      (i64.extend_i32_u (local.get $target))
      (i64.extend_i32_u (local.get $address))
      (i64.extend_i32_u (local.get $size))))

  ;; ------------------------------------------------------------------------------ functions that run in every message

  ;; `function` is the place in abi.NATIVE_MESSAGE_FUNCTIONS; `contexts` a set of Context.bit.
  (func $check_context (param $function i32) (param $contexts i32)
    (if (i32.eqz (i32.and (i32.load $message (i64.const 0)) (local.get $contexts)))
      (then (call $trap_in (i32.const 65) (local.get $function) (i32.const 0)))))

  (func $trap_in (param $code i32) (param $function i32) (param $kind i32)
    (i32.store $message offset=0xa8 (i64.const 0) (local.get $function))
    (i32.store $message offset=0xac (i64.const 0) (local.get $kind))
    (call $trap (local.get $code)))

  ;; Traps where [address, address + size) leaves the heap; the size of the heap goes with the trap.
  (func $check_heap (param $function i32) (param $address i64) (param $size i64)
    (local $wasm_pages i64) (local $heap_bytes i64)
    (local.set $wasm_pages (i64.extend_i32_u (;I;) (memory.size $heap)))
    (local.set $heap_bytes (i64.shl (local.get $wasm_pages) (i64.const 16)))
    (if (i32.or
          (i64.gt_u (local.get $address) (local.get $heap_bytes))
          (i64.gt_u (local.get $size) (i64.sub (local.get $heap_bytes) (local.get $address))))
      (then
        (i64.store $message offset=0xb0 (i64.const 0) (local.get $address))
        (i64.store $message offset=0xb8 (i64.const 0) (local.get $size))
        (call $trap_in (i32.const 14) (local.get $function)
          (i32.add (i32.wrap_i64 (local.get $wasm_pages)) (i32.const 2))))))

  ;; Copies [offset, offset + size) of a blob of `total` bytes at `blob` in the message memory to the heap.
  (func $copy_to_heap
    (param $function i32) (param $blob i64) (param $total i64) (param $target i64) (param $offset i64) (param $size i64)
    (call $check_heap (local.get $function) (local.get $target) (local.get $size))
    (if (i32.or
          (i64.gt_u (local.get $offset) (local.get $total))
          (i64.gt_u (local.get $size) (i64.sub (local.get $total) (local.get $offset))))
      (then
        (i64.store $message offset=0xb0 (i64.const 0) (local.get $offset))
        (i64.store $message offset=0xb8 (i64.const 0) (local.get $size))
        (call $trap_in (i32.const 14) (local.get $function) (i32.const 1))))
    (memory.copy $heap $message
      (i32.wrap_i64 (;I;) (local.get $target))
      (i64.add (local.get $blob) (local.get $offset))
      (i32.wrap_i64 (;I;) (local.get $size))))

  (func $msg_arg_data_size (export "msg_arg_data_size") (result i32 (;I;))
    (call $check_context (i32.const 0) (i32.const 0x45fa))
    (i32.wrap_i64 (;I;) (i64.load32_u $message offset=0x50 (i64.const 0))))

  (func $msg_arg_data_copy (export "msg_arg_data_copy")
    (param $target i32 (;I;)) (param $offset i32 (;I;)) (param $size i32 (;I;))
    (call $check_context (i32.const 1) (i32.const 0x45fa))
    (call $copy_to_heap (i32.const 1) (i64.const 0x100000) (i64.load32_u $message offset=0x50 (i64.const 0))
      (i64.extend_i32_u (;I;) (local.get $target))
      (i64.extend_i32_u (;I;) (local.get $offset))
      (i64.extend_i32_u (;I;) (local.get $size))))

  (func $msg_caller_size (export "msg_caller_size") (result i32 (;I;))
    (call $check_context (i32.const 2) (i32.const 0xfffe))
    (i32.wrap_i64 (;I;) (i64.load32_u $message offset=0x54 (i64.const 0))))

  (func $msg_caller_copy (export "msg_caller_copy")
    (param $target i32 (;I;)) (param $offset i32 (;I;)) (param $size i32 (;I;))
    (call $check_context (i32.const 3) (i32.const 0xfffe))
    (call $copy_to_heap (i32.const 3) (i64.const 0x60) (i64.load32_u $message offset=0x54 (i64.const 0))
      (i64.extend_i32_u (;I;) (local.get $target))
      (i64.extend_i32_u (;I;) (local.get $offset))
      (i64.extend_i32_u (;I;) (local.get $size))))

  (func $check_may_respond (param $function i32)
    (call $check_context (local.get $function) (i32.const 0x0ff8))
    (if (i32.load $message offset=0x04 (i64.const 0))
      (then (call $trap_in (i32.const 13) (local.get $function) (i32.const 1)))))

  (func $msg_reply_data_append (export "msg_reply_data_append") (param $source i32 (;I;)) (param $size i32 (;I;))
    (local $reply_bytes i64) (local $new_bytes i64)
    (call $check_may_respond (i32.const 4))
    (local.set $reply_bytes (i64.load32_u $message offset=0xa0 (i64.const 0)))
    (local.set $new_bytes (i64.add (local.get $reply_bytes) (i64.extend_i32_u (;I;) (local.get $size))))
    (if (i32.or
          (i64.gt_u (local.get $new_bytes) (i64.load32_u $message offset=0x58 (i64.const 0)))
          (i64.lt_u (local.get $new_bytes) (local.get $reply_bytes)))
      (then
        (i64.store $message offset=0xb0 (i64.const 0) (local.get $new_bytes))
        (call $trap_in (i32.const 12) (i32.const 4) (i32.const 1))))
    (call $check_heap (i32.const 4)
      (i64.extend_i32_u (;I;) (local.get $source))
      (i64.extend_i32_u (;I;) (local.get $size)))
    (memory.copy $message $heap
      (i64.add (i64.const 0x4100000) (local.get $reply_bytes))
      (local.get $source)
      (local.get $size))
    (i64.store32 $message offset=0xa0 (i64.const 0) (local.get $new_bytes)))

  (func $msg_reply (export "msg_reply")
    (call $check_may_respond (i32.const 5))
    (i32.store $message offset=0x04 (i64.const 0) (i32.const 1)))

  (func $time (export "time") (result i64)
    (call $check_context (i32.const 6) (i32.const 0xfffe))
    (i64.load $message offset=0x40 (i64.const 0)))

  (func $performance_counter (export "performance_counter") (param $type i32) (result i64)
    (local $instructions i64)
    (local.set $instructions (i64.sub (i64.load $message offset=0x08 (i64.const 0)) (global.get $counter)))
    (if (i32.eqz (local.get $type)) (then (return (local.get $instructions))))
    (if (i32.ne (local.get $type) (i32.const 1))
      (then
        (i64.store32 $message offset=0xb0 (i64.const 0) (i64.extend_i32_u (local.get $type)))
        (call $trap_in (i32.const 65) (i32.const 7) (i32.const 1))))
    (i64.add (local.get $instructions) (i64.load $message offset=0x48 (i64.const 0))))
)
