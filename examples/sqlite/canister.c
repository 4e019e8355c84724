/* SQLite in stable memory: a canister to copy and change.

   The database is the file that SQLite itself defines, from byte 0 of stable memory on; every tool that reads such
   files reads it. There is no journal file: what a message that traps has written is undone by the system, and ROLLBACK
   within a message goes by a journal in the heap.

   | method | argument | reply |
   |---|---|---|
   | update exec, query query | SQL, several statements | rows as text: columns by tab, rows by newline |
   | update run, query select | text SQL, values | rows |
   | update run_many | text SQL, u32 n, n times the values of one row | u64 rows changed |
   | update prepare | SQL | u32 statement, u32 parameters, u32 columns, text name of each |
   | update bind | u32 statement, u32 first parameter from 1, values | nothing |
   | update step | u32 statement, u32 most rows | rows |
   | update reset, finalize | u32 statement | nothing |
   | query explain | SQL, one statement | plan, pages by table and index, instructions, as text |

       text   = u32 size, bytes
       value  = u8 0 | 1 i64 | 2 f64 | 3 text | 4 text, bytes as they are           null, integer, real, text, blob
       rows   = u8 whether there are no more, u32 columns, u32 rows, values

   Numbers are little-endian. What fails traps, with SQLite's words: nothing that its message did stays. Updates are for
   controllers alone, since whoever sends SQL can do everything; change `check_caller` for others.

   A write ends with its message. A statement may be read on by the next message; where others have changed the database
   in between, from outside of this canister, it says so. */
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "sqlite3.h"

typedef uint8_t u8;
typedef uint32_t u32;
typedef uint64_t u64;

#define IC0(result, name, ...) \
    __attribute__((import_module("ic0"), import_name(#name))) result ic0_##name(__VA_ARGS__)
#define CANISTER(identifier, name) __attribute__((export_name(name))) void identifier(void)
#define UPDATE(name) CANISTER(update_##name, "canister_update " #name)
#define QUERY(name) CANISTER(query_##name, "canister_query " #name)

IC0(u32, msg_arg_data_size, void);
IC0(void, msg_arg_data_copy, u32 dst, u32 offset, u32 size);
IC0(u32, msg_caller_size, void);
IC0(void, msg_caller_copy, u32 dst, u32 offset, u32 size);
IC0(void, msg_reply_data_append, u32 src, u32 size);
IC0(void, msg_reply, void);
IC0(u32, is_controller, u32 src, u32 size);
IC0(u64, stable64_size, void);
IC0(u64, stable64_grow, u64 new_pages);
IC0(void, stable64_write, u64 offset, u64 src, u64 size);
IC0(void, stable64_read, u64 dst, u64 offset, u64 size);
IC0(u64, time, void);
IC0(u64, performance_counter, u32 kind);
__attribute__((import_module("ic0"), import_name("trap"), noreturn)) void ic0_trap(u32 src, u32 size);

/* Tells tools that the database may be changed from outside between two messages: size and change counter are read
   again whenever a transaction begins (`file_lock`), and what is read on across messages notices (`begin`). */
__asm__(".section \".custom_section.icp:public perdure:sqlite\",\"\",@\n\t.ascii \"1\"\n\t.text\n");

#define LENGTH(array) (sizeof(array) / sizeof(array)[0])
#define TEXT_OF(number) #number
#define TEXT(number) TEXT_OF(number)
#define WASM_PAGE_BYTES 65536
#define STABLE_PAGE_BYTES 4096
/* Reading a page changes the heap, where the cache is: a large one makes every message that reads dirty hundreds of pages
   there. For the same reason it lies in one piece, and not between other things; what does not fit is allocated. */
#define CACHE_PAGES 16
enum { CACHE_SLOTS = CACHE_PAGES + 8, CACHE_SLOT_BYTES = STABLE_PAGE_BYTES + 256 };
#define MOST_REPLY_BYTES (1 << 20)

static _Noreturn void fail(const char *text) { ic0_trap((u32)(uintptr_t)text, (u32)strlen(text)); }

/* --- the file ----------------------------------------------------------------------------------------------------- */

static u64 file_bytes;
static u8 read_counter[4]; /* the change counter when the lock was taken */
static int lock;
static u32 page_bytes;
static u8 *touched; /* of each page while `explain` counts: 1 read, 2 written */
static u64 touched_pages;

enum { SIZE_AT = 16, COUNTER_AT = 24, PAGES_AT = 28, HEADER_BYTES = 100 };

static u32 big_endian(const u8 *bytes, int size) {
    u32 value = 0;
    while (size--) value = value << 8 | *bytes++;
    return value;
}

static void stable_read(void *to, u64 at, u64 size) { ic0_stable64_read((u64)(uintptr_t)to, at, size); }
static void stable_write(const void *from, u64 at, u64 size) { ic0_stable64_write(at, (u64)(uintptr_t)from, size); }

/* Takes the size from the header: somebody else may have made the file longer since. */
static void read_header(void) {
    u8 header[HEADER_BYTES];
    file_bytes = 0;
    memset(read_counter, 0, sizeof read_counter);
    if (ic0_stable64_size() == 0) return;
    stable_read(header, 0, sizeof header);
    if (memcmp(header, "SQLite format 3", 16)) {
        for (u32 i = 0; i < sizeof header; i++) {
            if (header[i]) fail("stable memory begins with something else than a database");
        }
        return;
    }
    page_bytes = big_endian(header + SIZE_AT, 2);
    if (page_bytes == 1) page_bytes = 65536;
    file_bytes = (u64)page_bytes * big_endian(header + PAGES_AT, 4);
    if (file_bytes > ic0_stable64_size() * WASM_PAGE_BYTES) fail("the database is longer than stable memory");
    memcpy(read_counter, header + COUNTER_AT, sizeof read_counter);
}

static int is_changed_by_others(void) {
    u8 counter[4];
    if (lock != SQLITE_LOCK_SHARED || file_bytes == 0) return 0;
    stable_read(counter, COUNTER_AT, sizeof counter);
    return memcmp(counter, read_counter, sizeof counter) != 0;
}

static void touch(u64 at, int size, u8 how) {
    if (touched == NULL || page_bytes == 0) return;
    for (u64 page = at / page_bytes; page <= (at + size - 1) / page_bytes; page++) {
        if (page < touched_pages) touched[page] |= how;
    }
}

static int file_read(sqlite3_file *file, void *to, int size, sqlite3_int64 at) {
    (void)file;
    u64 have = (u64)at >= file_bytes ? 0 : file_bytes - (u64)at;
    touch((u64)at, size, 1);
    if (have >= (u64)size) {
        stable_read(to, (u64)at, (u64)size);
        return SQLITE_OK;
    }
    if (have) stable_read(to, (u64)at, have);
    memset((char *)to + have, 0, (size_t)size - have);
    return SQLITE_IOERR_SHORT_READ;
}

static int file_write(sqlite3_file *file, const void *from, int size, sqlite3_int64 at) {
    (void)file;
    u64 end = (u64)at + (u64)size, have = ic0_stable64_size() * WASM_PAGE_BYTES;
    if (end > have && ic0_stable64_grow((end - have + WASM_PAGE_BYTES - 1) / WASM_PAGE_BYTES) == (u64)-1) {
        return SQLITE_FULL;
    }
    touch((u64)at, size, 2);
    stable_write(from, (u64)at, (u64)size);
    if (end > file_bytes) file_bytes = end;
    return SQLITE_OK;
}

/* Stable memory never shrinks; what is cut off becomes zero, so that it compresses well and tells nothing. */
static int file_truncate(sqlite3_file *file, sqlite3_int64 size) {
    static const u8 zeros[WASM_PAGE_BYTES];
    (void)file;
    for (u64 at = (u64)size; at < file_bytes; at += sizeof zeros) {
        u64 left = file_bytes - at;
        stable_write(zeros, at, left < sizeof zeros ? left : sizeof zeros);
    }
    if ((u64)size < file_bytes) file_bytes = (u64)size;
    return SQLITE_OK;
}

static int file_lock(sqlite3_file *file, int level) {
    (void)file;
    if (lock == SQLITE_LOCK_NONE) read_header();
    if (level > lock) lock = level;
    return SQLITE_OK;
}

static int file_unlock(sqlite3_file *file, int level) {
    (void)file;
    if (level == SQLITE_LOCK_SHARED && lock > level) { /* the end of a write that goes on reading */
        stable_read(read_counter, COUNTER_AT, sizeof read_counter);
    }
    lock = level;
    return SQLITE_OK;
}

static int file_size(sqlite3_file *file, sqlite3_int64 *size) { (void)file; *size = (sqlite3_int64)file_bytes; return SQLITE_OK; }
static int file_close(sqlite3_file *file) { (void)file; return SQLITE_OK; }
static int file_sync(sqlite3_file *file, int flags) { (void)file; (void)flags; return SQLITE_OK; }
static int file_reserved(sqlite3_file *file, int *out) { (void)file; *out = 0; return SQLITE_OK; }
static int file_control(sqlite3_file *file, int op, void *arg) { (void)file; (void)op; (void)arg; return SQLITE_NOTFOUND; }
static int file_sector(sqlite3_file *file) { (void)file; return STABLE_PAGE_BYTES; }
static int file_traits(sqlite3_file *file) {
    (void)file;
    return SQLITE_IOCAP_ATOMIC | SQLITE_IOCAP_SAFE_APPEND | SQLITE_IOCAP_SEQUENTIAL | SQLITE_IOCAP_POWERSAFE_OVERWRITE;
}

static const sqlite3_io_methods file_methods = {
    1, file_close, file_read, file_write, file_truncate, file_sync, file_size, file_lock, file_unlock, file_reserved,
    file_control, file_sector, file_traits, 0, 0, 0, 0, 0, 0,
};

static int vfs_open(sqlite3_vfs *vfs, const char *name, sqlite3_file *file, int flags, int *out) {
    (void)vfs;
    (void)name;
    static int is_open;
    if (!(flags & SQLITE_OPEN_MAIN_DB) || is_open) return SQLITE_CANTOPEN; /* there is one file */
    is_open = 1;
    file->pMethods = &file_methods;
    if (out) *out = flags;
    return SQLITE_OK;
}

static int vfs_delete(sqlite3_vfs *vfs, const char *name, int sync) { (void)vfs; (void)name; (void)sync; return SQLITE_OK; }
static int vfs_access(sqlite3_vfs *vfs, const char *name, int flags, int *out) {
    (void)vfs; (void)name; (void)flags;
    *out = 0;
    return SQLITE_OK;
}
static int vfs_path(sqlite3_vfs *vfs, const char *name, int size, char *out) {
    (void)vfs;
    sqlite3_snprintf(size, out, "%s", name);
    return SQLITE_OK;
}
/* From the time, so that every replica gets the same: no secret. */
static int vfs_randomness(sqlite3_vfs *vfs, int size, char *out) {
    (void)vfs;
    u64 x = ic0_time() | 1;
    for (int i = 0; i < size; i++) {
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        out[i] = (char)x;
    }
    return size;
}
static int vfs_sleep(sqlite3_vfs *vfs, int microseconds) { (void)vfs; return microseconds; }
static int vfs_time64(sqlite3_vfs *vfs, sqlite3_int64 *out) { /* ms since noon of 24 November 4714 BC */
    (void)vfs;
    *out = (sqlite3_int64)(ic0_time() / 1000000) + 210866760000000;
    return SQLITE_OK;
}
static int vfs_time(sqlite3_vfs *vfs, double *out) {
    sqlite3_int64 milliseconds;
    vfs_time64(vfs, &milliseconds);
    *out = (double)milliseconds / 86400000.0;
    return SQLITE_OK;
}
static int vfs_error(sqlite3_vfs *vfs, int size, char *out) { (void)vfs; (void)size; (void)out; return 0; }

static sqlite3_vfs stable_vfs = {
    .iVersion = 2, .szOsFile = sizeof(sqlite3_file), .mxPathname = 64, .zName = "stable", .xOpen = vfs_open,
    .xDelete = vfs_delete, .xAccess = vfs_access, .xFullPathname = vfs_path, .xRandomness = vfs_randomness,
    .xSleep = vfs_sleep, .xCurrentTime = vfs_time, .xGetLastError = vfs_error, .xCurrentTimeInt64 = vfs_time64,
};

int sqlite3_os_init(void) { return sqlite3_vfs_register(&stable_vfs, 1); }
int sqlite3_os_end(void) { return SQLITE_OK; }

/* --- the connection ----------------------------------------------------------------------------------------------- */

static sqlite3 *db;

static int must(int code) {
    if (code != SQLITE_OK && code != SQLITE_DONE && code != SQLITE_ROW) fail(db ? sqlite3_errmsg(db) : "no memory");
    return code;
}

/* What would make reads stale, need files, belongs to somebody else, or would leave no memory to change it back. */
static int authorize(void *none, int action, const char *first, const char *second, const char *place, const char *by) {
    (void)none; (void)place; (void)by;
    if (action == SQLITE_ATTACH) return first && *first ? SQLITE_DENY : SQLITE_OK; /* VACUUM attaches '' */
    if (action == SQLITE_PRAGMA && second) {
        static const char *const ours[] = {
            "locking_mode", "journal_mode", "temp_store", "synchronous", "hard_heap_limit", "soft_heap_limit",
        };
        for (u32 i = 0; i < LENGTH(ours); i++) {
            if (!sqlite3_stricmp(first, ours[i])) return SQLITE_DENY;
        }
    }
    return SQLITE_OK;
}

static void open_database(void) {
    static _Alignas(8) u8 cache[CACHE_SLOTS * CACHE_SLOT_BYTES];
    if (db) return;
    must(sqlite3_config(SQLITE_CONFIG_PAGECACHE, cache, CACHE_SLOT_BYTES, CACHE_SLOTS));
    must(sqlite3_open_v2("stable", &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, "stable"));
    sqlite3_db_config(db, SQLITE_DBCONFIG_DEFENSIVE, 1, NULL);
    sqlite3_db_config(db, SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0, NULL);
    must(sqlite3_exec(db, "pragma page_size=4096; pragma journal_mode=memory; pragma synchronous=off;"
                          "pragma cache_size=" TEXT(CACHE_PAGES), 0, 0, 0));
    must(sqlite3_set_authorizer(db, authorize, NULL));
}

enum { MOST_STATEMENTS = 256 };
static struct { sqlite3_stmt *statement; u32 number; int is_stale; } statements[MOST_STATEMENTS];
static u32 last_number;

/* Every method begins here. What was being read when others changed the database cannot be read on. */
static void begin(void) {
    open_database();
    if (!is_changed_by_others()) return;
    for (u32 i = 0; i < MOST_STATEMENTS; i++) {
        if (statements[i].statement && sqlite3_stmt_busy(statements[i].statement)) {
            sqlite3_reset(statements[i].statement);
            statements[i].is_stale = 1;
        }
    }
}

static void check_caller(void) {
    u8 caller[29];
    u32 size = ic0_msg_caller_size();
    ic0_msg_caller_copy((u32)(uintptr_t)caller, 0, size);
    if (!ic0_is_controller((u32)(uintptr_t)caller, size)) fail("updates are for controllers");
}

static void begin_update(void) {
    check_caller();
    begin();
}

/* Between messages nobody holds a lock that others would have to respect. */
static void check_end(void) {
    if (sqlite3_txn_state(db, "main") == SQLITE_TXN_WRITE || !sqlite3_get_autocommit(db)) {
        fail("a transaction ends with its message: commit, or step to the last row");
    }
}

/* --- arguments and replies ---------------------------------------------------------------------------------------- */

static const u8 *argument, *argument_end;

static void receive(void) {
    static u8 *bytes;
    u32 size = ic0_msg_arg_data_size();
    free(bytes); /* of the message before */
    bytes = malloc(size + 1);
    if (!bytes) fail("no memory");
    ic0_msg_arg_data_copy((u32)(uintptr_t)bytes, 0, size);
    bytes[size] = 0;
    argument = bytes;
    argument_end = bytes + size;
}

static const u8 *take(u32 size) {
    if ((u32)(argument_end - argument) < size) fail("the argument ends too early");
    const u8 *bytes = argument;
    argument += size;
    return bytes;
}

static u32 take_u32(void) {
    u32 value;
    memcpy(&value, take(sizeof value), sizeof value);
    return value;
}

static void take_end(void) {
    if (argument != argument_end) fail("the argument goes on past its end");
}

static void append(const void *bytes, u32 size) { ic0_msg_reply_data_append((u32)(uintptr_t)bytes, size); }
static void append_u32(u32 value) { append(&value, sizeof value); }

static struct { u8 *bytes; u32 size, room; } reply; /* rows are counted before they are sent */

static void put(const void *bytes, u32 size) {
    if (reply.size + size > reply.room) {
        reply.room = 2 * (reply.size + size) + 4096;
        reply.bytes = realloc(reply.bytes, reply.room);
        if (!reply.bytes) fail("no memory");
    }
    if (size) memcpy(reply.bytes + reply.size, bytes, size);
    reply.size += size;
}

static void bind_next(sqlite3_stmt *statement, int parameter) {
    u8 kind = *take(1);
    if (kind == 0) {
        must(sqlite3_bind_null(statement, parameter));
    } else if (kind == 1) {
        sqlite3_int64 number;
        memcpy(&number, take(sizeof number), sizeof number);
        must(sqlite3_bind_int64(statement, parameter, number));
    } else if (kind == 2) {
        double number;
        memcpy(&number, take(sizeof number), sizeof number);
        must(sqlite3_bind_double(statement, parameter, number));
    } else if (kind == 3 || kind == 4) {
        u32 size = take_u32();
        const char *bytes = (const char *)take(size);
        must(kind == 3 ? sqlite3_bind_text(statement, parameter, bytes, (int)size, SQLITE_TRANSIENT)
                       : sqlite3_bind_blob(statement, parameter, bytes, (int)size, SQLITE_TRANSIENT));
    } else {
        fail("no such kind of value: 0 null, 1 integer, 2 real, 3 text, 4 blob");
    }
}

static void put_column(sqlite3_stmt *statement, int column) {
    int type = sqlite3_column_type(statement, column);
    u8 kind = (u8)(type == SQLITE_NULL ? 0 : type == SQLITE_INTEGER ? 1 : type == SQLITE_FLOAT ? 2 : type == SQLITE_TEXT ? 3 : 4);
    put(&kind, 1);
    if (kind == 1) {
        sqlite3_int64 number = sqlite3_column_int64(statement, column);
        put(&number, sizeof number);
    } else if (kind == 2) {
        double number = sqlite3_column_double(statement, column);
        put(&number, sizeof number);
    } else if (kind) {
        const void *bytes = kind == 3 ? (const void *)sqlite3_column_text(statement, column) : sqlite3_column_blob(statement, column);
        u32 size = (u32)sqlite3_column_bytes(statement, column);
        put(&size, sizeof size);
        put(bytes, size);
    }
}

/* Steps, and sends what came: as many rows as fit, or `most`. */
static void send_rows(sqlite3_stmt *statement, u32 most) {
    u32 rows = 0;
    u8 is_done = 0;
    reply.size = 0;
    while (rows < most && reply.size < MOST_REPLY_BYTES) {
        if (must(sqlite3_step(statement)) != SQLITE_ROW) {
            is_done = 1;
            break;
        }
        for (int column = 0; column < sqlite3_column_count(statement); column++) put_column(statement, column);
        rows++;
    }
    append(&is_done, 1);
    append_u32((u32)sqlite3_column_count(statement));
    append_u32(rows);
    append(reply.bytes, reply.size);
}

static sqlite3_stmt *prepare(const char *sql, u32 size) {
    sqlite3_stmt *statement;
    const char *rest;
    must(sqlite3_prepare_v2(db, sql, (int)size, &statement, &rest));
    if (!statement) fail("no statement");
    while (rest < sql + size && strchr(" \t\r\n;", *rest)) rest++;
    if (rest < sql + size) fail("one statement, found more");
    return statement;
}

static sqlite3_stmt *take_sql(void) {
    u32 size = take_u32();
    return prepare((const char *)take(size), size);
}

/* --- methods ------------------------------------------------------------------------------------------------------ */

static void run_text(void) {
    receive();
    const char *rest = (const char *)argument;
    while (*rest) {
        sqlite3_stmt *statement;
        must(sqlite3_prepare_v2(db, rest, -1, &statement, &rest));
        if (!statement) continue;
        while (must(sqlite3_step(statement)) == SQLITE_ROW) {
            for (int column = 0; column < sqlite3_column_count(statement); column++) {
                const void *text = sqlite3_column_text(statement, column);
                if (column) append("\t", 1);
                append(text, (u32)sqlite3_column_bytes(statement, column));
            }
            append("\n", 1);
        }
        sqlite3_finalize(statement);
    }
    ic0_msg_reply();
}

static void run_one(void) {
    receive();
    sqlite3_stmt *statement = take_sql();
    for (int parameter = 1; argument < argument_end; parameter++) bind_next(statement, parameter);
    send_rows(statement, UINT32_MAX);
    sqlite3_finalize(statement);
    ic0_msg_reply();
}

UPDATE(exec) { begin_update(); run_text(); check_end(); }
QUERY(query) { begin(); run_text(); }
UPDATE(run) { begin_update(); run_one(); check_end(); }
QUERY(select) { begin(); run_one(); }

UPDATE(run_many) {
    begin_update();
    receive();
    sqlite3_stmt *statement = take_sql();
    u64 before = (u64)sqlite3_total_changes64(db);
    must(sqlite3_exec(db, "begin", 0, 0, 0));
    for (u32 rows = take_u32(); rows; rows--) {
        for (int parameter = 1; parameter <= sqlite3_bind_parameter_count(statement); parameter++) {
            bind_next(statement, parameter);
        }
        while (must(sqlite3_step(statement)) == SQLITE_ROW) continue;
        must(sqlite3_reset(statement));
    }
    take_end();
    sqlite3_finalize(statement);
    must(sqlite3_exec(db, "commit", 0, 0, 0));
    check_end();
    u64 changed = (u64)sqlite3_total_changes64(db) - before;
    append(&changed, sizeof changed);
    ic0_msg_reply();
}

UPDATE(prepare) {
    begin_update();
    receive();
    sqlite3_stmt *statement = prepare((const char *)argument, (u32)(argument_end - argument));
    u32 place = 0;
    while (place < MOST_STATEMENTS && statements[place].statement) place++;
    if (place == MOST_STATEMENTS) fail("too many statements are prepared: finalize some");
    statements[place].statement = statement;
    statements[place].number = ++last_number;
    statements[place].is_stale = 0;
    append_u32(last_number);
    append_u32((u32)sqlite3_bind_parameter_count(statement));
    append_u32((u32)sqlite3_column_count(statement));
    for (int column = 0; column < sqlite3_column_count(statement); column++) {
        const char *name = sqlite3_column_name(statement, column);
        append_u32((u32)strlen(name));
        append(name, (u32)strlen(name));
    }
    ic0_msg_reply();
}

static u32 take_statement(void) {
    receive();
    u32 number = take_u32();
    for (u32 place = 0; place < MOST_STATEMENTS; place++) {
        if (statements[place].statement && statements[place].number == number) return place;
    }
    fail("no such statement: it was finalized, or an upgrade ended it");
}

UPDATE(bind) {
    begin_update();
    u32 place = take_statement();
    for (u32 parameter = take_u32(); argument < argument_end; parameter++) {
        bind_next(statements[place].statement, (int)parameter);
    }
    ic0_msg_reply();
}

UPDATE(step) {
    begin_update();
    u32 place = take_statement(), most = take_u32();
    take_end();
    if (statements[place].is_stale) fail("the database was changed from outside while this was being read: reset it");
    send_rows(statements[place].statement, most);
    check_end();
    ic0_msg_reply();
}

UPDATE(reset) {
    begin_update();
    u32 place = take_statement();
    take_end();
    sqlite3_reset(statements[place].statement);
    statements[place].is_stale = 0;
    ic0_msg_reply();
}

UPDATE(finalize) {
    begin_update();
    u32 place = take_statement();
    take_end();
    sqlite3_finalize(statements[place].statement);
    statements[place].statement = NULL;
    ic0_msg_reply();
}

static void print(const char *format, ...) {
    va_list values;
    va_start(values, format);
    char *text = sqlite3_vmprintf(format, values);
    va_end(values);
    if (!text) fail("no memory");
    append(text, (u32)strlen(text));
    sqlite3_free(text);
}

/* What a statement costs with nothing in the cache. A query's changes go with it, so writes can be asked about too. */
QUERY(explain) {
    begin();
    receive();
    const char *sql = (const char *)argument;
    u32 size = (u32)(argument_end - argument);
    sqlite3_db_release_memory(db);
    touched_pages = file_bytes / (page_bytes ? page_bytes : STABLE_PAGE_BYTES) + WASM_PAGE_BYTES;
    u8 *counted = touched = calloc(touched_pages, 1);
    if (!touched) fail("no memory");
    u64 instructions = ic0_performance_counter(0);
    sqlite3_stmt *statement = prepare(sql, size);
    u64 rows = 0;
    while (must(sqlite3_step(statement)) == SQLITE_ROW) rows++;
    sqlite3_finalize(statement);
    instructions = ic0_performance_counter(0) - instructions;
    touched = NULL;
    char *plan = sqlite3_mprintf("explain query plan %.*s", (int)size, sql);
    if (!plan) fail("no memory");
    must(sqlite3_prepare_v2(db, plan, -1, &statement, NULL));
    while (must(sqlite3_step(statement)) == SQLITE_ROW) print("plan\t%s\n", sqlite3_column_text(statement, 3));
    sqlite3_finalize(statement);
    u64 total[2] = {0, 0};
    for (u64 page = 0; page < touched_pages; page++) {
        total[0] += counted[page] & 1;
        total[1] += counted[page] >> 1;
    }
    must(sqlite3_prepare_v2(db, "select name, pageno - 1 from temp.dbstat order by name", -1, &statement, NULL));
    char *name = NULL;
    u64 read = 0, written = 0;
    for (;;) {
        int is_row = must(sqlite3_step(statement)) == SQLITE_ROW;
        const char *next = is_row ? (const char *)sqlite3_column_text(statement, 0) : NULL;
        if (name && (!next || strcmp(name, next))) {
            if (read || written) print("pages\t%s\t%llu\t%llu\n", name, read, written);
            read = written = 0;
        }
        if (!is_row) break;
        if (!name || strcmp(name, next)) {
            sqlite3_free(name);
            name = sqlite3_mprintf("%s", next);
        }
        u64 page = (u64)sqlite3_column_int64(statement, 1);
        if (page < touched_pages) read += counted[page] & 1, written += counted[page] >> 1;
    }
    sqlite3_finalize(statement);
    print("all\t%llu\t%llu\nrows\t%llu\npage size\t%u\ninstructions\t%llu\n", total[0], total[1], rows, page_bytes, instructions);
    ic0_msg_reply();
}

CANISTER(canister_init, "canister_init") { open_database(); }
CANISTER(canister_post_upgrade, "canister_post_upgrade") { open_database(); }
