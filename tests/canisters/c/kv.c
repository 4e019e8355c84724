/* A counter and a key-value table on the heap, saved to stable memory by hooks, and one method for each plain function
   of the System API. Built twice: `kv32` and `kv64`, with a 32-bit and a 64-bit heap.

   Numbers are little-endian. "words" means a row of 64-bit numbers, given to the System API unchanged, so that tests
   can reach every edge; a function of 32 bits takes the low half.

   | method                | argument                     | reply                                      |
   |-----------------------|------------------------------|--------------------------------------------|
   | init, post_upgrade    | words: start of the counter (init only) |                                 |
   | inc, count            |                              | the counter as u64, after inc              |
   | put                   | key size u8, key, value      |                                            |
   | get                   | key                          | the value; reject where there is none      |
   | entries               |                              | number of entries as u64                   |
   | echo, reject, trap, debug_print | bytes              | the bytes; a reject; a trap; the bytes     |
   | ...                   | see each method              |                                            |
*/
#include "ic0.h"

#define SLOTS 1024
#define KEY_BYTES 64
#define VALUE_BYTES 1024

struct entry {
    u32 key_size, value_size;
    u8 key[KEY_BYTES], value[VALUE_BYTES];
};

static u64 counter;
static u64 used;
static struct entry table[SLOTS];
static u8 buffer[1 << 16];

static void trap(word text, word size) {
    ic0_trap(text, size);
    __builtin_unreachable();
}

/* The whole argument in `buffer`; what is behind its end is left as it was. */
static word argument(void) {
    word size = ic0_msg_arg_data_size();
    if (size > sizeof buffer) trap(TEXT("the argument is too long"));
    ic0_msg_arg_data_copy(ADDRESS(buffer), 0, size);
    return size;
}

static struct entry *find(const u8 *key, u32 size) {
    for (u64 slot = 0; slot < used; slot++) {
        u32 at = 0;
        while (at < size && table[slot].key_size == size && table[slot].key[at] == key[at]) at++;
        if (at == size && table[slot].key_size == size) return &table[slot];
    }
    return 0;
}

/* --- lifecycle: [counter][entries][table], from address 0 of stable memory --------------------------------------- */

CANISTER(init, "canister_init") { counter = argument_u64(0); }

CANISTER(pre_upgrade, "canister_pre_upgrade") {
    u64 end = 16 + used * sizeof(struct entry), pages = (end + WASM_PAGE_BYTES - 1) / WASM_PAGE_BYTES;
    u64 size = ic0_stable64_size();
    if (size < pages && ic0_stable64_grow(pages - size) == ~0ull) trap(TEXT("no stable memory left"));
    ic0_stable64_write(0, ADDRESS(&counter), 8);
    ic0_stable64_write(8, ADDRESS(&used), 8);
    ic0_stable64_write(16, ADDRESS(table), used * sizeof(struct entry));
}

CANISTER(post_upgrade, "canister_post_upgrade") {
    ic0_stable64_read(ADDRESS(&counter), 0, 8);
    ic0_stable64_read(ADDRESS(&used), 8, 8);
    if (used > SLOTS) trap(TEXT("stable memory was not written by this canister"));
    ic0_stable64_read(ADDRESS(table), 16, used * sizeof(struct entry));
}

CANISTER(global_timer, "canister_global_timer") { counter += 1000; }

/* --- counter and table ------------------------------------------------------------------------------------------- */

UPDATE(inc) { reply_u64(++counter); }

QUERY(count) { reply_u64(counter); }

/* Counts in a query: the reply tells, the state must not. */
QUERY(inc_in_query) { reply_u64(++counter); }

UPDATE(put) {
    word size = argument();
    u32 key_size = size ? buffer[0] : 0;
    if (key_size > KEY_BYTES || size < 1 + key_size || size - 1 - key_size > VALUE_BYTES) trap(TEXT("bad entry"));
    struct entry *entry = find(buffer + 1, key_size);
    if (!entry) {
        if (used == SLOTS) trap(TEXT("the table is full"));
        entry = &table[used++];
    }
    entry->key_size = key_size;
    entry->value_size = size - 1 - key_size;
    __builtin_memcpy(entry->key, buffer + 1, key_size);
    __builtin_memcpy(entry->value, buffer + 1 + key_size, entry->value_size);
    reply_empty();
}

QUERY(get) {
    word size = argument();
    struct entry *entry = find(buffer, size);
    if (entry) reply_with(entry->value, entry->value_size);
    else ic0_msg_reject(TEXT("no such key"));
}

QUERY(entries) { reply_u64(used); }

/* --- ways for a message to end ----------------------------------------------------------------------------------- */

UPDATE(echo) { reply_with(buffer, argument()); }

QUERY(echo_query) { reply_with(buffer, argument()); }

UPDATE(reject) { ic0_msg_reject(ADDRESS(buffer), argument()); }

UPDATE(trap) { ic0_trap(ADDRESS(buffer), argument()); }

UPDATE(silent) { counter++; }

UPDATE(reply_twice) {
    reply_u64(++counter);
    ic0_msg_reply();
}

/* Everything that a message can change, then a trap: nothing of it may stay. */
UPDATE(change_and_trap) {
    counter++;
    used = 0;
    table[0].key[0] ^= 0xff;
    __builtin_wasm_memory_grow(0, 1);
    u64 size = ic0_stable64_size();
    ic0_stable64_grow(1);
    u64 mark = 0x7374616c65ull;
    ic0_stable64_write(0, ADDRESS(&mark), size ? 8 : 0);
    ic0_certified_data_set(TEXT("stale"));
    ic0_global_timer_set(1);
    reply_u64(counter);
    ic0_trap(TEXT("changed everything, then trapped"));
}

UPDATE(unreachable) { __builtin_trap(); }

/* words: dividend, divisor */
UPDATE(divide) { reply_u64(argument_u64(0) / argument_u64(1)); }

UPDATE(spin) {
    for (volatile u64 turns = 0;; turns++) {
    }
}

static u64 dive(volatile u64 depth) { return depth ? 1 + dive(depth + 1) * 3 : 0; }

UPDATE(recurse) { reply_u64(dive(1)); }

/* words: address; the byte there */
UPDATE(heap_read) { reply_u64(*(volatile u8 *)(word)argument_u64(0)); }

/* words: address, value */
UPDATE(heap_write) {
    *(volatile u8 *)(word)argument_u64(0) = (u8)argument_u64(1);
    reply_empty();
}

/* words: pages; the old size, or all ones */
UPDATE(heap_grow) { reply_u64((u64)(__INTPTR_TYPE__)__builtin_wasm_memory_grow(0, (word)argument_u64(0))); }

QUERY(heap_size) { reply_u64(__builtin_wasm_memory_size(0)); }

/* words: table index */
UPDATE(call_indirect) {
    ((void (*)(void))(word)argument_u64(0))();
    reply_empty();
}

/* --- the System API, arguments as they come ---------------------------------------------------------------------- */

/* words: address, size */
UPDATE(append) {
    ic0_msg_reply_data_append((word)argument_u64(0), (word)argument_u64(1));
    ic0_msg_reply();
}

/* words: address, offset, size: copies of its own argument */
UPDATE(argument_copy) {
    ic0_msg_arg_data_copy((word)argument_u64(0), (word)argument_u64(1), (word)argument_u64(2));
    reply_empty();
}

QUERY(caller) {
    word size = ic0_msg_caller_size();
    ic0_msg_caller_copy(ADDRESS(buffer), 0, size);
    reply_with(buffer, size);
}

QUERY(self) {
    word size = ic0_canister_self_size();
    ic0_canister_self_copy(ADDRESS(buffer), 0, size);
    reply_with(buffer, size);
}

UPDATE(debug_print) {
    word size = argument();
    ic0_debug_print(ADDRESS(buffer), size);
    reply_with(buffer, size);
}

/* words: address, size */
UPDATE(debug_print_at) {
    ic0_debug_print((word)argument_u64(0), (word)argument_u64(1));
    reply_empty();
}

QUERY(time) { reply_u64(ic0_time()); }

/* words: type */
QUERY(performance_counter) { reply_u64(ic0_performance_counter((u32)argument_u64(0))); }

/* words: type, turns of a loop; the difference of two readings around it */
QUERY(performance_of_loop) {
    u64 before = ic0_performance_counter((u32)argument_u64(0));
    for (volatile u64 turn = argument_u64(1); turn; turn--) {
    }
    reply_u64(ic0_performance_counter((u32)argument_u64(0)) - before);
}

UPDATE(certified_data_set) {
    ic0_certified_data_set(ADDRESS(buffer), argument());
    reply_empty();
}

QUERY(data_certificate) {
    if (!ic0_data_certificate_present()) return reply_empty();
    word size = ic0_data_certificate_size();
    ic0_data_certificate_copy(ADDRESS(buffer), 0, size);
    reply_with(buffer, size);
}

/* words: time stamp; the one before */
UPDATE(global_timer_set) { reply_u64(ic0_global_timer_set(argument_u64(0))); }

QUERY(version) { reply_u64(ic0_canister_version()); }

QUERY(status) { reply_u64(ic0_canister_status()); }

QUERY(balance) {
    u64 cycles[2];
    ic0_canister_cycle_balance128(ADDRESS(cycles));
    reply_with(cycles, sizeof cycles);
}

QUERY(in_replicated_execution) { reply_u64(ic0_in_replicated_execution()); }

UPDATE(in_replicated_execution_update) { reply_u64(ic0_in_replicated_execution()); }

/* --- stable memory, arguments as they come ----------------------------------------------------------------------- */

QUERY(stable64_size) { reply_u64(ic0_stable64_size()); }

/* words: pages */
UPDATE(stable64_grow) { reply_u64(ic0_stable64_grow(argument_u64(0))); }

/* words: offset, source, size */
UPDATE(stable64_write) {
    ic0_stable64_write(argument_u64(0), argument_u64(1), argument_u64(2));
    reply_empty();
}

/* words: destination, offset, size */
UPDATE(stable64_read) {
    ic0_stable64_read(argument_u64(0), argument_u64(1), argument_u64(2));
    reply_empty();
}

/* words: offset; then the bytes to write there */
UPDATE(store) {
    word size = argument();
    u64 offset = argument_u64(0);
    ic0_stable64_write(offset, ADDRESS(buffer + 8), size < 8 ? 0 : size - 8);
    reply_empty();
}

/* words: offset, size; the bytes there */
QUERY(load) {
    u64 size = argument_u64(1);
    if (size > sizeof buffer) trap(TEXT("more than the buffer holds"));
    ic0_stable64_read(ADDRESS(buffer), argument_u64(0), size);
    reply_with(buffer, (word)size);
}

#ifndef __wasm64__
QUERY(stable_size) { reply_u64(ic0_stable_size()); }

/* words: pages; all ones in 32 bits where it fails */
UPDATE(stable_grow) { reply_u64(ic0_stable_grow((u32)argument_u64(0))); }

/* words: offset, source, size */
UPDATE(stable_write) {
    ic0_stable_write((u32)argument_u64(0), (u32)argument_u64(1), (u32)argument_u64(2));
    reply_empty();
}

/* words: destination, offset, size */
UPDATE(stable_read) {
    ic0_stable_read((u32)argument_u64(0), (u32)argument_u64(1), (u32)argument_u64(2));
    reply_empty();
}

/* words: offset, size; the bytes there */
QUERY(load32) {
    u64 size = argument_u64(1);
    if (size > sizeof buffer) trap(TEXT("more than the buffer holds"));
    ic0_stable_read(ADDRESS(buffer), (u32)argument_u64(0), (u32)size);
    reply_with(buffer, (word)size);
}
#endif
