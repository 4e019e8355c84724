"""C++ symbols as their authors wrote them: what functions of canisters are called in the Itanium C++ ABI.

Names, templates, types and literals; of expressions only literals and parameters, so that a function whose signature
computes keeps its symbol. A symbol may ask for a text that doubles with each letter: what becomes too long keeps its
symbol as well.

Source: Itanium C++ ABI, chapter 5.1.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, NamedTuple, final

__all__ = ["demangled_cpp"]

_MAX_CHARACTERS: Final = 4_000
_MAX_DEPTH: Final = 100


def demangled_cpp(name: str) -> str:
    """A function's name and parameters, where it is a C++ symbol that can be read; else unchanged.

    ``_ZN3foo3barIiEEvT_`` is ``void foo::bar<int>(int)``.
    """
    symbol, dot, suffix = name.partition(".")
    if not symbol.startswith("_Z") or len(symbol) > _MAX_CHARACTERS:
        return name
    try:
        reader = _Symbol(symbol[2:])
        text = reader.encoding()
        if reader.rest:
            return name
    except (ValueError, IndexError, KeyError):
        return name
    return f"{text} [clone .{suffix}]" if dot else text


@final
class _Type(NamedTuple):
    """A type's text before and behind what it is the type of: ``int (*`` and ``)(char)``."""

    left: str
    right: str = ""
    is_function: bool = False
    pack: tuple[_Type, ...] | None = None
    """Of arguments that stand for one parameter, all of them."""

    def __str__(self) -> str:
        return self.left + self.right if self.pack is None else ", ".join(str(one) for one in self.pack)

    def each(self, change: Callable[[_Type], _Type]) -> _Type:
        """What becomes of a type, or of each in a pack."""
        return change(self) if self.pack is None else self._replace(pack=tuple(change(one) for one in self.pack))


_BUILTIN: Final = {
    "v": "void", "w": "wchar_t", "b": "bool", "c": "char", "a": "signed char", "h": "unsigned char", "s": "short",
    "t": "unsigned short", "i": "int", "j": "unsigned int", "l": "long", "m": "unsigned long", "x": "long long",
    "y": "unsigned long long", "n": "__int128", "o": "unsigned __int128", "f": "float", "d": "double",
    "e": "long double", "g": "__float128", "z": "...", "Dn": "decltype(nullptr)", "Di": "char32_t", "Ds": "char16_t",
    "Du": "char8_t", "Da": "auto", "Dc": "decltype(auto)", "Dh": "half",
}  # fmt: skip
_OPERATORS: Final = {
    "nw": "new", "na": "new[]", "dl": "delete", "da": "delete[]", "ps": "+", "ng": "-", "ad": "&", "de": "*",
    "co": "~", "pl": "+", "mi": "-", "ml": "*", "dv": "/", "rm": "%", "an": "&", "or": "|", "eo": "^", "aS": "=",
    "pL": "+=", "mI": "-=", "mL": "*=", "dV": "/=", "rM": "%=", "aN": "&=", "oR": "|=", "eO": "^=", "ls": "<<",
    "rs": ">>", "lS": "<<=", "rS": ">>=", "eq": "==", "ne": "!=", "lt": "<", "gt": ">", "le": "<=", "ge": ">=",
    "ss": "<=>", "nt": "!", "aa": "&&", "oo": "||", "pp": "++", "mm": "--", "cm": ",", "pm": "->*", "pt": "->",
    "cl": "()", "ix": "[]", "qu": "?", "aw": "co_await",
}  # fmt: skip
_STANDARD: Final = {
    "a": "std::allocator", "b": "std::basic_string", "i": "std::istream", "o": "std::ostream", "d": "std::iostream",
    "s": "std::string",
}  # fmt: skip
_LITERALS: Final = {"i": "", "j": "u", "l": "l", "m": "ul", "x": "ll", "y": "ull"}
_SPECIAL: Final = {
    "TV": "vtable for ", "TT": "VTT for ", "TI": "typeinfo for ", "TS": "typeinfo name for ",
    "TH": "TLS init function for ", "TW": "TLS wrapper function for ", "GV": "guard variable for ",
    "GR": "reference temporary for ",
}  # fmt: skip
_QUALIFIERS: Final = {"r": " restrict", "V": " volatile", "K": " const"}


@final
class _Name(NamedTuple):
    """A function's or class's name."""

    text: str
    has_arguments: bool = False
    """Whether it ends with template arguments: its type then begins with what it returns."""
    has_no_result: bool = False
    """A constructor, destructor or conversion, whose type never does."""
    qualifiers: str = ""


@final
class _Symbol:
    """Reads one symbol."""

    def __init__(self, text: str) -> None:
        self.rest = text
        self._known: list[_Type] = []
        self._arguments: list[_Type] = []
        self._depth = 0
        self._is_conversion = False

    # --- reading

    def _take(self, *prefixes: str) -> str:
        """The first of these that comes next, taken; empty: none does."""
        for prefix in prefixes:
            if self.rest.startswith(prefix):
                self.rest = self.rest[len(prefix) :]
                return prefix
        return ""

    def _expect(self, text: str) -> None:
        if not self._take(text):
            raise ValueError(f"expected {text!r}")

    def _match(self, pattern: str) -> str:
        found = re.match(pattern, self.rest)
        if found is None:
            raise ValueError(f"expected {pattern!r}")
        self.rest = self.rest[found.end() :]
        return found[0]

    def _deeper(self, read: Callable[[], _Type]) -> _Type:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise ValueError("nested too deeply")
        found = read()
        self._depth -= 1
        return self._short(found)

    @staticmethod
    def _short(found: _Type) -> _Type:
        if len(found.left) + len(found.right) > _MAX_CHARACTERS:
            raise ValueError("too long")
        return found

    def _remember(self, found: _Type) -> _Type:
        self._known.append(self._short(found))
        return found

    # --- names

    def encoding(self) -> str:
        """A function with its parameters, or what has none."""
        if special := self._take(*_SPECIAL):
            return _SPECIAL[special] + (self._name().text if special[0] == "G" else str(self._type()))
        if self._take("Th"):
            self._match(r"n?\d+_")
            return "non-virtual thunk to " + self.encoding()
        if self._take("Tv"):
            self._match(r"n?\d+_n?\d+_")
            return "virtual thunk to " + self.encoding()
        name = self._name()
        if not self.rest or self.rest[0] == "E":
            return name.text + name.qualifiers
        result = self._type() if name.has_arguments and not name.has_no_result else None
        parameters = self._parameters(lambda: bool(self.rest) and self.rest[0] != "E")
        text = f"{name.text}({parameters}){name.qualifiers}"
        text = text if result is None else f"{result.left} {text}{result.right}"
        return str(self._short(_Type(text)))

    def _parameters(self, goes_on: Callable[[], bool]) -> str:
        found = []
        while goes_on():
            found.append(self._type())
        texts = [str(one) for one in found if one.pack != ()]
        return "" if texts == ["void"] else ", ".join(texts)

    def _name(self) -> _Name:
        if self._take("N"):
            return self._nested()
        if self._take("Z"):
            function = self.encoding()
            self._expect("E")
            if self._take("s"):
                return _Name(f"{function}::string literal")
            if self._take("d"):
                self._match(r"\d*_")
            inner = self._name()
            self._take_discriminator()
            return inner._replace(text=f"{function}::{inner.text}")
        if self.rest[0] == "S" and self.rest[1] != "t":
            name = _Name(str(self._substitution()))
        else:
            prefix = "std::" if self._take("St") else ""
            plain = self._unqualified("")
            name = plain._replace(text=prefix + plain.text)
            if self.rest[:1] == "I":
                self._remember(_Type(name.text))
        if self.rest[:1] == "I":
            return name._replace(text=self._with_arguments(name.text), has_arguments=True)
        return name

    def _take_discriminator(self) -> None:
        if self._take("__"):
            self._match(r"\d+_")
        elif self.rest[:1] == "_":
            self._match(r"_\d")

    def _nested(self) -> _Name:
        qualifiers = "".join(_QUALIFIERS[one] for one in self._match(r"r?V?K?"))
        qualifiers += {"R": " &", "O": " &&", "": ""}[self._take("R", "O")]
        name, last = _Name(""), ""
        while not self._take("E"):
            if self.rest[0] == "I":
                name = name._replace(text=self._with_arguments(name.text), has_arguments=True)
            elif self.rest[0] == "S" and self.rest[1] != "t":
                name = _Name(str(self._substitution()))
                last = name.text.partition("<")[0].rpartition("::")[2]
                continue
            elif self._take("St"):
                name = _Name("std")
                continue
            elif self.rest[0] == "T":
                name = _Name(str(self._template_parameter()))
            else:
                part = self._unqualified(last)
                last = part.text
                name = part._replace(text=f"{name.text}::{part.text}" if name.text else part.text)
            if self.rest[0] != "E":
                self._remember(_Type(name.text))
        return name._replace(qualifiers=qualifiers)

    def _unqualified(self, outer: str) -> _Name:
        """One part of a name; `outer` is the class that a constructor is called like."""
        self._take("L")
        if self.rest[0].isdigit():
            found = _Name(self._source_name())
        elif kind := self._take("C1", "C2", "C3", "CI1", "CI2"):
            if kind.startswith("CI"):
                self._type()
            found = _Name(outer.partition("[")[0], has_no_result=True)
        elif self._take("D0", "D1", "D2"):
            found = _Name("~" + outer.partition("[")[0], has_no_result=True)
        elif self._take("Ut"):
            number = self._match(r"\d*_")[:-1]
            found = _Name(f"{{unnamed type#{int(number) + 2 if number else 1}}}")
        elif self._take("Ul"):
            parameters = self._parameters(lambda: self.rest[0] != "E")
            self._expect("E")
            number = self._match(r"\d*_")[:-1]
            found = _Name(f"{{lambda({parameters})#{int(number) + 2 if number else 1}}}")
        elif self._take("cv"):
            found = _Name(f"operator {self._type()}", has_no_result=True)
        elif self._take("li"):
            found = _Name(f'operator"" {self._source_name()}')
        else:
            word = _OPERATORS[self._match(r"[a-z][a-zS=]|[a-z][A-Z]")]
            found = _Name(f"operator {word}" if word[0].isalpha() else f"operator{word}")
        while self._take("B"):
            found = found._replace(text=f"{found.text}[abi:{self._source_name()}]")
        return found

    def _source_name(self) -> str:
        length = int(self._match(r"[1-9]\d{0,3}"))
        if length > len(self.rest):
            raise ValueError("ends within a name")
        found, self.rest = self.rest[:length], self.rest[length:]
        return "(anonymous namespace)" if found.startswith("_GLOBAL__N") else found

    # --- templates

    def _template_arguments(self) -> str:
        self._expect("I")
        found = []
        while not self._take("E"):
            found.append(self._deeper(self._argument))
        self._arguments = found
        texts = [str(one) for one in found if one.pack != ()]
        return str(self._short(_Type(f"<{', '.join(texts)}>")))

    def _with_arguments(self, name: str) -> str:
        """A template with its arguments, which come next."""
        return f"{name}{' ' if name.endswith('<') else ''}{self._template_arguments()}"

    def _argument(self) -> _Type:
        if self._take("J"):
            found = []
            while not self._take("E"):
                found.append(self._deeper(self._argument))
            return _Type("", pack=tuple(found))
        if self._take("X"):
            raise ValueError("an expression")
        return _Type(self._literal()) if self._take("L") else self._type()

    def _literal(self) -> str:
        if self._take("_Z"):
            text = self.encoding()
            self._expect("E")
            return text
        kind = self.rest[:1]
        written = str(self._type())
        value = self._match(r"n?[0-9a-f]*")
        self._expect("E")
        number = value.replace("n", "-", 1)
        if kind == "b":
            return {"0": "false", "1": "true"}[number]
        return number + _LITERALS[kind] if kind in _LITERALS else f"({written}){number}"

    def _template_parameter(self) -> _Type:
        self._expect("T")
        number = self._match(r"\d*_")[:-1]
        return self._arguments[int(number) + 1 if number else 0]

    def _substitution(self) -> _Type:
        self._expect("S")
        if word := self._take(*_STANDARD):
            found = _Type(_STANDARD[word])
        else:
            number = self._match(r"[0-9A-Z]*_")[:-1]
            found = self._known[int(number, 36) + 1 if number else 0]
        return found

    # --- types

    def _type(self) -> _Type:
        return self._deeper(self._any_type)

    def _any_type(self) -> _Type:
        if builtin := self._take(*_BUILTIN):
            return _Type(_BUILTIN[builtin])
        first = self.rest[0]
        if first in _QUALIFIERS:
            return self._qualified()
        if first in _KINDS:
            return _KINDS[first](self)
        if self._take("Dp"):
            return self._remember(self._type())
        if self._take("u"):
            return self._remember(_Type(self._source_name()))
        return self._remember_class()

    def _remember_class(self) -> _Type:
        if self.rest[0] == "S" and self.rest[1] != "t":
            found = self._substitution()
            if self.rest[:1] != "I":
                return found
            return self._remember(_Type(f"{found}{self._template_arguments()}"))
        before = self._arguments
        name = self._name()
        self._arguments = before or self._arguments
        return self._remember(_Type(name.text))

    def _qualified(self) -> _Type:
        words = self._match(r"r?V?K?")
        inner = self._type()
        text = "".join(_QUALIFIERS[word] for word in reversed(words))

        def change(one: _Type) -> _Type:
            return one._replace(right=one.right + text) if one.is_function else one._replace(left=one.left + text)

        return self._remember(inner.each(change))

    def _pointer(self) -> _Type:
        sign = {"P": "*", "R": "&", "O": "&&"}[self._take("P", "R", "O")]

        def change(one: _Type) -> _Type:
            if one.is_function or one.right.startswith(" ["):
                space = "" if one.is_function else " "
                return _Type(f"{one.left}{space}({sign}", f"){one.right}")
            if one.left.endswith("&") and sign != "*":  # references collapse
                both = one.left.endswith("&&") and sign == "&&"
                return one._replace(left=one.left.rstrip("&") + ("&&" if both else "&"))
            return one._replace(left=one.left + sign)

        return self._remember(self._type().each(change))

    def _function(self) -> _Type:
        self._expect("F")
        self._take("Y")
        result = self._type()
        parameters = self._parameters(lambda: self.rest[0] != "E" and self.rest[:2] not in {"RE", "OE"})
        qualifiers = {"R": " &", "O": " &&", "": ""}[self._take("R", "O")]
        self._expect("E")
        return self._remember(_Type(f"{result.left} ", f"({parameters}){qualifiers}{result.right}", is_function=True))

    def _array(self) -> _Type:
        self._expect("A")
        size = self._match(r"\d*")
        self._expect("_")
        inner = self._type()
        return self._remember(_Type(inner.left, f" [{size}]{inner.right.lstrip()}"))

    def _member(self) -> _Type:
        self._expect("M")
        owner, inner = self._type(), self._type()
        if inner.is_function:
            return self._remember(_Type(f"{inner.left}({owner}::*", f"){inner.right}"))
        return self._remember(_Type(f"{inner.left} {owner}::*"))

    def _parameter(self) -> _Type:
        found = self._remember(self._template_parameter())
        if self.rest[:1] == "I":
            return self._remember(_Type(f"{found}{self._template_arguments()}"))
        return found


_KINDS: Final[dict[str, Callable[[_Symbol], _Type]]] = {
    **dict.fromkeys("PRO", _Symbol._pointer),
    "F": _Symbol._function,
    "A": _Symbol._array,
    "M": _Symbol._member,
    "T": _Symbol._parameter,
}
