;; The calling-context tree of a profile: what `profile.py` appends to a linked module, around each function of it.
;;
;; A node is a function as it was called by its parent. Entering one adds the counter of instructions to its node,
;; leaving it subtracts what the counter has become, so that the node has what the function used, callees included.
;; Nothing here charges anything.
;;
;; The tree lies in the accounting memory behind the lists of pages; `profile.py` draws it. The root is made of zeros.
;; Where the tree has no room for a node, the call gets one on a stack behind the tree, which is taken away when it
;; returns: what it uses then counts for its caller.
(module
  (import "linked" "accounting" (memory $accounting 20096))
  (import "linked" "counter" (global $counter (mut i64)))

  (global $current (mut i32) (i32.const 0x48000020))  ;; the node that runs
  (global $lost (mut i32) (i32.const 0x4b000000))     ;; where the next call that has no room gets its node

  (global $last i32 (i32.const 0x4affffd8))           ;; where the last node may begin; `profile.py` writes it

  ;; An entry begins: whatever the one before has left, when it trapped.
  (func $begin (export "begin") (param $entry i32)
    (global.set $current (i32.const 0x48000020))
    (global.set $lost (i32.const 0x4b000000))
    (call $enter (local.get $entry)))

  (func $enter (export "enter") (param $function i32)
    (local $node i32)
    (local.set $node (i32.load $accounting offset=8 (global.get $current)))
    (if (i32.or
          (i32.eqz (local.get $node))
          (i32.ne (i32.load $accounting (local.get $node)) (local.get $function)))
      (then (local.set $node (call $find (local.get $function) (local.get $node)))))
    (i64.store $accounting offset=16 (local.get $node)
      (i64.add (i64.load $accounting offset=16 (local.get $node)) (i64.const 1)))
    (i64.store $accounting offset=24 (local.get $node)
      (i64.add (i64.load $accounting offset=24 (local.get $node)) (global.get $counter)))
    (global.set $current (local.get $node)))

  (func $enter_bytes (export "enter_bytes") (param $function i32) (param $bytes i64)
    (call $enter (local.get $function))
    (i64.store $accounting offset=32 (global.get $current)
      (i64.add (i64.load $accounting offset=32 (global.get $current)) (local.get $bytes))))

  (func $exit (export "exit")
    (local $node i32)
    (local.set $node (global.get $current))
    (i64.store $accounting offset=24 (local.get $node)
      (i64.sub (i64.load $accounting offset=24 (local.get $node)) (global.get $counter)))
    (global.set $current (i32.load $accounting offset=4 (local.get $node)))
    (if (i32.ge_u (local.get $node) (i32.const 0x4b000000))
      (then (global.set $lost (local.get $node)))))

  ;; The child of the current node for this function; `$first` is its first child, which is of another one, or 0.
  (func $find (param $function i32) (param $first i32) (result i32)
    (local $node i32) (local $before i32)
    (local.set $before (local.get $first))
    (block $none
      (br_if $none (i32.eqz (local.get $first)))
      (loop $next
        (local.set $node (i32.load $accounting offset=12 (local.get $before)))
        (br_if $none (i32.eqz (local.get $node)))
        (if (i32.eq (i32.load $accounting (local.get $node)) (local.get $function))
          (then
            ;; Of many children, those that are called often come to the front.
            (i32.store $accounting offset=12 (local.get $before) (i32.load $accounting offset=12 (local.get $node)))
            (i32.store $accounting offset=12 (local.get $node) (local.get $first))
            (i32.store $accounting offset=8 (global.get $current) (local.get $node))
            (return (local.get $node))))
        (local.set $before (local.get $node))
        (br $next)))
    ;; A new one.
    (local.set $node (i32.load $accounting (i32.const 0x48000004)))
    (if (i32.eqz (local.get $node)) (then (local.set $node (i32.const 0x48000048))))
    (if (i32.or
          (i32.gt_u (local.get $node) (global.get $last))
          (i32.ge_u (global.get $current) (i32.const 0x4b000000)))
      (then
        (local.set $node (global.get $lost))
        (global.set $lost (i32.add (local.get $node) (i32.const 40)))
        (i64.store $accounting (i32.const 0x48000008)
          (i64.add (i64.load $accounting (i32.const 0x48000008)) (i64.const 1)))
        (i64.store $accounting offset=8 (local.get $node) (i64.const 0)))
      (else
        (i32.store $accounting (i32.const 0x48000004) (i32.add (local.get $node) (i32.const 40)))
        (i32.store $accounting offset=12 (local.get $node) (local.get $first))
        (i32.store $accounting offset=8 (global.get $current) (local.get $node))))
    (i32.store $accounting (local.get $node) (local.get $function))
    (i32.store $accounting offset=4 (local.get $node) (global.get $current))
    (local.get $node))

  ;; Tells the host which node runs, when an entry ends or has trapped.
  (func $save (export "save")
    (i32.store $accounting (i32.const 0x48000000) (global.get $current))))
