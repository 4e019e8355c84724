;; One memory of a canister's own as a memory of the crate's MemoryManager in stable memory: `lowering.py` appends a copy
;; of these functions and globals to the module for each, so that a module with several memories runs on the network.
;;
;; tools/build_kernel.py builds lower.wasm from here, and lower64.wasm for heaps with 64-bit addresses, as it does of
;; kernel.wat; a test proves them equal. `stable/memory_manager.py` draws the layout.
;;
;; Nothing here owns a byte of the canister's heap. Where bytes have to lie there for a moment, they lie at its start:
;; what is there goes to locals, or on Wasm's stack, and back again. A trap undoes it.
(module
  (import "ic0" "stable64_size" (func $stable_size (result i64)))
  (import "ic0" "stable64_grow" (func $stable_grow (param i64) (result i64)))
  (import "ic0" "stable64_read" (func $stable_read (param i64 i64 i64)))
  (import "ic0" "stable64_write" (func $stable_write (param i64 i64 i64)))
  ;; Each traps with its text.
  (import "trap" "out of bounds" (func $out_of_bounds))
  (import "trap" "no manager" (func $no_manager))
  (import "trap" "no room" (func $no_room))
  ;; Where `copy` takes from: another memory's "read", or a data segment.
  (import "source" "read" (func $source_read (param i64 i64 i64 i64)))
  (import "canister" "memory" (memory $heap 0)) (;I;)

  (global $id (export "id") i64 (i64.const 0))
  (global $minimum (export "minimum") i64 (i64.const 0))
  (global $maximum (export "maximum") i64 (i64.const 0))

  ;; The run of buckets that was last used: it holds $first up to $end, which lie $delta further on in stable memory.
  ;; Buckets never move and memories do not shrink but by $begin, so that it stays true.
  (global $first (mut i64) (i64.const 0))
  (global $end (mut i64) (i64.const 0))
  (global $delta (mut i64) (i64.const 0))

  ;; Of a memory that is emptied: whether something was written since, and how many Wasm pages may hold what was there
  ;; before. Those are zeroed where it grows over them.
  (global $touched (export "touched") (mut i32) (i32.const 0))
  (global $stale (mut i64) (i64.const 0))

  ;; ----------------------------------------------------------------------------------------- words of stable memory

  (func $word (param $address i64) (result i64)
    (local $kept i64) (local $found i64)
    (local.set $kept (i64.load (i32.wrap_i64 (;I;) (i64.const 0))))
    (call $stable_read (i64.const 0) (local.get $address) (i64.const 8))
    (local.set $found (i64.load (i32.wrap_i64 (;I;) (i64.const 0))))
    (i64.store (i32.wrap_i64 (;I;) (i64.const 0)) (local.get $kept))
    (local.get $found))

  (func $put (param $address i64) (param $value i64) (param $size i64)
    (local $kept i64)
    (local.set $kept (i64.load (i32.wrap_i64 (;I;) (i64.const 0))))
    (i64.store (i32.wrap_i64 (;I;) (i64.const 0)) (local.get $value))
    (call $stable_write (local.get $address) (i64.const 0) (local.get $size))
    (i64.store (i32.wrap_i64 (;I;) (i64.const 0)) (local.get $kept)))

  ;; The first 128 bytes of the heap, onto the stack and back; between the two they are a window for others.
  (func $keep (result i64 i64 i64 i64 i64 i64 i64 i64 i64 i64 i64 i64 i64 i64 i64 i64)
    (i64.load offset=0 (i32.wrap_i64 (;I;) (i64.const 0)))
    (i64.load offset=8 (i32.wrap_i64 (;I;) (i64.const 0)))
    (i64.load offset=16 (i32.wrap_i64 (;I;) (i64.const 0)))
    (i64.load offset=24 (i32.wrap_i64 (;I;) (i64.const 0)))
    (i64.load offset=32 (i32.wrap_i64 (;I;) (i64.const 0)))
    (i64.load offset=40 (i32.wrap_i64 (;I;) (i64.const 0)))
    (i64.load offset=48 (i32.wrap_i64 (;I;) (i64.const 0)))
    (i64.load offset=56 (i32.wrap_i64 (;I;) (i64.const 0)))
    (i64.load offset=64 (i32.wrap_i64 (;I;) (i64.const 0)))
    (i64.load offset=72 (i32.wrap_i64 (;I;) (i64.const 0)))
    (i64.load offset=80 (i32.wrap_i64 (;I;) (i64.const 0)))
    (i64.load offset=88 (i32.wrap_i64 (;I;) (i64.const 0)))
    (i64.load offset=96 (i32.wrap_i64 (;I;) (i64.const 0)))
    (i64.load offset=104 (i32.wrap_i64 (;I;) (i64.const 0)))
    (i64.load offset=112 (i32.wrap_i64 (;I;) (i64.const 0)))
    (i64.load offset=120 (i32.wrap_i64 (;I;) (i64.const 0))))

  (func $restore (param i64 i64 i64 i64 i64 i64 i64 i64 i64 i64 i64 i64 i64 i64 i64 i64)
    (i64.store offset=0 (i32.wrap_i64 (;I;) (i64.const 0)) (local.get 0))
    (i64.store offset=8 (i32.wrap_i64 (;I;) (i64.const 0)) (local.get 1))
    (i64.store offset=16 (i32.wrap_i64 (;I;) (i64.const 0)) (local.get 2))
    (i64.store offset=24 (i32.wrap_i64 (;I;) (i64.const 0)) (local.get 3))
    (i64.store offset=32 (i32.wrap_i64 (;I;) (i64.const 0)) (local.get 4))
    (i64.store offset=40 (i32.wrap_i64 (;I;) (i64.const 0)) (local.get 5))
    (i64.store offset=48 (i32.wrap_i64 (;I;) (i64.const 0)) (local.get 6))
    (i64.store offset=56 (i32.wrap_i64 (;I;) (i64.const 0)) (local.get 7))
    (i64.store offset=64 (i32.wrap_i64 (;I;) (i64.const 0)) (local.get 8))
    (i64.store offset=72 (i32.wrap_i64 (;I;) (i64.const 0)) (local.get 9))
    (i64.store offset=80 (i32.wrap_i64 (;I;) (i64.const 0)) (local.get 10))
    (i64.store offset=88 (i32.wrap_i64 (;I;) (i64.const 0)) (local.get 11))
    (i64.store offset=96 (i32.wrap_i64 (;I;) (i64.const 0)) (local.get 12))
    (i64.store offset=104 (i32.wrap_i64 (;I;) (i64.const 0)) (local.get 13))
    (i64.store offset=112 (i32.wrap_i64 (;I;) (i64.const 0)) (local.get 14))
    (i64.store offset=120 (i32.wrap_i64 (;I;) (i64.const 0)) (local.get 15)))

  (func $least (param $a i64) (param $b i64) (result i64)
    (select (local.get $a) (local.get $b) (i64.lt_u (local.get $a) (local.get $b))))

  ;; Fill stable memory itself, through the window.
  (func $fill_stable (param $address i64) (param $value i64) (param $size i64)
    (local $part i64)
    (call $keep)
    (memory.fill
      (i32.wrap_i64 (;I;) (i64.const 0)) (i32.wrap_i64 (local.get $value)) (i32.wrap_i64 (;I;) (i64.const 128)))
    (loop $next
      (if (i64.ne (local.get $size) (i64.const 0))
        (then
          (local.set $part (call $least (local.get $size) (i64.const 128)))
          (call $stable_write (local.get $address) (i64.const 0) (local.get $part))
          (local.set $address (i64.add (local.get $address) (local.get $part)))
          (local.set $size (i64.sub (local.get $size) (local.get $part)))
          (br $next))))
    (call $restore))

  ;; ------------------------------------------------------------------------------------------------ whose buckets are

  ;; Look through the table of owners until the run ends that has bucket $wanted of this memory: how many of its buckets
  ;; were seen, and of the last run the first, counted among them and among all.
  (func $scan (param $wanted i64) (param $allocated i64) (result i64 i64 i64)
    (local $place i64) (local $seen i64) (local $run_seen i64) (local $run_place i64)
    (local $pattern i64) (local $owners i64)
    (local.set $pattern (i64.mul (global.get $id) (i64.const 0x0101010101010101)))
    (call $keep)
    (block $done
      (loop $next
        (br_if $done (i64.ge_u (local.get $place) (local.get $allocated)))
        (if (i64.eqz (i64.and (local.get $place) (i64.const 127)))
          (then
            (call $stable_read
              (i64.const 0) (i64.add (i64.const 2080) (local.get $place)) (i64.const 128))))
        (if (i64.eqz (i64.and (local.get $place) (i64.const 7)))
          (then
            (local.set $owners (i64.xor
              (local.get $pattern)
              (i64.load (i32.wrap_i64 (;I;) (i64.and (local.get $place) (i64.const 127))))))
            (if (i64.eqz (local.get $owners))  ;; eight that are its own
              (then
                (local.set $seen (i64.add (local.get $seen) (i64.const 8)))
                (local.set $place (i64.add (local.get $place) (i64.const 8)))
                (br $next)))
            (if (i64.eqz (i64.and  ;; none: no byte is 0
                  (i64.and
                    (i64.sub (local.get $owners) (i64.const 0x0101010101010101))
                    (i64.xor (local.get $owners) (i64.const -1)))
                  (i64.const 0x8080808080808080)))
              (then
                (br_if $done (i64.gt_u (local.get $seen) (local.get $wanted)))
                (local.set $place (i64.add (local.get $place) (i64.const 8)))
                (local.set $run_seen (local.get $seen))
                (local.set $run_place (local.get $place))
                (br $next)))))
        (if (i64.eq
              (i64.load8_u (i32.wrap_i64 (;I;) (i64.and (local.get $place) (i64.const 127))))
              (global.get $id))
          (then
            (local.set $seen (i64.add (local.get $seen) (i64.const 1))))
          (else
            (br_if $done (i64.gt_u (local.get $seen) (local.get $wanted)))
            (local.set $run_seen (local.get $seen))
            (local.set $run_place (i64.add (local.get $place) (i64.const 1)))))
        (local.set $place (i64.add (local.get $place) (i64.const 1)))
        (br $next)))
    (call $restore)
    (local.get $seen) (local.get $run_seen) (local.get $run_place))

  (func $allocated (param $header i64) (result i64)
    (i64.and (i64.shr_u (local.get $header) (i64.const 32)) (i64.const 0xffff)))

  (func $bucket_pages (param $header i64) (result i64)
    (i64.shr_u (local.get $header) (i64.const 48)))

  ;; Make the run that holds $address the one that is known.
  (func $find (param $address i64)
    (local $header i64) (local $bucket_bytes i64) (local $seen i64) (local $run_seen i64) (local $run_place i64)
    (local.set $header (call $word (i64.const 0)))
    (local.set $bucket_bytes (i64.shl (call $bucket_pages (local.get $header)) (i64.const 16)))
    (call $scan
      (i64.div_u (local.get $address) (local.get $bucket_bytes)) (call $allocated (local.get $header)))
    (local.set $run_place) (local.set $run_seen) (local.set $seen)
    (global.set $first (i64.mul (local.get $run_seen) (local.get $bucket_bytes)))
    (global.set $end (call $least
      (i64.mul (local.get $seen) (local.get $bucket_bytes))
      (i64.shl (call $size) (i64.const 16))))
    (global.set $delta (i64.sub
      (i64.add (i64.const 65536) (i64.mul (local.get $run_place) (local.get $bucket_bytes)))
      (global.get $first)))
    (if (i64.ge_u (local.get $address) (global.get $end)) (then (call $out_of_bounds))))

  ;; ----------------------------------------------------------------------------------------------- reading and writing

  (func $plus (param $address i64) (param $offset i64) (result i64)
    (local.set $offset (i64.add (local.get $address) (local.get $offset)))
    (if (i64.lt_u (local.get $offset) (local.get $address)) (then (call $out_of_bounds)))
    (local.get $offset))

  (func $is_known (param $address i64) (param $size i64) (result i32)
    (local.set $address (i64.sub (local.get $address) (global.get $first)))
    (local.set $size (i64.add (local.get $address) (local.get $size)))
    (i32.and
      (i64.ge_u (local.get $size) (local.get $address))
      (i64.le_u (local.get $size) (i64.sub (global.get $end) (global.get $first)))))

  (func $check (param $address i64) (param $size i64)
    (if (i64.gt_u
          (call $plus (local.get $address) (local.get $size))
          (i64.shl (call $size) (i64.const 16)))
      (then (call $out_of_bounds))))

  ;; How many of $size bytes from $address lie in one piece, which is then the one that is known.
  (func $piece (param $address i64) (param $size i64) (result i64)
    (if (i32.eqz (call $is_known (local.get $address) (i64.const 1)))
      (then (call $find (local.get $address))))
    (call $least (local.get $size) (i64.sub (global.get $end) (local.get $address))))

  (func $read (export "read") (param $target i64) (param $address i64) (param $offset i64) (param $size i64)
    (local.set $address (call $plus (local.get $address) (local.get $offset)))
    (if (call $is_known (local.get $address) (local.get $size))
      (then
        (call $stable_read
          (local.get $target) (i64.add (local.get $address) (global.get $delta)) (local.get $size))
        (return)))
    (call $check (local.get $address) (local.get $size))
    (loop $next
      (if (i64.ne (local.get $size) (i64.const 0))
        (then
          (local.set $offset (call $piece (local.get $address) (local.get $size)))
          (call $stable_read
            (local.get $target) (i64.add (local.get $address) (global.get $delta)) (local.get $offset))
          (local.set $target (i64.add (local.get $target) (local.get $offset)))
          (local.set $address (i64.add (local.get $address) (local.get $offset)))
          (local.set $size (i64.sub (local.get $size) (local.get $offset)))
          (br $next)))))

  (func $write (export "write") (param $address i64) (param $offset i64) (param $source i64) (param $size i64)
    (local.set $address (call $plus (local.get $address) (local.get $offset)))
    (global.set $touched (i32.const 1))
    (if (call $is_known (local.get $address) (local.get $size))
      (then
        (call $stable_write
          (i64.add (local.get $address) (global.get $delta)) (local.get $source) (local.get $size))
        (return)))
    (call $check (local.get $address) (local.get $size))
    (loop $next
      (if (i64.ne (local.get $size) (i64.const 0))
        (then
          (local.set $offset (call $piece (local.get $address) (local.get $size)))
          (call $stable_write
            (i64.add (local.get $address) (global.get $delta)) (local.get $source) (local.get $offset))
          (local.set $source (i64.add (local.get $source) (local.get $offset)))
          (local.set $address (i64.add (local.get $address) (local.get $offset)))
          (local.set $size (i64.sub (local.get $size) (local.get $offset)))
          (br $next)))))

  (func $fill (export "fill") (param $address i64) (param $value i64) (param $size i64)
    (local $part i64)
    (call $check (local.get $address) (local.get $size))
    (global.set $touched (i32.const 1))
    (loop $next
      (if (i64.ne (local.get $size) (i64.const 0))
        (then
          (local.set $part (call $piece (local.get $address) (local.get $size)))
          (call $fill_stable
            (i64.add (local.get $address) (global.get $delta)) (local.get $value) (local.get $part))
          (local.set $address (i64.add (local.get $address) (local.get $part)))
          (local.set $size (i64.sub (local.get $size) (local.get $part)))
          (br $next)))))

  ;; Through the window, from the end where the source may be this memory and lies before.
  (func (export "copy") (param $target i64) (param $source i64) (param $size i64)
    (local $part i64) (local $at i64) (local $backwards i64)
    (call $check (local.get $target) (local.get $size))
    (local.set $backwards (i64.extend_i32_u (i64.gt_u (local.get $target) (local.get $source))))
    (call $keep)
    (block $done
      (loop $next
        (local.set $part (call $least (local.get $size) (i64.const 128)))
        (local.set $size (i64.sub (local.get $size) (local.get $part)))
        ;; Where the part lies: what is left before it, or what is done.
        (call $source_read
          (i64.const 0)
          (i64.add (local.get $source) (select (local.get $size) (local.get $at) (i32.wrap_i64 (local.get $backwards))))
          (i64.const 0)
          (local.get $part))
        (call $write
          (local.get $target)
          (select (local.get $size) (local.get $at) (i32.wrap_i64 (local.get $backwards)))
          (i64.const 0)
          (local.get $part))
        (local.set $at (i64.add (local.get $at) (local.get $part)))
        (br_if $next (i64.ne (local.get $size) (i64.const 0)))))
    (call $restore))

  ;; ---------------------------------------------------------------------------------------------------- size, growing

  (func $size_address (result i64) (i64.add (i64.const 40) (i64.shl (global.get $id) (i64.const 3))))

  (func $size (export "size") (result i64) (call $word (call $size_address)))

  ;; As the crate grows one; -1, nothing changed, where it cannot be.
  (func $grow (export "grow") (param $delta_pages i64) (result i64)
    (local $old i64) (local $new i64) (local $header i64) (local $allocated i64) (local $bucket_pages i64)
    (local $fresh i64) (local $missing i64)
    (local.set $old (call $size))
    (if (i64.eqz (local.get $delta_pages)) (then (return (local.get $old))))
    (if (i32.or
          (i64.gt_u (local.get $old) (global.get $maximum))
          (i64.gt_u (local.get $delta_pages) (i64.sub (global.get $maximum) (local.get $old))))
      (then (return (i64.const -1))))
    (local.set $new (i64.add (local.get $old) (local.get $delta_pages)))
    (local.set $header (call $word (i64.const 0)))
    (local.set $allocated (call $allocated (local.get $header)))
    (local.set $bucket_pages (call $bucket_pages (local.get $header)))
    (local.set $fresh (i64.sub
      (i64.div_u
        (i64.add (local.get $new) (i64.sub (local.get $bucket_pages) (i64.const 1)))
        (local.get $bucket_pages))
      (call $owned (local.get $allocated))))
    (if (i64.gt_s (local.get $fresh) (i64.const 0))
      (then
        (if (i64.gt_u (i64.add (local.get $allocated) (local.get $fresh)) (i64.const 32768))
          (then (return (i64.const -1))))
        (local.set $missing (i64.sub
          (i64.add
            (i64.mul (i64.add (local.get $allocated) (local.get $fresh)) (local.get $bucket_pages))
            (i64.const 1))
          (call $stable_size)))
        (if (i64.gt_s (local.get $missing) (i64.const 0))
          (then
            (if (i64.eq (call $stable_grow (local.get $missing)) (i64.const -1))
              (then (return (i64.const -1))))))
        (call $fill_stable
          (i64.add (i64.const 2080) (local.get $allocated)) (global.get $id) (local.get $fresh))
        (call $put (i64.const 4) (i64.add (local.get $allocated) (local.get $fresh)) (i64.const 2))))
    (call $put (call $size_address) (local.get $new) (i64.const 8))
    (global.set $touched (i32.const 1))
    (if (i64.lt_u (local.get $old) (global.get $stale))
      (then
        (call $fill
          (i64.shl (local.get $old) (i64.const 16))
          (i64.const 0)
          (i64.shl
            (i64.sub (call $least (local.get $new) (global.get $stale)) (local.get $old))
            (i64.const 16)))))
    (local.get $old))

  ;; Buckets that are its own, those included that it does not fill because it was emptied.
  (func $owned (param $allocated i64) (result i64)
    (call $scan (i64.const -1) (local.get $allocated))
    (drop) (drop))

  ;; ------------------------------------------------------------------------------------------- when new code is there

  (func $with_manager
    (local $header i64)
    (if (i64.eqz (call $stable_size))
      (then
        (if (i64.eq (call $stable_grow (i64.const 1)) (i64.const -1)) (then (call $no_room)))))
    (local.set $header (call $word (i64.const 0)))
    (if (i32.eqz (i32.wrap_i64 (local.get $header)))
      (then
        ;; 128 Wasm pages a bucket, as the crate has it; nobody owns one.
        (local.set $header (i64.const 0x800000_0152474d))
        (call $put (i64.const 0) (local.get $header) (i64.const 8))
        (call $fill_stable (i64.const 8) (i64.const 0) (i64.const 2072))
        (call $fill_stable (i64.const 2080) (i64.const 255) (i64.const 32768))))
    (if (i32.or
          (i32.ne (i32.wrap_i64 (local.get $header)) (i32.const 0x0152474d))  ;; MGR, layout 1
          (i64.eqz (call $bucket_pages (local.get $header))))
      (then (call $no_manager))))

  (func $at_least_minimum
    (local $size i64)
    (local.set $size (call $size))
    (if (i64.lt_u (local.get $size) (global.get $minimum))
      (then
        (if (i64.eq (call $grow (i64.sub (global.get $minimum) (local.get $size))) (i64.const -1))
          (then (call $no_room))))))

  ;; Of a memory that stays. Whether it came to be, and its data segments are to be written.
  (func (export "keep") (result i32)
    (local $is_new i32)
    (call $with_manager)
    (local.set $is_new (i64.eqz (call $size)))
    (call $at_least_minimum)
    (local.get $is_new))

  ;; Of a memory that new code finds empty.
  (func (export "empty") (result i32)
    (local $header i64)
    (call $with_manager)
    (local.set $header (call $word (i64.const 0)))
    (global.set $stale (i64.mul
      (call $owned (call $allocated (local.get $header)))
      (call $bucket_pages (local.get $header))))
    (call $begin))

  ;; As it was declared; its data segments are to be written, and $touched to be set to 0 then.
  (func $begin (result i32)
    (global.set $stale (select
      (call $size) (global.get $stale) (i64.gt_u (call $size) (global.get $stale))))
    (call $put (call $size_address) (i64.const 0) (i64.const 8))
    (global.set $first (i64.const 0))
    (global.set $end (i64.const 0))
    (call $at_least_minimum)
    (i32.const 1))

  ;; Of a memory for one message, where one begins.
  (func (export "begin") (result i32)
    (if (i32.eqz (global.get $touched)) (then (return (i32.const 0))))
    (call $begin))
)
