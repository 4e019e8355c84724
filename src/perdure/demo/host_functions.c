/* ic0.stable64_* as host functions in C: what stable memory was before it became native, at its fastest.
 *
 * Built on the spot by the demo where a compiler is at hand, and bound to a canister in place of the Python functions.
 * The bounds checks are those of the native bodies; charging and page accounting happen in Wasm around the call, the
 * same for every series. The engine's own C functions are handed over as pointers, so nothing has to be linked.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef struct { uint64_t words[4]; } memory_handle; /* wasmtime_memory_t, with room to spare */

typedef struct {
  void *(*caller_context)(void *caller);
  uint8_t *(*memory_data)(const void *context, const void *memory);
  size_t (*memory_data_size)(const void *context, const void *memory);
  uint64_t (*memory_size)(const void *context, const void *memory);
  void *(*memory_grow)(void *context, const void *memory, uint64_t delta, uint64_t *previous);
  void *(*trap_new)(const char *message, size_t size);
  memory_handle heap;
  memory_handle stable;
} environment;

typedef struct { uint64_t low, high; } value; /* wasmtime_val_raw_t */

static void *trap(const environment *env, const char *message) { return env->trap_new(message, strlen(message)); }

static void *check(const environment *env, uint64_t address, size_t stable_bytes, uint64_t heap_address,
                   size_t heap_bytes, uint64_t size) {
  if (address + size < address || address + size > stable_bytes) return trap(env, "stable memory out of bounds");
  if (heap_address + size < heap_address || heap_address + size > heap_bytes) return trap(env, "heap out of bounds");
  return NULL;
}

void *stable64_write(void *data, void *caller, value *arguments, size_t count) {
  const environment *env = data;
  void *context = env->caller_context(caller);
  uint64_t address = arguments[0].low, source = arguments[1].low, size = arguments[2].low;
  (void)count;
  if (!size) return NULL;
  void *failed = check(env, address, env->memory_data_size(context, &env->stable), source,
                       env->memory_data_size(context, &env->heap), size);
  if (failed) return failed;
  memcpy(env->memory_data(context, &env->stable) + address, env->memory_data(context, &env->heap) + source, size);
  return NULL;
}

void *stable64_read(void *data, void *caller, value *arguments, size_t count) {
  const environment *env = data;
  void *context = env->caller_context(caller);
  uint64_t target = arguments[0].low, address = arguments[1].low, size = arguments[2].low;
  (void)count;
  if (!size) return NULL;
  void *failed = check(env, address, env->memory_data_size(context, &env->stable), target,
                       env->memory_data_size(context, &env->heap), size);
  if (failed) return failed;
  memcpy(env->memory_data(context, &env->heap) + target, env->memory_data(context, &env->stable) + address, size);
  return NULL;
}

void *stable64_size(void *data, void *caller, value *arguments, size_t count) {
  const environment *env = data;
  (void)count;
  arguments[0].low = env->memory_size(env->caller_context(caller), &env->stable);
  return NULL;
}

void *stable64_grow(void *data, void *caller, value *arguments, size_t count) {
  const environment *env = data;
  uint64_t previous = 0;
  (void)count;
  bool failed = env->memory_grow(env->caller_context(caller), &env->stable, arguments[0].low, &previous) != NULL;
  arguments[0].low = failed ? (uint64_t)-1 : previous;
  return NULL;
}
