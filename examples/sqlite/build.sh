# Makes sqlite.wasm, with a C compiler from PyPI and the amalgamation of SQLite from npm; docs/sqlite.md says more.
set -e
python -m pip install --quiet ziglang==0.17.0
npm install --silent --ignore-scripts --no-save better-sqlite3@12.11.1
SQLITE=node_modules/better-sqlite3/deps/sqlite3
python -m ziglang cc --target=wasm32-wasi -mexec-model=reactor -O2 -I $SQLITE \
  -DSQLITE_OS_OTHER=1 -DSQLITE_THREADSAFE=0 -DSQLITE_OMIT_WAL -DSQLITE_TEMP_STORE=3 -DSQLITE_OMIT_LOAD_EXTENSION \
  -DSQLITE_DQS=0 -DSQLITE_DEFAULT_MEMSTATUS=0 -DSQLITE_OMIT_DEPRECATED -DSQLITE_OMIT_SHARED_CACHE \
  -DSQLITE_OMIT_LOCALTIME -DSQLITE_MAX_MMAP_SIZE=0 \
  -DSQLITE_ENABLE_DBSTAT_VTAB -DSQLITE_ENABLE_RTREE -DSQLITE_ENABLE_FTS5 \
  -Wl,--strip-all -Wl,-z,stack-size=1048576 -o sqlite.wasm canister.c $SQLITE/sqlite3.c
