/* C with its library: what needs WASI, and what comes of it on a canister.

   The counter lies in stable memory; all else is printf, files, memory, time, randomness and the end of a program. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include "ic0.h"

static int constructed;
static char argument[64];

__attribute__((constructor)) static void construct(void) { constructed = 1; }

static void reply(const char *text) {
    ic0_msg_reply_data_append((word)text, strlen(text));
    ic0_msg_reply();
}

static const char *received(void) {
    word size = ic0_msg_arg_data_size();
    if (size >= sizeof argument) size = sizeof argument - 1;
    ic0_msg_arg_data_copy((word)argument, 0, size);
    argument[size] = 0;
    return argument;
}

static u64 counter(void) {
    u64 value = 0;
    if (ic0_stable64_size()) ic0_stable64_read((word)&value, 0, sizeof value);
    return value;
}

static void reply_number(u64 value) {
    char text[24];
    snprintf(text, sizeof text, "%llu", value);
    reply(text);
}

CANISTER(init, "canister_init") { printf("constructed: %d\n", constructed); }
CANISTER(post_upgrade, "canister_post_upgrade") { printf("constructed again: %d\n", constructed); }

UPDATE(inc) {
    u64 value = counter() + 1;
    if (!ic0_stable64_size()) ic0_stable64_grow(1);
    ic0_stable64_write(0, (word)&value, sizeof value);
    printf("counted to %llu\n", value);
    reply_number(value);
}

QUERY(count) { reply_number(counter()); }

/* One line in many writes, two lines in one, a line longer than what is held, and one without an end. */
UPDATE(print) {
    fprintf(stderr, "%s, %d, %.3f", received(), 42, 0.125);
    fputs("!\n", stderr);
    write(1, "one\ntwo\n", 8);
    for (int i = 0; i < 1000; i++) write(2, "x", 1);
    write(2, "\n", 1);
    fputs("no newline", stderr);
    reply("");
}

/* There are no files. */
UPDATE(open) {
    FILE *file = fopen(received(), "r");
    if (file) {
        reply("opened");
        return;
    }
    char text[80];
    snprintf(text, sizeof text, "%d", errno);
    reply(text);
}

/* Memory is taken, sorted and given back. */
static int compare(const void *left, const void *right) { return strcmp(*(char **)left, *(char **)right); }

UPDATE(sort) {
    int count = atoi(received());
    char **lines = malloc(sizeof(char *) * count);
    for (int i = 0; i < count; i++) {
        lines[i] = malloc(16);
        snprintf(lines[i], 16, "%08d", (int)((i * 7919LL) % count));
    }
    qsort(lines, count, sizeof *lines, compare);
    char text[40];
    snprintf(text, sizeof text, "%s %s", lines[0], lines[count - 1]);
    for (int i = 0; i < count; i++) free(lines[i]);
    free(lines);
    reply(text);
}

QUERY(clock) { reply_number(time(0)); }

UPDATE(random) {
    unsigned char bytes[40];
    if (getentropy(bytes, 20) || getentropy(bytes + 20, 20)) abort();
    ic0_msg_reply_data_append((word)bytes, sizeof bytes);
    ic0_msg_reply();
}

QUERY(environment) {
    char text[80];
    snprintf(text, sizeof text, "%s %d", getenv("HOME") ? "some" : "none", isatty(1));
    reply(text);
}

UPDATE(exit) {
    reply("never seen");
    fputs("half a line", stderr);
    exit(atoi(received()));
}

UPDATE(abort) { abort(); }
