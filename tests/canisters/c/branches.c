/* Branches, some of which are never taken, and a way down to a trap: built with debug sections, for coverage and
   backtraces. Lines of this file stand in tests/measure/test_coverage.py and tests/embedder/test_lines.py. */
#include "ic0.h"

static u64 sum;

static void fail(u64 value) {
    if (value > 100)
        ic0_trap(ADDRESS("too much"), 8);
    else
        sum -= value;
}

static u64 step(u64 value) {
    if (value % 2) {
        sum += value;
        return 1;
    }
    fail(value);
    return 0;
}

/* words: a number */
UPDATE(add) {
    reply_u64(step(argument_u64(0)));
}

/* words: two numbers */
UPDATE(divide) {
    reply_u64(argument_u64(0) / argument_u64(1));
}

/* never called */
UPDATE(idle) {
    reply_u64(0);
}
