"""Rust's symbols; the expected texts are those of binutils' ``c++filt``, without the hashes of crates."""

from __future__ import annotations

from pathlib import Path

import pytest

from perdure.embedder.rust_names import demangled
from perdure.wasm import decode

MODULES = Path(__file__).parents[1] / "canisters" / "modules"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("_RNvNtCsbmNqQUJIY6D_4core9panicking9panic_fmt", "core::panicking::panic_fmt"),
        ("_RNCNvC4demo4main0", "demo::main::{closure#0}"),
        ("_RNCNCNvC4demo4mains_00", "demo::main::{closure#1}::{closure#0}"),
        ("_RNSNvC4demo1f6vtable", "demo::f::{shim:vtable#0}"),
        ("_RINvNtC3std3mem8align_ofdE", "std::mem::align_of::<f64>"),
        ("_RINvC4demo1fKj1f_ECs1_5other", "demo::f::<31>"),
        ("_RINvC4demo1fKb1_Kc41_Kan5_E", "demo::f::<true, 'A', -5>"),
        ("_RNvMC4demoINtB2_1SjE3new", "<demo::S<usize>>::new"),
        ("_RNvXC4demoNtB2_1SNtNtC4core3fmt5Debug3fmt", "<demo::S as core::fmt::Debug>::fmt"),
        ("_RNvYeNtC4demo1T1f", "<str as demo::T>::f"),
        ("_RINvC4demo1fTRhQShANtB2_1Sj4_EE", "demo::f::<(&u8, &mut [u8], [demo::S; 4])>"),
        ("_RINvC4demo1fFUKCPhOhEuE", 'demo::f::<unsafe extern "C" fn(*const u8, *mut u8)>'),
        ("_RINvC4demo1fDNtB2_1TNtB2_1SEL_E", "demo::f::<dyn demo::T + demo::S>"),
        ("_RINvC4demo1fDINtB2_1FTlEEp6OutputmEL_E", "demo::f::<dyn demo::F<(i32,), Output = u32>>"),
        ("_RNvC4demou8gdel_5qa", "demo::gödel"),
        ("_ZN4core9panicking9panic_fmt17h0123456789abcdefE.llvm.123", "core::panicking::panic_fmt"),
        ("_RNvC4demo1f.llvm.0A1B", "demo::f"),
    ],
)
def test_11_names_are_shown_as_they_were_written(name, text):
    """The number is that of the list of what newcomers stumbled over."""
    assert demangled(name) == text


@pytest.mark.parametrize("module", ["structures", "messenger", "ledger"])
def test_11_every_name_of_a_canister_of_today(module):
    names = decode((MODULES / f"{module}.wasm.gz").read_bytes()).function_names.values()
    mangled = [name for name in names if name.startswith("_R")]
    assert mangled
    assert not [name for name in mangled if demangled(name).startswith("_R")]


@pytest.mark.parametrize(
    "name",
    [
        "_R",
        "_RNv",
        "_R1C4demo",
        "_RNvC4demo9f",
        "_RB_",
        "_RNvB9_1f",
        "_RINvC4demo1fKc110000_E",
        "_R" + "N" * 100_000,
        "_RINvC4demo1f" + "T" * 100_000 + "E" * 100_000,
        "_RIC1a" + "TB5_B5_B5_B5_B5_B5_" * 20 + "E" * 21,
        "_RNvC4demou9zzzzzzzzz",
    ],
)
def test_what_is_no_name_stays_as_it_is(name):
    assert demangled(name) == name


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("_ZN4core9panicking5panic17h0123456789abcdefE", "core::panicking::panic"),
        ("_ZN3foo3barE", "foo::bar"),
        ("_ZN7ic_cdkE", "_ZN7ic_cdkE"),
        ("_ZN9a$u1f600$E", "a\U0001f600"),
        ("_ZN8a$ud800$E", "a$ud800$"),
        ("_ZN6ic_cdk5setup28_$u7b$$u7b$closure$u7d$$u7d$17h0123456789abcdefE", "ic_cdk::setup::{{closure}}"),
        ("_ZN36_$LT$$RF$T$u20$as$u20$a..Display$GT$3fmt17h0123456789abcdefE", "<&T as a::Display>::fmt"),
        ("_ZN17h0123456789abcdefE", "h0123456789abcdef"),
        ("_ZNE", "_ZNE"),
        ("_ZN99fooE", "_ZN99fooE"),
        ("_ZN3fooEx", "_ZN3fooEx"),
        ("_ZN5a$u1f600$E", "_ZN5a$u1f600$E"),
        ("", ""),
        ("inc", "inc"),
    ],
)
def test_the_legacy_form(name, expected):
    assert demangled(name) == expected
