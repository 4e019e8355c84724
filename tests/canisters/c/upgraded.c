// State on the heap that hooks save to stable memory, in several versions: a letter in the data says which, as in
// ../rust/upgraded. No Candid: replies are bytes, methods take nothing.
#include "ic0.h"

volatile const char version[] = "perdure-version:a";
#define VERSION version[16]

static struct {
  u64 count;
  u64 sum;
  char motto[16];
} state;

static void save(u64 at, const void *data, u64 size) {
  if (ic0_stable64_size() == 0) ic0_stable64_grow(1);
  ic0_stable64_write(at, (word)data, size);
}

static void load(u64 at, void *data, u64 size) {
  if (ic0_stable64_size() != 0) ic0_stable64_read((word)data, at, size);
}

static void reply(const void *data, word size) {
  ic0_msg_reply_data_append((word)data, size);
  ic0_msg_reply();
}

CANISTER(pre_upgrade, "canister_pre_upgrade") {
  if (VERSION == 'd') return;
  u32 form = VERSION == 'g' ? 2 : 1;
  save(0, "STAT", 4);
  save(4, &form, 4);
  save(8, &state, sizeof state);
}

CANISTER(post_upgrade, "canister_post_upgrade") {
  u32 form = 0;
  load(4, &form, 4);
  switch (VERSION) {
  case 'b': return;                                       // forgets to read
  case 'c': load(8, &state.sum, 8); load(16, &state.count, 8); load(24, state.motto, 16); return;
  case 'e': load(16, &state, sizeof state); return;       // another layout
  case 'f': if (form != 2) ic0_trap(TEXT("form 2 expected")); break;
  case 'h': if (form > 2) ic0_trap(TEXT("unknown form")); break;
  }
  load(8, &state, sizeof state);
  if (VERSION == 'i') state.count = 0;
}

UPDATE(add) {
  state.count += 3;
  state.sum += state.count;
  state.motto[0] = 'M';
  state.motto[1] += 1;
  reply(&state.count, 8);
}

QUERY(count) {
  if (VERSION == 'k' && state.count) ic0_trap(TEXT("count is off"));
  reply(&state.count, 8);
}

QUERY(sum) { reply(&state.sum, 8); }
QUERY(motto) { reply(state.motto, sizeof state.motto); }
QUERY(build) { reply((const void *)&version[16], 1); }
