/* A counter in a module's second memory. Compilers know one memory: these functions are wat/second.wat's, and
   wasm-merge makes one module of both. Whether the counter survives an upgrade is the policy's to say. */
#include "ic0.h"

#define SECOND(result, name, ...) \
    __attribute__((import_module("second"), import_name(#name))) result second_##name(__VA_ARGS__)

SECOND(u64, size, void);
SECOND(u64, grow, u64 pages);
SECOND(u64, load, u64 address);
SECOND(void, store, u64 address, u64 value);

static void reply(void) {
    u64 count = second_size() ? second_load(8) : 0;
    ic0_msg_reply_data_append((word)&count, sizeof count);
    ic0_msg_reply();
}

UPDATE(inc) {
    if (!second_size()) second_grow(1);
    second_store(8, second_load(8) + 1);
    reply();
}
UPDATE(trap) { second_store(8, 99), __builtin_trap(); }
QUERY(get) { reply(); }
