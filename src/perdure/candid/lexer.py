"""Candid text into tokens, for types and values alike.

Hand-written rather than through a parser generator: importing lark and building the two grammars took 120 ms, half of
what a whole ``perdure canister call`` may take, and both grammars need one token of lookahead at most.

Spec: "Core Grammar", "Comments", "Values".
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple, final

from perdure.errors import MalformedError

__all__ = ["Token", "Tokens"]

# Underscores anywhere after the first digit, as the reference implementation takes them; the specification wants a
# digit after each.
_NUM = r"[0-9][0-9_]*"
_HEX = r"[0-9a-fA-F][0-9a-fA-F_]*"
_TOKEN: Final = re.compile(
    rf"""
    (?P<line>//[^\n]*)
  | (?P<block>/\*)
  | (?P<text>"[^"\\]*+(?:\\.[^"\\]*+)*+")
  | (?P<id>[A-Za-z_][A-Za-z0-9_]*)
  | (?P<arrow>->)
  | (?P<float>[+-]?(?:0[xX]{_HEX}(?:\.(?:{_HEX})?(?:[pP][+-]?{_NUM})?|[pP][+-]?{_NUM})
                     |{_NUM}(?:\.(?:{_NUM})?(?:[eE][+-]?{_NUM})?|[eE][+-]?{_NUM})
                     |\.{_NUM}(?:[eE][+-]?{_NUM})?))
  | (?P<hex>[+-]?0[xX]{_HEX})
  | (?P<num>[+-]?{_NUM})
  | (?P<sign>[+-])
  | (?P<mark>==|!=|!:|[=(){{}};,.:])
    """,
    re.VERBOSE | re.DOTALL,
)
_KINDS: Final = {"id": "<identifier>", "num": "<number>", "hex": "<hex>", "float": "<float>", "sign": "<sign>"}
_SPACE: Final = re.compile(r"[ \t\r\n]*")
_COMMENT: Final = re.compile(r"/\*|\*/")
_ESCAPE: Final = re.compile(
    rb"\\(?:u\{(?P<code>[0-9a-fA-F][0-9a-fA-F_]*)\}|(?P<byte>[0-9a-fA-F]{2})|(?P<one>[nrt\\\"'])|(?P<bad>.?))",
    re.DOTALL,
)
_NAMED: Final = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"\\": b"\\", b'"': b'"', b"'": b"'"}


class Token(NamedTuple):
    """A token.

    Args:
        kind: ``<identifier> <text> <number> <hex> <float> <sign> <end>``, or the mark itself: ``-> { ; ==``. In angle
            brackets, so that no identifier is mistaken for one.
        value: as written; the bytes of a text, escapes resolved.
        offset: in characters from the start.
        docs: the ``//`` comments directly above, without their slashes.
    """

    kind: str
    value: str | bytes
    offset: int
    docs: str


@final
class Tokens:
    """The tokens of `text`, with one token of lookahead.

    Raises:
        MalformedError: characters that are no token; the offset counts characters.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self._at = 0
        self._docs: list[str] = []
        self.token = self._next()

    # For parsers

    def error(self, expected: str, token: Token | None = None) -> MalformedError:
        """What to raise where something else was expected."""
        token = token or self.token
        found = "the end" if token.kind == "<end>" else repr(self._shown(token))
        return self._malformed(f"found {found}, expected {expected}", token.offset)

    def _shown(self, token: Token) -> str:
        """A token as it is written; of a word, what comes behind it, too."""
        match = _TOKEN.match(self.text, token.offset)
        is_word = match is None or token.kind == "<identifier>"
        return (self.text[token.offset :] if is_word or match is None else match[0])[:20].split("\n")[0]

    def advance(self) -> Token:
        """The token ahead, and move past it."""
        token = self.token
        self.token = self._next()
        return token

    def accept(self, *kinds: str) -> Token | None:
        """The token ahead if it is of one of `kinds` (a mark, a kind, or an identifier's text), moving past it."""
        return self.advance() if self.sees(*kinds) else None

    def expect(self, *kinds: str) -> Token:
        """As `accept`, raising MalformedError otherwise."""
        if self.sees(*kinds):
            return self.advance()
        raise self.error(" or ".join(kind if kind.startswith("<") else f"`{kind}`" for kind in kinds))

    def sees(self, *kinds: str) -> bool:
        """Whether the token ahead is of one of `kinds`."""
        token = self.token
        return token.kind in kinds or (token.kind == "<identifier>" and token.value in kinds)

    def malformed(self, message: str, token: Token) -> MalformedError:
        """What to raise for a wrong token."""
        return self._malformed(message, token.offset)

    # Scanning

    def _malformed(self, message: str, offset: int) -> MalformedError:
        line = self.text.count("\n", 0, offset) + 1
        column = offset - (self.text.rfind("\n", 0, offset) + 1) + 1
        error = MalformedError(f"line {line}, column {column}: {message}")
        error.offset = offset
        return error.coded("candid-text")

    def _next(self) -> Token:
        self._docs = []
        while True:
            self._at = self._skip_space()
            start = self._at
            if start == len(self.text):
                return Token("<end>", "", start, "")
            match = _TOKEN.match(self.text, start)
            if match is None:
                hint = ": a text is in double quotes" if self.text[start] == "'" else ""
                raise self._malformed(f"found {self.text[start]!r}, expected a token{hint}", start)
            kind = match.lastgroup or ""
            self._at = match.end()
            if kind == "line":
                self._comment(match[0], start)
            elif kind == "block":
                self._at = self._end_of_block(start)
            else:
                return self._token(kind, match[0], start)

    def _skip_space(self) -> int:
        """Past white space; a blank line parts comments from what follows."""
        match = _SPACE.match(self.text, self._at)
        end = match.end() if match else self._at
        if self._docs and self.text.count("\n", self._at, end) > 1:
            self._docs = []
        return end

    def _comment(self, text: str, start: int) -> None:
        before = self.text[self.text.rfind("\n", 0, start) + 1 : start]
        if not before.strip():
            self._docs.append(text.lstrip("/").removeprefix(" ").rstrip())

    def _end_of_block(self, start: int) -> int:
        depth = 0
        for match in _COMMENT.finditer(self.text, start):
            depth += 1 if match[0] == "/*" else -1
            if depth == 0:
                return match.end()
        raise self._malformed("comment without an end", start)

    def _token(self, kind: str, text: str, start: int) -> Token:
        docs = "\n".join(self._docs).strip("\n")
        if kind == "text":
            return Token("<text>", self._unescaped(text, start), start, docs)
        if kind in ("float", "hex", "num"):
            after = self.text[self._at : self._at + 1]
            if after.isalnum() or after == "_":
                raise self._malformed(f"found {text + after!r}, expected a number", start)
            return Token(_KINDS[kind], text.replace("_", ""), start, docs)
        return Token(_KINDS.get(kind, text), text, start, docs)

    def _unescaped(self, quoted: str, start: int) -> bytes:
        try:
            raw = quoted[1:-1].encode()
        except UnicodeEncodeError as error:
            raise self._malformed("text with a lone surrogate", start + error.start) from error

        def replace(match: re.Match[bytes]) -> bytes:
            if match["byte"]:
                return bytes.fromhex(match["byte"].decode())
            if match["one"]:
                return _NAMED[match["one"]]
            code = int(match["code"].replace(b"_", b""), 16) if match["code"] else 0x110000
            if code > 0x10FFFF or 0xD800 <= code < 0xE000:
                raise self._malformed(f"unknown escape {match[0].decode(errors='replace')!r}", start)
            return chr(code).encode()

        return _ESCAPE.sub(replace, raw) if b"\\" in raw else raw
