/* The imports of a canister, as the interface specification 0.66.0 gives them.

   `word` is the specification's I: 32 bits with a 32-bit heap and 64 bits with a 64-bit one. Only what a module
   calls ends up among its imports. The nine functions at the end exist with a 32-bit heap alone. */
#ifndef IC0_H
#define IC0_H

typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef __UINTPTR_TYPE__ word;

#define IC0(result, name, ...) \
    __attribute__((import_module("ic0"), import_name(#name))) result ic0_##name(__VA_ARGS__)
#define CANISTER(identifier, name) __attribute__((export_name(name))) void identifier(void)
#define UPDATE(name) CANISTER(update_##name, "canister_update " #name)
#define QUERY(name) CANISTER(query_##name, "canister_query " #name)

IC0(word, msg_arg_data_size, void);
IC0(void, msg_arg_data_copy, word dst, word offset, word size);
IC0(word, msg_caller_size, void);
IC0(void, msg_caller_copy, word dst, word offset, word size);
IC0(word, msg_caller_info_data_size, void);
IC0(void, msg_caller_info_data_copy, word dst, word offset, word size);
IC0(word, msg_caller_info_signer_size, void);
IC0(void, msg_caller_info_signer_copy, word dst, word offset, word size);
IC0(u32, msg_reject_code, void);
IC0(word, msg_reject_msg_size, void);
IC0(void, msg_reject_msg_copy, word dst, word offset, word size);
IC0(u64, msg_deadline, void);
IC0(void, msg_reply_data_append, word src, word size);
IC0(void, msg_reply, void);
IC0(void, msg_reject, word src, word size);
IC0(void, msg_cycles_available128, word dst);
IC0(void, msg_cycles_refunded128, word dst);
IC0(void, msg_cycles_accept128, u64 high, u64 low, word dst);
IC0(void, cycles_burn128, u64 high, u64 low, word dst);
IC0(word, canister_self_size, void);
IC0(void, canister_self_copy, word dst, word offset, word size);
IC0(void, canister_cycle_balance128, word dst);
IC0(void, canister_liquid_cycle_balance128, word dst);
IC0(u32, canister_status, void);
IC0(u64, canister_version, void);
IC0(word, subnet_self_size, void);
IC0(void, subnet_self_copy, word dst, word offset, word size);
IC0(word, msg_method_name_size, void);
IC0(void, msg_method_name_copy, word dst, word offset, word size);
IC0(void, accept_message, void);
IC0(void, call_new, word callee_src, word callee_size, word name_src, word name_size, word reply_fun, word reply_env,
    word reject_fun, word reject_env);
IC0(void, call_on_cleanup, word fun, word env);
IC0(void, call_data_append, word src, word size);
IC0(void, call_with_best_effort_response, u32 timeout_seconds);
IC0(void, call_cycles_add128, u64 high, u64 low);
IC0(u32, call_perform, void);
IC0(u64, stable64_size, void);
IC0(u64, stable64_grow, u64 new_pages);
IC0(void, stable64_write, u64 offset, u64 src, u64 size);
IC0(void, stable64_read, u64 dst, u64 offset, u64 size);
IC0(word, root_key_size, void);
IC0(void, root_key_copy, word dst, word offset, word size);
IC0(void, certified_data_set, word src, word size);
IC0(u32, data_certificate_present, void);
IC0(word, data_certificate_size, void);
IC0(void, data_certificate_copy, word dst, word offset, word size);
IC0(u64, time, void);
IC0(u64, global_timer_set, u64 timestamp);
IC0(u64, performance_counter, u32 type);
IC0(u32, is_controller, word src, word size);
IC0(u32, in_replicated_execution, void);
IC0(void, cost_call, u64 method_name_size, u64 payload_size, word dst);
IC0(void, cost_create_canister, word dst);
IC0(void, cost_http_request, u64 request_size, u64 max_response_bytes, word dst);
IC0(u32, cost_sign_with_ecdsa, word src, word size, u32 curve, word dst);
IC0(u32, cost_sign_with_schnorr, word src, word size, u32 algorithm, word dst);
IC0(u32, cost_vetkd_derive_key, word src, word size, u32 curve, word dst);
IC0(word, env_var_count, void);
IC0(word, env_var_name_size, word index);
IC0(void, env_var_name_copy, word index, word dst, word offset, word size);
IC0(u32, env_var_name_exists, word src, word size);
IC0(word, env_var_value_size, word name_src, word name_size);
IC0(void, env_var_value_copy, word name_src, word name_size, word dst, word offset, word size);
IC0(void, debug_print, word src, word size);
IC0(void, trap, word src, word size);

#ifndef __wasm64__
IC0(u64, msg_cycles_available, void);
IC0(u64, msg_cycles_refunded, void);
IC0(u64, msg_cycles_accept, u64 max_amount);
IC0(u64, canister_cycle_balance, void);
IC0(void, call_cycles_add, u64 amount);
IC0(u32, stable_size, void);
IC0(u32, stable_grow, u32 new_pages);
IC0(void, stable_write, u32 offset, u32 src, u32 size);
IC0(void, stable_read, u32 dst, u32 offset, u32 size);
#endif

/* --- the little that every canister here needs ----------------------------------------------------------------- */

#define WASM_PAGE_BYTES 65536ull
#define ADDRESS(object) ((word)(object))
/* The text without its terminating zero, as (address, size). */
#define TEXT(literal) (word)(literal), sizeof(literal) - 1

static inline void reply_with(const void *data, word size) {
    ic0_msg_reply_data_append(ADDRESS(data), size);
    ic0_msg_reply();
}

static inline void reply_u64(u64 value) { reply_with(&value, sizeof value); }

static inline void reply_empty(void) { ic0_msg_reply(); }

/* Argument words: the argument is a row of little-endian 64-bit numbers, missing ones are zero. */
static inline u64 argument_u64(word index) {
    u64 value = 0;
    if (ic0_msg_arg_data_size() >= 8 * (index + 1)) ic0_msg_arg_data_copy(ADDRESS(&value), 8 * index, 8);
    return value;
}

#endif
