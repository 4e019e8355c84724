"""Rust's symbols as their authors wrote them, of the legacy form and of today's (v0).

Source: rustc's legacy mangling, which is the Itanium C++ ABI's nested names; RFC 2603 for v0. Lifetimes are all written
``'_``, and hashes of crates are left out: this is for people who read a backtrace.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, final

__all__ = ["demangled"]

_LLVM: Final = re.compile(r"\.llvm\.[0-9A-F@]+$")


def demangled(name: str) -> str:
    """A function's name as its author wrote it, where it is a Rust symbol; else unchanged.

    ``_ZN4core9panicking5panic17h0123456789abcdefE`` and ``_RNvNtCs1_4core9panicking5panic`` are
    ``core::panicking::panic``.
    """
    symbol = _LLVM.sub("", name)
    if symbol.startswith("_ZN") and symbol.endswith("E"):
        return _legacy(symbol) or name
    if symbol.startswith("_R"):
        try:
            return _Symbol(symbol[2:].partition(".")[0]).text()
        except (ValueError, IndexError, OverflowError):
            return name
    return name


# --------------------------------------------------------------------------------------------------------- legacy

_LENGTH: Final = re.compile(r"[1-9]\d{0,5}")
_HASH: Final = re.compile(r"h[0-9a-f]{16}")
_ESCAPE: Final = re.compile(r"\$(\w+)\$|\.\.")
_ESCAPED: Final = {"SP": "@", "BP": "*", "RF": "&", "LT": "<", "GT": ">", "LP": "(", "RP": ")", "C": ","}


def _legacy(name: str) -> str:
    parts, at = [], 3
    while at < len(name) - 1:
        length = _LENGTH.match(name, at)
        if length is None:
            return ""
        at = length.end() + int(length[0])
        parts.append(name[length.end() : at])
    if at != len(name) - 1 or not parts:
        return ""
    if len(parts) > 1 and _HASH.fullmatch(parts[-1]):
        parts.pop()
    return "::".join(
        _ESCAPE.sub(_unescaped, part.removeprefix("_") if part.startswith("_$") else part) for part in parts
    )


def _unescaped(found: re.Match[str]) -> str:
    code = found[1]
    if code is None:
        return "::"
    if code in _ESCAPED:
        return _ESCAPED[code]
    if not re.fullmatch(r"u[0-9a-f]{1,5}", code) or 0xD800 <= int(code[1:], 16) < 0xE000:
        return found[0]
    return chr(int(code[1:], 16))


# ------------------------------------------------------------------------------------------------------------- v0

_BASIC: Final = {
    "a": "i8", "b": "bool", "c": "char", "d": "f64", "e": "str", "f": "f32", "h": "u8", "i": "isize", "j": "usize",
    "l": "i32", "m": "u32", "n": "i128", "o": "u128", "p": "_", "s": "i16", "t": "u16", "u": "()", "v": "...",
    "x": "i64", "y": "u64", "z": "!",
}  # fmt: skip
_POINTERS: Final = {"R": "&", "Q": "&mut ", "P": "*const ", "O": "*mut "}
_DIGITS: Final = {
    char: value for value, char in enumerate("0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
}
_SIZE: Final = re.compile(r"0|[1-9]\d{0,5}")
_MAX_STEPS, _MAX_DEPTH, _MAX_CHARS = 5_000, 100, 4_000


@final
class _Symbol:
    """A symbol without its ``_R``, read from left to right; what does not fit raises `ValueError` or `IndexError`."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._steps = 0
        self._depth = 0

    def text(self) -> str:
        if self._text[0].isdigit():
            raise ValueError("a later version of the form")
        return self._path(as_value=True)

    def _next(self) -> str:
        char = self._text[self._at]
        self._at += 1
        return char

    def _takes(self, char: str) -> bool:
        found = self._text.startswith(char, self._at)
        self._at += found
        return found

    def _enter(self) -> None:
        self._steps += 1
        self._depth += 1
        if self._steps > _MAX_STEPS or self._depth > _MAX_DEPTH:
            raise ValueError("too much of it")

    def _leave(self, text: str) -> str:
        self._depth -= 1
        if len(text) > _MAX_CHARS:
            raise ValueError("too long")
        return text

    def _number(self) -> int:
        """A base-62 number."""
        if self._takes("_"):
            return 0
        value = 0
        while (char := self._next()) != "_":
            value = value * 62 + _DIGITS[char] if char in _DIGITS else -1
            if not 0 <= value < 1 << 64:
                raise ValueError("no number")
        return value + 1

    def _disambiguator(self) -> int:
        return self._number() + 1 if self._takes("s") else 0

    def _identifier(self) -> str:
        is_unicode = self._takes("u")
        length = _SIZE.match(self._text, self._at)
        if length is None:
            raise ValueError("no length")
        self._at = length.end()
        self._takes("_")
        end = self._at + int(length[0])
        if end > len(self._text):
            raise ValueError("too short")
        name, self._at = self._text[self._at : end], end
        return _from_punycode(name) if is_unicode else name

    def _back(self) -> int:
        """Go to an earlier place; where to return to."""
        start = self._at - 1
        place = self._number()
        if place >= start:
            raise ValueError("it points ahead")
        after, self._at = self._at, place
        return after

    def _path(self, *, as_value: bool) -> str:
        self._enter()
        kind = self._next()
        if kind == "C":
            self._disambiguator()
            text = self._identifier()
        elif kind == "N":
            text = self._nested(as_value)
        elif kind in "MX":
            self._disambiguator()
            self._path(as_value=False)
            owner = self._type()
            text = f"<{owner}>" if kind == "M" else f"<{owner} as {self._path(as_value=False)}>"
        elif kind == "Y":
            owner = self._type()
            text = f"<{owner} as {self._path(as_value=False)}>"
        elif kind == "I":
            path = self._path(as_value=as_value)
            text = f"{path}{'::' if as_value else ''}<{', '.join(self._until_end(self._argument))}>"
        elif kind == "B":
            after = self._back()
            text = self._path(as_value=as_value)
            self._at = after
        else:
            raise ValueError(f"no path: {kind}")
        return self._leave(text)

    def _nested(self, as_value: bool) -> str:
        space = self._next()
        path = self._path(as_value=as_value)
        number = self._disambiguator()
        name = self._identifier()
        if space.isupper():
            what = {"C": "closure", "S": "shim"}.get(space, space)
            return f"{path}::{{{what}{':' + name if name else ''}#{number}}}"
        return f"{path}::{name}" if name else path

    def _argument(self) -> str:
        if self._takes("L"):
            self._number()
            return "'_"
        return self._constant() if self._takes("K") else self._type()

    def _until_end(self, read: Callable[[], str]) -> list[str]:
        found = []
        while not self._takes("E"):
            found.append(read())
        return found

    def _type(self) -> str:
        self._enter()
        kind = self._next()
        if kind in _BASIC:
            text = _BASIC[kind]
        elif kind in _POINTERS:
            if kind in "RQ" and self._takes("L"):
                self._number()
            text = _POINTERS[kind] + self._type()
        elif kind == "A":
            text = f"[{self._type()}; {self._constant()}]"
        elif kind == "S":
            text = f"[{self._type()}]"
        elif kind == "T":
            items = self._until_end(self._type)
            text = f"({', '.join(items)}{',' if len(items) == 1 else ''})"
        elif kind == "F":
            text = self._function()
        elif kind == "D":
            text = self._dynamic()
        elif kind == "B":
            after = self._back()
            text = self._type()
            self._at = after
        else:
            self._at -= 1
            text = self._path(as_value=False)
        return self._leave(text)

    def _binder(self) -> None:
        if self._takes("G"):
            self._number()

    def _function(self) -> str:
        self._binder()
        text = "unsafe " if self._takes("U") else ""
        if self._takes("K"):
            abi = "C" if self._takes("C") else self._identifier().replace("_", "-")
            text += f'extern "{abi}" '
        text += f"fn({', '.join(self._until_end(self._type))})"
        result = self._type()
        return text if result == "()" else f"{text} -> {result}"

    def _dynamic(self) -> str:
        self._binder()
        traits = self._until_end(self._trait)
        if not self._takes("L"):
            raise ValueError("no lifetime")
        self._number()
        return f"dyn {' + '.join(traits)}"

    def _trait(self) -> str:
        path = self._path(as_value=False)
        bound = []
        while self._takes("p"):
            bound.append(f"{self._identifier()} = {self._type()}")
        if not bound:
            return path
        return f"{path[:-1]}, {', '.join(bound)}>" if path.endswith(">") else f"{path}<{', '.join(bound)}>"

    def _constant(self) -> str:
        self._enter()
        if self._takes("p"):
            text = "_"
        elif self._takes("B"):
            after = self._back()
            text = self._constant()
            self._at = after
        else:
            kind = self._type()
            sign = "-" if self._takes("n") else ""
            end = self._text.index("_", self._at)
            value = int(self._text[self._at : end] or "0", 16)
            self._at = end + 1
            text = f"{sign}{value}"
            if kind == "bool":
                text = "true" if value else "false"
            elif kind == "char":
                text = repr(chr(value))
        return self._leave(text)


def _from_punycode(name: str) -> str:
    plain, _, encoded = name.rpartition("_")
    return (f"{plain}-{encoded}" if plain else encoded).encode().decode("punycode")
