;; What stands in for WASI on the Internet Computer: `wasi.py` appends these functions to a canister's module, each
;; under the name of the import it replaces, with the functions and globals that it needs.
;;
;; tools/build_kernel.py builds wasi.wasm from here; a test proves the two equal. Only 32-bit heaps: preview 1 has no
;; other addresses. Nothing here owns a byte of the canister's heap. Where text has to lie in memory for a moment, it is
;; exchanged with what is there and back again ($exchange), or the message traps anyway, which undoes it.
;;
;; Error numbers are WASI's: 8 badf, 28 inval, 52 nosys. Those of all functions that are not here are in `wasi.py`.
(module
  (import "ic0" "debug_print" (func $debug_print (param i32 i32)))
  (import "ic0" "time" (func $time (result i64)))
  (import "ic0" "trap" (func $trap (param i32 i32)))
  (import "canister" "memory" (memory 0))

  (global $held (mut i32) (i32.const 0))    ;; bytes of a line whose end has not been written yet
  (global $random (mut i64) (i64.const 0))

  ;; ------------------------------------------------------------------------------------------- arguments, environment

  (func (export "wasi args_sizes_get") (export "wasi environ_sizes_get") (param $count i32) (param $size i32) (result i32)
    (i32.store (local.get $count) (i32.const 0))
    (i32.store (local.get $size) (i32.const 0))
    (i32.const 0))

  (func (export "wasi args_get") (export "wasi environ_get") (param i32 i32) (result i32) (i32.const 0))

  (func (export "wasi sched_yield") (result i32) (i32.const 0))

  ;; ------------------------------------------------------------------------------------------------------------- time

  ;; All four clocks show the time of the message, so within a message none of them moves.
  (func (export "wasi clock_time_get") (param $clock i32) (param $precision i64) (param $result i32) (result i32)
    (if (i32.gt_u (local.get $clock) (i32.const 3)) (then (return (i32.const 28))))
    (i64.store (local.get $result) (call $time))
    (i32.const 0))

  (func (export "wasi clock_res_get") (param $clock i32) (param $result i32) (result i32)
    (if (i32.gt_u (local.get $clock) (i32.const 3)) (then (return (i32.const 28))))
    (i64.store (local.get $result) (i64.const 1))
    (i32.const 0))

  (func (export "env emscripten_date_now") (export "env emscripten_get_now") (result f64)
    (f64.div (f64.convert_i64_u (call $time)) (f64.const 1e6)))

  ;; Nobody can sleep, but up to 1 ms we say that somebody did: Go's runtime sleeps so before it tells of a panic. One
  ;; subscription, of a clock (its kind at 8, 0), for so long from now (at 24, its flags at 40, 0); else 52, nosys.
  (func (export "wasi poll_oneoff") (param $asked i32) (param $events i32) (param $count i32) (param $result i32)
      (result i32)
    (if (i32.ne (local.get $count) (i32.const 1)) (then (return (i32.const 52))))
    (if (i32.or
          (i32.or (i32.load8_u offset=8 (local.get $asked)) (i32.load16_u offset=40 (local.get $asked)))
          (i64.ge_u (i64.sub (i64.load offset=24 (local.get $asked)) (i64.const 1)) (i64.const 1000000)))
      (then (return (i32.const 52))))
    (i64.store (local.get $events) (i64.load (local.get $asked)))
    (i64.store offset=8 (local.get $events) (i64.const 0))
    (i64.store offset=16 (local.get $events) (i64.const 0))
    (i64.store offset=24 (local.get $events) (i64.const 0))
    (i32.store (local.get $result) (i32.const 1))
    (i32.const 0))

  ;; ------------------------------------------------------------------------------------------------------- randomness

  ;; splitmix64, its state stirred with the time at each call and kept between calls: every replica computes the same
  ;; bytes, two calls of a message differ, and whoever knows the canister's state knows them. No secret.
  (func (export "wasi random_get") (param $place i32) (param $size i32) (result i32)
    (local $state i64) (local $mixed i64) (local $end i32)
    (local.set $state (i64.xor (global.get $random) (call $time)))
    (local.set $end (call $end (local.get $place) (local.get $size)))
    (block $done
      (loop $next
        (local.set $state (i64.add (local.get $state) (i64.const 0x9e3779b97f4a7c15)))
        (local.set $mixed (i64.mul
          (i64.xor (local.get $state) (i64.shr_u (local.get $state) (i64.const 30)))
          (i64.const 0xbf58476d1ce4e5b9)))
        (local.set $mixed (i64.mul
          (i64.xor (local.get $mixed) (i64.shr_u (local.get $mixed) (i64.const 27)))
          (i64.const 0x94d049bb133111eb)))
        (local.set $mixed (i64.xor (local.get $mixed) (i64.shr_u (local.get $mixed) (i64.const 31))))
        (br_if $done (i32.eq (local.get $place) (local.get $end)))
        (i32.store8 (local.get $place) (i32.wrap_i64 (local.get $mixed)))
        (local.set $place (i32.add (local.get $place) (i32.const 1)))
        (br $next)))
    (global.set $random (local.get $mixed))
    (i32.const 0))

  ;; ---------------------------------------------------------------------------------------- standard output and error

  ;; 0 to 2 are a terminal, so that a C library prints line by line: a character device with all rights but fd_seek
  ;; (bit 2) and fd_tell (bit 5).
  (func (export "wasi fd_fdstat_get") (param $fd i32) (param $result i32) (result i32)
    (if (i32.gt_u (local.get $fd) (i32.const 2)) (then (return (i32.const 8))))
    (i64.store (local.get $result) (i64.const 2))
    (i64.store offset=8 (local.get $result) (i64.const -37))
    (i64.store offset=16 (local.get $result) (i64.const -37))
    (i32.const 0))

  (func (export "wasi fd_write") (param $fd i32) (param $parts i32) (param $count i32) (param $result i32) (result i32)
    (local $sum i32)
    (if (i32.gt_u (i32.sub (local.get $fd) (i32.const 1)) (i32.const 1)) (then (return (i32.const 8))))
    (block $done
      (loop $next
        (br_if $done (i32.eqz (local.get $count)))
        (call $print (i32.load (local.get $parts)) (i32.load offset=4 (local.get $parts)))
        (local.set $sum (i32.add (local.get $sum) (i32.load offset=4 (local.get $parts))))
        (local.set $parts (i32.add (local.get $parts) (i32.const 8)))
        (local.set $count (i32.sub (local.get $count) (i32.const 1)))
        (br $next)))
    (i32.store (local.get $result) (local.get $sum))
    (i32.const 0))

  ;; Where so many bytes end, 0 for the end of 4 GiB; what goes around it leaves the heap, as a load would.
  (func $end (param $start i32) (param $size i32) (result i32)
    (local $end i32)
    (local.set $end (i32.add (local.get $start) (local.get $size)))
    (if (i32.and
          (i32.lt_u (local.get $end) (local.get $start))
          (i32.ne (local.get $end) (i32.const 0)))
      (then unreachable))
    (local.get $end))

  ;; Line by line to the log, whose entries end without a newline; what is left over is held.
  (func $print (param $start i32) (param $size i32)
    (local $end i32) (local $place i32)
    (local.set $end (call $end (local.get $start) (local.get $size)))
    (local.set $place (local.get $start))
    (block $done
      (loop $next
        (br_if $done (i32.eq (local.get $place) (local.get $end)))
        (if (i32.eq (i32.load8_u (local.get $place)) (i32.const 10))
          (then
            (call $line (local.get $start) (i32.sub (local.get $place) (local.get $start)))
            (local.set $start (i32.add (local.get $place) (i32.const 1)))))
        (local.set $place (i32.add (local.get $place) (i32.const 1)))
        (br $next)))
    (if (i32.ne (local.get $start) (local.get $end))
      (then (call $hold (local.get $start) (i32.sub (local.get $end) (local.get $start))))))

  ;; The end of a line: print it, with what is held before it.
  (func $line (param $start i32) (param $size i32)
    (local $window i32)
    (if (i32.gt_u (local.get $size) (i32.sub (i32.const 512) (global.get $held))) (then (call $flush)))
    (if (i32.eqz (global.get $held))
      (then
        (call $debug_print (local.get $start) (local.get $size))
        (return)))
    (local.set $window (call $window (local.get $start)))
    (call $exchange (local.get $window))
    (memory.copy
      (i32.add (local.get $window) (global.get $held)) (local.get $start) (local.get $size))
    (call $debug_print (local.get $window) (i32.add (global.get $held) (local.get $size)))
    (call $exchange (local.get $window))
    (global.set $held (i32.const 0)))

  ;; A part of a line: keep it until the line ends, or print what there is when it grows too long.
  (func $hold (param $start i32) (param $size i32)
    (local $window i32)
    (if (i32.gt_u (local.get $size) (i32.sub (i32.const 512) (global.get $held))) (then (call $flush)))
    (if (i32.gt_u (local.get $size) (i32.const 512))
      (then
        (call $debug_print (local.get $start) (local.get $size))
        (return)))
    (local.set $window (call $window (local.get $start)))
    (call $exchange (local.get $window))
    (memory.copy
      (i32.add (local.get $window) (global.get $held)) (local.get $start) (local.get $size))
    (call $exchange (local.get $window))
    (global.set $held (i32.add (global.get $held) (local.get $size))))

  ;; Print what is held: at the end of every method, since the next line may be another caller's.
  (func $flush (export "flush")
    (if (global.get $held)
      (then
        (call $exchange (i32.const 0))
        (call $debug_print (i32.const 0) (global.get $held))
        (call $exchange (i32.const 0))
        (global.set $held (i32.const 0)))))

  ;; 512 bytes of heap that up to 512 bytes from $start do not lie in.
  (func $window (param $start i32) (result i32)
    (select (i32.const 4096) (i32.const 0) (i32.lt_u (local.get $start) (i32.const 2048))))

  ;; Exchange the line that is held, in globals, with 512 bytes of heap; `wasi.py` writes the body.
  (func $exchange (export "exchange") (param $window i32))

  ;; ---------------------------------------------------------------------------------------------- the program's end

  ;; Traps, saying "proc_exit(3)": on a canister there is no other end than a message's. The heap is written to freely,
  ;; the trap undoes it.
  (func (export "wasi proc_exit") (export "env exit") (param $code i32)
    (local $digit i32)
    (call $flush)
    (i64.store (i32.const 0) (i64.const 0x6978655f636f7270))  ;; proc_exi
    (i32.store16 (i32.const 8) (i32.const 0x2874))  ;; t(
    (i32.store8 (i32.const 63) (i32.const 0x29))  ;; )
    (local.set $digit (i32.const 63))
    (loop $next
      (local.set $digit (i32.sub (local.get $digit) (i32.const 1)))
      (i32.store8 (local.get $digit)
        (i32.add (i32.const 48) (i32.rem_u (local.get $code) (i32.const 10))))
      (local.set $code (i32.div_u (local.get $code) (i32.const 10)))
      (br_if $next (local.get $code)))
    (memory.copy (i32.const 10) (local.get $digit) (i32.sub (i32.const 64) (local.get $digit)))
    (call $trap (i32.const 0) (i32.sub (i32.const 74) (local.get $digit)))
    (unreachable))

  ;; ------------------------------------------------------------------------------------------------ emscripten's own

  (func (export "env emscripten_notify_memory_growth") (param i32))

  (func (export "env emscripten_resize_heap") (param $size i32) (result i32)
    (local $missing i32)
    (local.set $missing (i32.sub
      (i32.add
        (i32.shr_u (local.get $size) (i32.const 16))
        (i32.ne (i32.and (local.get $size) (i32.const 0xffff)) (i32.const 0)))
      (memory.size)))
    (if (i32.le_s (local.get $missing) (i32.const 0)) (then (return (i32.const 1))))
    (i32.ne (memory.grow (local.get $missing)) (i32.const -1)))

  (func (export "env emscripten_memcpy_js") (export "env _emscripten_memcpy_js") (export "env emscripten_memcpy_big")
      (param $to i32) (param $from i32) (param $size i32)
    (memory.copy (local.get $to) (local.get $from) (local.get $size)))

  ;; It used to give back where it copied to; a word behind a name tells types of one import apart.
  (func (export "env emscripten_memcpy_big older") (param $to i32) (param $from i32) (param $size i32) (result i32)
    (memory.copy (local.get $to) (local.get $from) (local.get $size))
    (local.get $to))
)
