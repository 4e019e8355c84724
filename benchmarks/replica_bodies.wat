  ;; Bodies in the replica's style, for comparison: no hot path, the pages of a request are counted byte by byte, marked
  ;; by memory.fill, and every copy is a memory.copy. The steps are those of native-stable-memory, 1.6, in our own text.
  ;; They take the place of the functions of the same names in kernel.wat. Nothing is listed: such a message can be timed
  ;; but not committed.
  (func $count_clean_pages (param $page i32) (param $end i32) (result i32 i32)
    (local $mark i32) (local $written i32) (local $accessed i32) (local $pages i32)
    (local.set $pages (i32.sub (local.get $end) (local.get $page)))
    (block $done
      (loop $next
        (br_if $done (i32.ge_u (local.get $page) (local.get $end)))
        (local.set $mark (i32.load8_u $accounting (local.get $page)))
        (local.set $written (i32.add (local.get $written) (i32.and (local.get $mark) (i32.const 1))))
        (local.set $accessed
          (i32.add (local.get $accessed) (i32.and (i32.shr_u (local.get $mark) (i32.const 1)) (i32.const 1))))
        (local.set $page (i32.add (local.get $page) (i32.const 1)))
        (br $next)))
    (i32.sub (local.get $pages) (local.get $written))
    (i32.sub (local.get $pages) (local.get $accessed)))

  (func $stable64_write (export "stable64_write") (param $address i64) (param $source i64) (param $size i64)
    (local $first i32) (local $end i32) (local $clean i32) (local $unaccessed i32)
    (call $charge (i64.add (local.get $size) (i64.const 20)))
    (if (i64.eqz (local.get $size)) (then (return)))
    (call $check_range (local.get $address) (local.get $source) (local.get $size))
    (local.set $first (i32.wrap_i64 (i64.shr_u (local.get $address) (i64.const 12))))
    (local.set $end
      (i32.add
        (i32.wrap_i64 (i64.shr_u (i64.sub (i64.add (local.get $address) (local.get $size)) (i64.const 1)) (i64.const 12)))
        (i32.const 1)))
    (call $count_clean_pages (local.get $first) (local.get $end))
    (local.set $unaccessed)
    (local.set $clean)
    (if (i64.gt_u (i64.extend_i32_u (local.get $unaccessed)) (global.get $accessed_pages_left))
      (then (call $trap (i32.const 5))))
    (if (i64.gt_u (i64.extend_i32_u (local.get $clean)) (global.get $dirty_pages_left))
      (then (call $trap (i32.const 4))))
    (call $charge (i64.mul (i64.extend_i32_u (local.get $clean)) (i64.const 1000)))
    (memory.fill $accounting (local.get $first) (i32.const 3) (i32.sub (local.get $end) (local.get $first)))
    (memory.copy $stable $heap
      (local.get $address) (i32.wrap_i64 (local.get $source)) (i32.wrap_i64 (local.get $size)))
    (global.set $dirty_pages_left (i64.sub (global.get $dirty_pages_left) (i64.extend_i32_u (local.get $clean))))
    (global.set $accessed_pages_left
      (i64.sub (global.get $accessed_pages_left) (i64.extend_i32_u (local.get $unaccessed)))))

  (func $stable64_read (export "stable64_read") (param $target i64) (param $address i64) (param $size i64)
    (local $first i32) (local $end i32) (local $page i32) (local $unaccessed i32)
    (call $charge (i64.add (local.get $size) (i64.const 20)))
    (if (i64.eqz (local.get $size)) (then (return)))
    (call $check_range (local.get $address) (local.get $target) (local.get $size))
    (local.set $first (i32.wrap_i64 (i64.shr_u (local.get $address) (i64.const 12))))
    (local.set $end
      (i32.add
        (i32.wrap_i64 (i64.shr_u (i64.sub (i64.add (local.get $address) (local.get $size)) (i64.const 1)) (i64.const 12)))
        (i32.const 1)))
    (call $count_clean_pages (local.get $first) (local.get $end))
    (local.set $unaccessed)
    (drop)
    (if (i64.gt_u (i64.extend_i32_u (local.get $unaccessed)) (global.get $accessed_pages_left))
      (then (call $trap (i32.const 5))))
    (if (local.get $unaccessed)
      (then
        (local.set $page (local.get $first))
        (loop $next
          (i32.store8 $accounting (local.get $page)
            (i32.or (i32.load8_u $accounting (local.get $page)) (i32.const 2)))
          (local.set $page (i32.add (local.get $page) (i32.const 1)))
          (br_if $next (i32.lt_u (local.get $page) (local.get $end))))))
    (memory.copy $heap $stable
      (i32.wrap_i64 (local.get $target)) (local.get $address) (i32.wrap_i64 (local.get $size)))
    (global.set $accessed_pages_left
      (i64.sub (global.get $accessed_pages_left) (i64.extend_i32_u (local.get $unaccessed)))))
