/* A canister that does what its argument says: a stack machine with every function of ic0 among its instructions.

   The argument of `update`, `query`, `composite_query`, init and post_upgrade is a program. It works on one stack of
   64-bit numbers. A span, which is where bytes lie, is two numbers, address and size. Functions of ic0 take their
   parameters from the stack, first parameter deepest, and push their result, so that a program reaches every edge;
   what is pleasant to write is put together by `universal.py` from these parts.

   Callbacks and hooks are programs as well. A callback is two numbers, the table index of `callback` and an address
   of a saved program as its environment. Registers, slots and hooks are state: they live on the heap, come back after
   a trap and are lost with an upgrade.

   Memory comes in blocks of powers of two. Blocks that a message takes are free again when the next one starts, save
   those that hold slots, hooks and callbacks. Built twice, `universal32` and `universal64`. */
#include "ic0.h"

enum instruction {
    NUMBER, /* u64: push it                                          */
    BYTES,  /* u32 size, bytes: push their span                      */
    DROP,   /* a:                                                    */
    DUP,    /* a: a a                                                */
    SWAP,   /* a b: b a                                              */
    GET,    /* u8 register: push it                                  */
    SET,    /* u8 register; a:                                       */
    ADD,    /* a b: a + b, and so on                                 */
    SUB,
    MUL,
    DIV, /* unsigned; by zero traps                               */
    REM,
    AND,
    OR,
    XOR,
    SHL,
    SHR,
    EQ,
    LT,     /* unsigned                                              */
    F64DIV, /* a b: a / b, both and the result as bits of an f64     */
    ALLOC,  /* size: address                                         */
    FILL,   /* byte, size: span of that many bytes                   */
    CONCAT, /* span span: span                                       */
    EQUAL,  /* span span: 1 where the bytes are the same             */
    LOAD8,  /* address: byte                                         */
    LOAD64,
    STORE8, /* address value:                                        */
    STORE64,
    MEMORY_SIZE, /* Wasm pages of the heap                           */
    MEMORY_GROW, /* pages: old size or all ones                      */
    SAVE,        /* u8 slot; span:  keeps a copy                     */
    LOAD,        /* u8 slot: its span, empty at first                */
    HOOK,        /* u8 hook; span:  keeps a program to run there     */
    CALLBACK,    /* span: table index, environment                   */
    RUN,         /* span:  runs it as a program                      */
    INVOKE,      /* table index, environment:  calls through the table */
    MISTYPED,    /* table index of a function that is no callback    */
    IF,          /* u32 size, u32 size, program, program; condition: */
    REPEAT,      /* u32 size, program; times:                        */
    UNREACHABLE,
    INSTRUCTIONS
};

#define FIRST_FUNCTION 64
#define STACK_NUMBERS 1024
#define MOST_OPERANDS 8

enum function {
#define FUNCTION(name, operands, call) F_##name,
#define FUNCTION32(name, operands, call) F_##name,
#include "functions.h"
#undef FUNCTION
#undef FUNCTION32
    FUNCTIONS
};

static const u8 operand_count[FUNCTIONS] = {
#define FUNCTION(name, operands, call) operands,
#define FUNCTION32(name, operands, call) operands,
#include "functions.h"
#undef FUNCTION
#undef FUNCTION32
};

static const char function_names[] =
#define FUNCTION(name, operands, call) #name "\n"
#define FUNCTION32(name, operands, call) #name "\n"
#include "functions.h"
#undef FUNCTION
#undef FUNCTION32
    ;

struct span {
    u8 *start;
    u64 size;
};

enum hook { PRE_UPGRADE, HEARTBEAT, GLOBAL_TIMER, INSPECT_MESSAGE, ON_LOW_WASM_MEMORY, HOOKS };

static u64 stack[STACK_NUMBERS];
static u64 depth;
static u64 running; /* programs that run, one inside the other */
static u64 registers[256];
static struct span slots[256];
static struct span hooks[HOOKS];

static _Noreturn void fail(word text, word size) {
    ic0_trap(text, size);
    __builtin_unreachable();
}

/* --- memory ------------------------------------------------------------------------------------------------------ */

struct block {
    struct block *next;
    u64 order; /* the block has 2 to the power of this many bytes, these two fields included */
};

extern u8 __heap_base;

static struct block *free_blocks[64];
static struct block *taken; /* by the message that runs */
static word unused;         /* from here on no block has been made */

static struct block *make_block(u64 order) {
    if (!unused) unused = (ADDRESS(&__heap_base) + 15) & ~(word)15;
    u64 end = (u64)unused + (1ull << order), have = __builtin_wasm_memory_size(0) * WASM_PAGE_BYTES;
    if (order >= 40 || (word)(end - 1) < unused) fail(TEXT("universal: no heap is that large"));
    if (end > have) {
        word pages = (end - have + WASM_PAGE_BYTES - 1) / WASM_PAGE_BYTES;
        if (__builtin_wasm_memory_grow(0, pages) == (word)-1) fail(TEXT("universal: no heap left"));
    }
    struct block *block = (struct block *)unused;
    unused = (word)end;
    block->order = order;
    return block;
}

static struct block *take_block(u64 size) {
    u64 order = 5;
    while (order < 40 && (1ull << order) < size + sizeof(struct block)) order++;
    struct block *block = free_blocks[order];
    if (!block) return make_block(order);
    free_blocks[order] = block->next;
    return block;
}

static void free_block(struct block *block) {
    block->next = free_blocks[block->order];
    free_blocks[block->order] = block;
}

/* Memory until the message ends. */
static u8 *allocate(u64 size) {
    struct block *block = take_block(size);
    block->next = taken;
    taken = block;
    return (u8 *)(block + 1);
}

/* A copy that stays. */
static struct span keep(struct span span) {
    struct span copy = {(u8 *)(take_block(span.size) + 1), span.size};
    __builtin_memcpy(copy.start, span.start, span.size);
    return copy;
}

static void replace(struct span *old, struct span span) {
    struct span kept = keep(span);
    if (old->start) free_block((struct block *)old->start - 1);
    *old = kept;
}

/* --- the machine ------------------------------------------------------------------------------------------------- */

static void push(u64 number) {
    if (depth == STACK_NUMBERS) fail(TEXT("universal: the stack is full"));
    stack[depth++] = number;
}

static u64 pop(void) {
    if (!depth) fail(TEXT("universal: the stack is empty"));
    return stack[--depth];
}

static void push_span(struct span span) {
    push(ADDRESS(span.start));
    push(span.size);
}

static struct span pop_span(void) {
    u64 size = pop();
    return (struct span){(u8 *)(word)pop(), size};
}

/* What is left of a program. */
struct program {
    u8 *at, *end;
};

static u8 *next_bytes(struct program *program, u64 size) {
    if ((u64)(program->end - program->at) < size) fail(TEXT("universal: the program ends in an instruction"));
    u8 *start = program->at;
    program->at += size;
    return start;
}

static u64 next_number(struct program *program, u64 size) {
    u64 number = 0;
    u8 *bytes = next_bytes(program, size);
    for (u64 index = 0; index < size; index++) number |= (u64)bytes[index] << 8 * index;
    return number;
}

static void run(u8 *start, u64 size);

/* What the message before has taken is free again. */
static void enter(void) {
    depth = 0;
    for (struct block *block = taken, *next; block; block = next) {
        next = block->next;
        free_block(block);
    }
    taken = 0;
}

/* Called by the system, or by INVOKE in the middle of a program. */
static void callback(word environment) {
    struct span *program = (struct span *)environment;
    if (!running) enter();
    run(program->start, program->size);
}

/* In the table, but not of a callback's type: using it as one must trap. */
static u64 mistyped(void) { return depth; }

static void call_function(u32 function) {
    u64 a[MOST_OPERANDS] = {0};
    if (function >= FUNCTIONS) fail(TEXT("universal: no such function"));
    for (u32 index = operand_count[function]; index--;) a[index] = pop();
    switch (function) {
#define FUNCTION(name, operands, call) \
    case F_##name: call; return;
#ifdef __wasm64__
#define FUNCTION32(name, operands, call) \
    case F_##name: fail(TEXT("universal: ic0." #name " needs a 32-bit heap"));
#else
#define FUNCTION32(name, operands, call) FUNCTION(name, operands, call)
#endif
#include "functions.h"
#undef FUNCTION
#undef FUNCTION32
    }
}

static u64 calculate(u8 instruction, u64 a, u64 b) {
    switch (instruction) {
    case ADD: return a + b;
    case SUB: return a - b;
    case MUL: return a * b;
    case DIV: return a / b;
    case REM: return a % b;
    case AND: return a & b;
    case OR: return a | b;
    case XOR: return a ^ b;
    case SHL: return a << (b & 63);
    case SHR: return a >> (b & 63);
    case EQ: return a == b;
    case LT: return a < b;
    default: {
        double dividend, divisor, quotient;
        __builtin_memcpy(&dividend, &a, 8);
        __builtin_memcpy(&divisor, &b, 8);
        quotient = dividend / divisor;
        __builtin_memcpy(&a, &quotient, 8);
        return a;
    }
    }
}

static void fill(void) {
    u64 size = pop();
    u8 byte = (u8)pop();
    struct span span = {allocate(size), size};
    __builtin_memset(span.start, byte, size);
    push_span(span);
}

static void concatenate(void) {
    struct span second = pop_span(), first = pop_span(), both = {0, first.size + second.size};
    both.start = allocate(both.size);
    __builtin_memcpy(both.start, first.start, first.size);
    __builtin_memcpy(both.start + first.size, second.start, second.size);
    push_span(both);
}

static void compare(void) {
    struct span second = pop_span(), first = pop_span();
    u64 same = first.size == second.size;
    for (u64 index = 0; same && index < first.size; index++) same = first.start[index] == second.start[index];
    push(same);
}

static void make_callback(void) {
    struct span program = keep(pop_span());
    struct span saved = keep((struct span){(u8 *)&program, sizeof program});
    push((word)&callback);
    push(ADDRESS(saved.start));
}

static void choose(struct program *program) {
    u64 first = next_number(program, 4), second = next_number(program, 4);
    u8 *start = next_bytes(program, first + second);
    if (pop()) run(start, first);
    else run(start + first, second);
}

static void repeat(struct program *program) {
    u64 size = next_number(program, 4);
    u8 *start = next_bytes(program, size);
    for (u64 times = pop(); times; times--) run(start, size);
}

static void keep_in(struct span *places, u64 count, u64 index) {
    if (index >= count) fail(TEXT("universal: no such hook"));
    replace(&places[index], pop_span());
}

/* The instructions that touch memory, the heap's size or a place of the state. */
static void access_state(u8 instruction, struct program *program) {
    u64 value, index;
    switch (instruction) {
    case ALLOC: push(ADDRESS(allocate(pop()))); return;
    case FILL: fill(); return;
    case CONCAT: concatenate(); return;
    case EQUAL: compare(); return;
    case LOAD8: push(*(volatile u8 *)(word)pop()); return;
    case LOAD64: push(*(volatile u64 *)(word)pop()); return;
    case STORE8:
        value = pop();
        *(volatile u8 *)(word)pop() = (u8)value;
        return;
    case STORE64:
        value = pop();
        *(volatile u64 *)(word)pop() = value;
        return;
    case MEMORY_SIZE: push(__builtin_wasm_memory_size(0)); return;
    case MEMORY_GROW: push((u64)(__INTPTR_TYPE__)__builtin_wasm_memory_grow(0, (word)pop())); return;
    case SAVE: keep_in(slots, 256, next_number(program, 1)); return;
    case LOAD: push_span(slots[next_number(program, 1)]); return;
    case HOOK: keep_in(hooks, HOOKS, next_number(program, 1)); return;
    case GET: push(registers[next_number(program, 1)]); return;
    case SET:
        index = next_number(program, 1);
        registers[index] = pop();
        return;
    }
}

static void step(struct program *program) {
    u8 instruction = *program->at++;
    u64 first, second;
    struct span span;
    switch (instruction) {
    case NUMBER: push(next_number(program, 8)); return;
    case BYTES:
        span.size = next_number(program, 4);
        span.start = next_bytes(program, span.size);
        push_span(span);
        return;
    case DROP: pop(); return;
    case DUP:
        first = pop();
        push(first);
        push(first);
        return;
    case SWAP:
        second = pop(), first = pop();
        push(second);
        push(first);
        return;
    case ADD ... F64DIV:
        second = pop(), first = pop();
        push(calculate(instruction, first, second));
        return;
    case GET ... SET:
    case ALLOC ... HOOK: access_state(instruction, program); return;
    case CALLBACK: make_callback(); return;
    case RUN:
        span = pop_span();
        run(span.start, span.size);
        return;
    case INVOKE:
        second = pop();
        ((void (*)(word))(word)pop())((word)second);
        return;
    case MISTYPED: push((word)&mistyped); return;
    case IF: choose(program); return;
    case REPEAT: repeat(program); return;
    case UNREACHABLE: __builtin_trap();
    case INSTRUCTIONS ... FIRST_FUNCTION - 1: fail(TEXT("universal: no such instruction"));
    default: call_function(instruction - FIRST_FUNCTION); return;
    }
}

static void run(u8 *start, u64 size) {
    struct program program = {start, start + size};
    running++;
    while (program.at < program.end) step(&program);
    running--;
}

/* --- entry points ------------------------------------------------------------------------------------------------ */

static void run_argument(void) {
    enter();
    word size = ic0_msg_arg_data_size();
    u8 *program = allocate(size);
    ic0_msg_arg_data_copy(ADDRESS(program), 0, size);
    run(program, size);
}

static void run_hook(enum hook hook) {
    enter();
    run(hooks[hook].start, hooks[hook].size);
}

CANISTER(init, "canister_init") { run_argument(); }
CANISTER(post_upgrade, "canister_post_upgrade") { run_argument(); }
CANISTER(pre_upgrade, "canister_pre_upgrade") { run_hook(PRE_UPGRADE); }
CANISTER(heartbeat, "canister_heartbeat") { run_hook(HEARTBEAT); }
CANISTER(global_timer, "canister_global_timer") { run_hook(GLOBAL_TIMER); }
CANISTER(on_low_wasm_memory, "canister_on_low_wasm_memory") { run_hook(ON_LOW_WASM_MEMORY); }
UPDATE(update) { run_argument(); }
QUERY(query) { run_argument(); }
CANISTER(composite_query, "canister_composite_query composite_query") { run_argument(); }

CANISTER(inspect_message, "canister_inspect_message") {
    if (hooks[INSPECT_MESSAGE].start) run_hook(INSPECT_MESSAGE);
    else ic0_accept_message();
}

/* The names of the functions in the order of their opcodes, one a line. */
QUERY(functions) { reply_with(function_names, sizeof function_names - 1); }
