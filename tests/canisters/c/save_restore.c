/* A heap that is saved to stable memory before an upgrade and restored behind it, as canisters do that keep their data
   on the heap. Arguments are rows of little-endian 64-bit numbers. */
#include "ic0.h"

extern u8 __heap_base;

static u64 size_bytes;

static u8 *heap(u64 size) {
    word end = ADDRESS(&__heap_base) + (word)size, pages = (end + WASM_PAGE_BYTES - 1) / WASM_PAGE_BYTES;
    word have = __builtin_wasm_memory_size(0);
    if (have < pages && __builtin_wasm_memory_grow(0, pages - have) == (word)-1) ic0_trap(TEXT("no heap left"));
    return &__heap_base;
}

/* words: size in bytes; a multiple of 8 */
UPDATE(fill) {
    size_bytes = argument_u64(0);
    u64 *numbers = (u64 *)heap(size_bytes);
    for (u64 index = 0; index < size_bytes / 8; index++) numbers[index] = index * 0x9e3779b97f4a7c15ull;
    reply_empty();
}

QUERY(sum) {
    u64 *numbers = (u64 *)heap(size_bytes), sum = 0;
    for (u64 index = 0; index < size_bytes / 8; index++) sum = sum * 31 + numbers[index];
    reply_u64(sum);
}

CANISTER(pre_upgrade, "canister_pre_upgrade") {
    u64 pages = (8 + size_bytes + WASM_PAGE_BYTES - 1) / WASM_PAGE_BYTES, have = ic0_stable64_size();
    if (have < pages && ic0_stable64_grow(pages - have) == ~0ull) ic0_trap(TEXT("no stable memory left"));
    ic0_stable64_write(0, ADDRESS(&size_bytes), 8);
    ic0_stable64_write(8, ADDRESS(heap(size_bytes)), size_bytes);
}

CANISTER(post_upgrade, "canister_post_upgrade") {
    ic0_stable64_read(ADDRESS(&size_bytes), 0, 8);
    ic0_stable64_read(ADDRESS(heap(size_bytes)), 8, size_bytes);
}
