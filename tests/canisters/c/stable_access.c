/* Loops for the benchmarks of stable memory. The loops are not unrolled, so that each turn is one access and the loop
   around it; `bare` is the same loop with a load and a store on the heap.

   Arguments are rows of little-endian 64-bit numbers. Each method replies with a number that depends on what was
   read, so that nothing can be left out. */
#include "ic0.h"

#define LOOP _Pragma("clang loop unroll(disable) vectorize(disable)") for

static u64 cell[2];
static u8 block[1 << 20];

/* words: Wasm pages that there shall be at least; the size afterwards */
UPDATE(reserve) {
    u64 pages = argument_u64(0), size = ic0_stable64_size();
    if (size < pages) ic0_stable64_grow(pages - size);
    reply_u64(ic0_stable64_size());
}

/* words: turns, offset */
UPDATE(read8) {
    u64 turns = argument_u64(0), offset = argument_u64(1), sum = 0;
    LOOP (u64 turn = 0; turn < turns; turn++) {
        ic0_stable64_read(ADDRESS(cell), offset, 8);
        sum += *(volatile u64 *)cell;
    }
    reply_u64(sum);
}

/* words: turns, offset */
UPDATE(write8) {
    u64 turns = argument_u64(0), offset = argument_u64(1);
    LOOP (u64 turn = 0; turn < turns; turn++) {
        *(volatile u64 *)cell = turn;
        ic0_stable64_write(offset, ADDRESS(cell), 8);
    }
    reply_u64(turns);
}

/* words: turns */
UPDATE(bare) {
    u64 turns = argument_u64(0), sum = 0;
    LOOP (u64 turn = 0; turn < turns; turn++) {
        sum += ((volatile u64 *)cell)[0];
        ((volatile u64 *)cell)[1] = turn;
    }
    reply_u64(sum);
}

/* words: turns, offset, size of an access (at most a MiB), distance to the next */
UPDATE(read_blocks) {
    u64 turns = argument_u64(0), offset = argument_u64(1), size = argument_u64(2), stride = argument_u64(3), sum = 0;
    LOOP (u64 turn = 0; turn < turns; turn++) {
        ic0_stable64_read(ADDRESS(block), offset + turn * stride, size);
        sum += *(volatile u64 *)block;
    }
    reply_u64(sum);
}

/* words: turns, offset, size of an access (at most a MiB), distance to the next */
UPDATE(write_blocks) {
    u64 turns = argument_u64(0), offset = argument_u64(1), size = argument_u64(2), stride = argument_u64(3);
    LOOP (u64 turn = 0; turn < turns; turn++) {
        *(volatile u64 *)block = turn + 1;
        ic0_stable64_write(offset + turn * stride, ADDRESS(block), size);
    }
    reply_u64(turns);
}

static inline u64 next_random(u64 state) {
    state ^= state << 13;
    state ^= state >> 7;
    return state ^ state << 17;
}

/* words: turns, size in bytes of the range (a power of two), seed: reads of 8 bytes all over the range */
UPDATE(random_stable) {
    u64 turns = argument_u64(0), mask = argument_u64(1) - 8, random = argument_u64(2) | 1, sum = 0;
    LOOP (u64 turn = 0; turn < turns; turn++) {
        random = next_random(random);
        ic0_stable64_read(ADDRESS(cell), random & mask & ~7ull, 8);
        sum += *(volatile u64 *)cell;
    }
    reply_u64(sum);
}

/* The same on the heap, which `reserve_heap` makes large enough; words: turns, size in bytes of the range, seed */
UPDATE(random_heap) {
    u64 turns = argument_u64(0), mask = argument_u64(1) - 8, random = argument_u64(2) | 1, sum = 0;
    LOOP (u64 turn = 0; turn < turns; turn++) {
        random = next_random(random);
        sum += *(volatile u64 *)(word)(random & mask & ~7ull);
    }
    reply_u64(sum);
}

/* words: Wasm pages that there shall be at least; the size afterwards */
UPDATE(reserve_heap) {
    word pages = (word)argument_u64(0), size = __builtin_wasm_memory_size(0);
    if (size < pages) __builtin_wasm_memory_grow(0, pages - size);
    reply_u64(__builtin_wasm_memory_size(0));
}

/* The smallest message that leaves something: it writes one page of the heap, not even one of the stack, and the first
   page of stable memory, which has to be there. */
UPDATE(touch) {
    cell[1]++;
    ic0_stable64_write(0, ADDRESS(cell), sizeof cell);
    reply_empty();
}

/* One page of the heap, no stable memory. */
UPDATE(touch_heap) {
    cell[1]++;
    reply_empty();
}

/* What `touch` and `touch_heap` counted. */
QUERY(peek) { reply_with(&cell[1], 8); }
