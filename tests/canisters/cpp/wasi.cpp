// C++ with its library, for emscripten: containers, streams, constructors of objects, files that are not there.

#include <cstring>
#include <ctime>
#include <fstream>
#include <iostream>
#include <map>
#include <sstream>
#include <string>

extern "C" {
#include "../c/ic0.h"
}

static std::map<std::string, int> words;

static std::string motto("constructed");

static void reply(const std::string &text) {
    ic0_msg_reply_data_append((word)text.data(), text.size());
    ic0_msg_reply();
}

static std::string received() {
    std::string text(ic0_msg_arg_data_size(), 0);
    ic0_msg_arg_data_copy((word)text.data(), 0, text.size());
    return text;
}

extern "C" {

CANISTER(init, "canister_init") { std::cout << "init: " << motto << std::endl; }

UPDATE(inc) {
    u64 value = 0;
    if (ic0_stable64_size())
        ic0_stable64_read((word)&value, 0, sizeof value);
    else
        ic0_stable64_grow(1);
    value++;
    ic0_stable64_write(0, (word)&value, sizeof value);
    std::cout << "counted to " << value << std::endl;
    reply(std::to_string(value));
}

QUERY(count) {
    u64 value = 0;
    if (ic0_stable64_size()) ic0_stable64_read((word)&value, 0, sizeof value);
    reply(std::to_string(value));
}

UPDATE(words) {
    std::istringstream text(received());
    for (std::string word; text >> word;) words[word]++;
    std::ostringstream answer;
    for (auto &entry : words) answer << entry.first << '=' << entry.second << ' ';
    reply(answer.str());
}

// Several times what the heap starts with, so that it grows.
UPDATE(fill) {
    std::string text;
    for (int i = 0; i < 24; i++) text += std::string(1 << 20, 'a' + i);
    std::string twice = text + text;
    reply(std::to_string(twice.size()) + twice.back());
}

QUERY(world) {
    std::ifstream file(received());
    std::cerr << "no file: " << !file << ", " << std::strlen("abc") << std::endl;
    reply((file ? "open " : "none ") + std::to_string(std::time(nullptr)));
}

UPDATE(exit) { std::exit(5); }
}
