/* Memories of a canister's own, by function imports: their lifetimes, and one of them handed to another canister.

   VERSION 1 has users (stays), cache (emptied by an upgrade) and scratch (gone after an entry), and gives users away.
   VERSION 2 only reads users, which are deprecated, and has what it was given as archive. */
#include "ic0.h"

#define FROM(module, result, prefix, name, ...) \
    __attribute__((import_module(module), import_name(#name))) result prefix##_##name(__VA_ARGS__)
#define LOAD(module, prefix) \
    __attribute__((import_module(module), import_name("i64.load"))) u64 prefix##_load(u64 address)
#define STORE(module, prefix) \
    __attribute__((import_module(module), import_name("i64.store"))) void prefix##_store(u64 address, u64 value)

static void reply(const u64 *numbers, int count) {
    ic0_msg_reply_data_append((word)numbers, count * sizeof *numbers);
    ic0_msg_reply();
}

#if VERSION == 1
__attribute__((import_module("ic0_ext"), import_name("call_memory_add"))) void ic0_ext_call_memory_add(
    word name, word name_size, word there, word there_size);
FROM("stable:users", u64, users, grow, u64 pages);
FROM("stable:users", u64, users, size, void);
LOAD("stable:users", users);
STORE("stable:users", users);
FROM("upgrade:cache", u64, cache, grow, u64 pages);
FROM("upgrade:cache", u64, cache, size, void);
LOAD("upgrade:cache", cache);
STORE("upgrade:cache", cache);
FROM("message:scratch", u64, scratch, grow, u64 pages);
FROM("message:scratch", u64, scratch, size, void);
LOAD("message:scratch", scratch);
STORE("message:scratch", scratch);

static void show(void) {
    u64 numbers[] = {users_load(8), cache_size() ? cache_load(8) : 0, scratch_size() ? scratch_load(8) : 0};
    reply(numbers, 3);
}

static void add(void) {
    if (!cache_size()) cache_grow(1);
    if (!scratch_size()) scratch_grow(1);
    users_store(8, users_load(8) + 1);
    cache_store(8, cache_load(8) + 1);
    scratch_store(8, scratch_load(8) + 1);
}

CANISTER(init, "canister_init") { users_grow(1); }
UPDATE(add) { add(), show(); }
UPDATE(trap) { add(), __builtin_trap(); }
QUERY(show) { show(); }

static void given(word env) { (void)env, reply(0, 0); }

UPDATE(give) {
    static u8 callee[32];
    word size = ic0_msg_arg_data_size();
    ic0_msg_arg_data_copy((word)callee, 0, size);
    ic0_call_new((word)callee, size, (word) "keep", 4, (word)given, 0, (word)given, 0);
    ic0_ext_call_memory_add((word) "users", 5, (word) "archive", 7);
    ic0_call_perform();
}
#else
LOAD("deprecated:users", users);
FROM("deprecated:users", u64, users, size, void);
STORE("deprecated:users", users);
FROM("stable:archive", u64, archive, size, void);
LOAD("stable:archive", archive);
STORE("stable:archive", archive);

QUERY(show) {
    u64 numbers[] = {users_size() ? users_load(8) : 0, archive_size() ? archive_load(8) : 0};
    reply(numbers, 2);
}
UPDATE(keep) { reply(0, 0); }
UPDATE(write) { users_store(8, 1), reply(0, 0); }
UPDATE(add) { archive_store(8, archive_load(8) + 10), reply(0, 0); }
#endif
