// A canister by Go's own compiler: its runtime, its garbage collector, goroutines, encoding/json.
//
// An exported name has no space in Go, so canister_update_inc stands for "canister_update inc".
package main

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sort"
	"strconv"
	"sync"
	"time"
	"unsafe"
)

//go:wasmimport ic0 msg_arg_data_size
func argSize() uint32

//go:wasmimport ic0 msg_arg_data_copy
func argCopy(destination unsafe.Pointer, offset, size uint32)

//go:wasmimport ic0 msg_reply_data_append
func replyAppend(source unsafe.Pointer, size uint32)

//go:wasmimport ic0 msg_reply
func reply()

//go:wasmimport ic0 stable64_size
func stableSize() uint64

//go:wasmimport ic0 stable64_grow
func stableGrow(pages uint64) uint64

//go:wasmimport ic0 stable64_read
func stableRead(destination, offset, size uint64)

//go:wasmimport ic0 stable64_write
func stableWrite(offset, source, size uint64)

func argument() []byte {
	data := make([]byte, argSize()+1)
	argCopy(unsafe.Pointer(&data[0]), 0, uint32(len(data)-1))
	return data[:len(data)-1]
}

func respond(data []byte) {
	if len(data) > 0 {
		replyAppend(unsafe.Pointer(&data[0]), uint32(len(data)))
	}
	reply()
}

// The counter lies in stable memory; the words are on the heap, and gone after an upgrade.
var words = map[string]int{}

func counter() (value uint64) {
	if stableSize() > 0 {
		stableRead(uint64(uintptr(unsafe.Pointer(&value))), 0, 8)
	}
	return
}

//go:wasmexport canister_update_inc
func inc() {
	value := counter() + 1
	if stableSize() == 0 {
		stableGrow(1)
	}
	stableWrite(0, uint64(uintptr(unsafe.Pointer(&value))), 8)
	fmt.Println("counted to", value)
	respond([]byte(strconv.FormatUint(value, 10)))
}

//go:wasmexport canister_query_count
func count() { respond([]byte(strconv.FormatUint(counter(), 10))) }

// JSON in, JSON out: counts words, with a goroutine for each.
//
//go:wasmexport canister_update_words
func countWords() {
	var request struct{ Words []string }
	if err := json.Unmarshal(argument(), &request); err != nil {
		panic(err)
	}
	var lock sync.Mutex
	var group sync.WaitGroup
	for _, word := range request.Words {
		group.Go(func() {
			lock.Lock()
			defer lock.Unlock()
			words[word]++
		})
	}
	group.Wait()
	known := make([]string, 0, len(words))
	for word := range words {
		known = append(known, word)
	}
	sort.Strings(known)
	answer, _ := json.Marshal(map[string]any{"counts": words, "known": known})
	respond(answer)
}

// Garbage for the collector.
//
//go:wasmexport canister_update_garbage
func garbage() {
	var kept [][]byte
	for i := range 20000 {
		block := make([]byte, 1024)
		block[0] = byte(i)
		if i%1000 == 0 {
			kept = append(kept, block)
		}
	}
	respond([]byte(strconv.Itoa(len(kept))))
}

//go:wasmexport canister_query_world
func world() {
	_, err := os.ReadFile("/etc/hosts")
	random := make([]byte, 8)
	rand.Read(random)
	answer, _ := json.Marshal([]any{
		time.Now().Unix(), errors.Is(err, fs.ErrNotExist), len(os.Args), os.Getenv("HOME"), len(random),
	})
	println("printed", "in", len(random), "parts")
	respond(answer)
}

//go:wasmexport canister_update_exit
func exit() { os.Exit(7) }

//go:wasmexport canister_update_panic
func fail() { panic("as asked") }

func main() {}
