"""C++ symbols, as c++filt reads them; and what is none."""

from __future__ import annotations

import random

import pytest

from perdure.embedder.cpp_names import demangled_cpp
from perdure.embedder.lines import readable

NAMES = {
    "_Z3foov": "foo()",
    "_Z3fooidPKc": "foo(int, double, char const*)",
    "_ZN3app3barEv": "app::bar()",
    "_ZNK3app4List4sizeEv": "app::List::size() const",
    "_ZN3app4ListC2ERKS0_": "app::List::List(app::List const&)",
    "_ZN3app4ListD0Ev": "app::List::~List()",
    "_ZN3foo3barIiEEvT_": "void foo::bar<int>(int)",
    "_ZN12_GLOBAL__N_14hideEv": "(anonymous namespace)::hide()",
    "_ZSt4moveIRiEONSt16remove_referenceIT_E4typeEOS2_": "std::remove_reference<int&>::type&& std::move<int&>(int&)",
    "_ZN3app3BoxIlLi3EEpLERKS1_": "app::Box<long, 3>::operator+=(app::Box<long, 3> const&)",
    "_ZNK3app3BoxIlLi3EEcvbEv": "app::Box<long, 3>::operator bool() const",
    "_ZNKR3app3BoxIlLi3EE2asIdEET_PFS3_lE": "double app::Box<long, 3>::as<double>(double (*)(long)) const &",
    "_ZN3app2enILNS_1EE1ELb1ELm7EEEvv": "void app::en<(app::E)1, true, 7ul>()",
    "_ZN3app3allIJiPcPVKvEEEiDpT_": "int app::all<int, char*, void const volatile*>(int, char*, void const volatile*)",
    "_ZN3app3allIJEEEiDpT_": "int app::all<>()",
    "_Z1fRA4_KcMN3app1HEKFiiE": "f(char const (&) [4], int (app::H::*)(int) const)",
    "_ZNKSt8functionIFiiEEclEi": "std::function<int (int)>::operator()(int) const",
    "_ZZ4sortvENKUlRKSsiE_clES0_i":
        "sort()::{lambda(std::string const&, int)#1}::operator()(std::string const&, int) const",
    "_ZlsRSoRK1A": "operator<<(std::ostream&, A const&)",
    "_ZltIiEbT_S0_": "bool operator< <int>(int, int)",
    "_ZTV1A": "vtable for A",
    "_ZThn16_N1A1fEv": "non-virtual thunk to A::f()",
    "_ZGVZ1fvE1s": "guard variable for f()::s",
    "_ZN1AB5cxx111fB5cxx11Ev": "A[abi:cxx11]::f[abi:cxx11]()",
    "_Z1fDn": "f(decltype(nullptr))",
    "_ZL6hiddeni": "hidden(int)",
    "_Z3foov.part.0": "foo() [clone .part.0]",
}  # fmt: skip
"""What c++filt of binutils 2.40 prints, without the space between closing brackets; std's own by their short names."""


@pytest.mark.parametrize("symbol", NAMES)
def test_as_their_authors_wrote_them(symbol: str) -> None:
    assert demangled_cpp(symbol) == NAMES[symbol]
    assert readable(symbol) == NAMES[symbol]


@pytest.mark.parametrize(
    "symbol",
    [
        "", "main", "_Z", "_Zzz", "_ZN", "_ZN3foo", "_Z99foo", "_Z3fooS_", "_Z3fooT_", "_Z3fooIXaaEEvv", "_Z3fooSZZZ_",
        "_Z3foo" + "P" * 5000 + "i", "_Z3foo" + "PK" * 400 + "i", "_Z1f" + "1AI" * 300 + "i" + "E" * 300, "_Z3foov_",
        "_ZN3app4List\ud800",
    ],
)  # fmt: skip
def test_what_is_none_stays(symbol: str) -> None:
    assert demangled_cpp(symbol) == symbol


def test_a_text_that_doubles_with_each_letter_stays() -> None:
    """Each template argument is the one before, twice."""
    symbol = "_Z1f" + "".join(
        f"1AIS{'' if not n else '0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ'[n - 1]}_E" for n in range(20)
    )
    doubling = "_Z1fF" + "i" + "".join(f"FS{digit}_S{digit}_E" for digit in ("", *"0123456789ABCDEFGHIJKLM")) + "E"
    assert demangled_cpp(symbol) == symbol or len(demangled_cpp(symbol)) < 5_000
    assert demangled_cpp(doubling) == doubling


@pytest.mark.parametrize("seed", range(60))
def test_any_letters_end_in_a_name(seed: int) -> None:
    chance = random.Random(seed)
    for symbol in NAMES:
        letters = list(symbol)
        for _ in range(chance.randrange(1, 4)):
            letters[chance.randrange(2, len(letters))] = chance.choice("NESTI_0123LAFPRKCDv")
        assert 0 < len(demangled_cpp("".join(letters))) < 10_000


@pytest.mark.parametrize(
    ("symbol", "name"),
    [
        ("_ZN4core9panicking5panic17h0123456789abcdefE", "core::panicking::panic"),
        ("_RNvNtCs1_4core9panicking5panic", "core::panicking::panic"),
        ("_ZN4core9panicking5panic17h0123456789abcdefE.648", "core::panicking::panic"),
        ("update_add", "update_add"),
    ],
)
def test_rust_stays_rust(symbol: str, name: str) -> None:
    assert readable(symbol) == name
