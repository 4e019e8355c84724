"""What a campaign does for one source, and what came out of it."""

from __future__ import annotations

import json
import os
import shlex
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal, final

from perdure.errors import MalformedError

__all__ = ["OUTCOMES", "Job", "Outcome", "Row"]

Outcome = Literal["fine", "found", "not certain", "failed"]

OUTCOMES: Final[dict[int, Outcome]] = {0: "fine", 1: "found", 2: "failed", 3: "not certain"}
"""What the exit code of a command means for its source."""


_MAIN: Final = "perdure.cli:main"
"""By its name: commands are above, and are imported where they run."""
_MAX_DEPTH: Final = 100
"""Of a document: whoever copies or prints it follows it as deep."""
_MAX_NUMBER: Final = 1 << 53
_KINDS: Final[dict[str, type | tuple[type, ...]]] = {
    **dict.fromkeys(("source", "group", "mark", "outcome", "error", "repro"), str),
    "exit_code": (int, type(None)),
    "seconds": (int, float),
    "processor_seconds": (int, float),
}
"""What the values of a row are, the document apart."""


@final
@dataclass(frozen=True)
class Job:
    """One command for one source.

    Attributes:
        source: what it is about.
        arguments: of `perdure`, for this source alone: they print one JSON document.
        group: SHA-256 of the module in hexadecimal, or nothing: jobs of a group need the same native code.
        size_bytes: of what may be read.
        mark: changes with what the source holds, as far as that can be told without reading it.
        directory: where it is to run, if not here.
    """

    source: str
    arguments: tuple[str, ...]
    group: str = ""
    size_bytes: int = 0
    mark: str = ""
    directory: str = ""

    @property
    def repro(self) -> str:
        """The command for a shell, as a person would give it to see the same."""
        shown = [one for one in self.arguments if one != "--json"]
        line = " ".join(map(_quoted, ["perdure", *shown]))
        return f"cd {_quoted(self.directory)} && {line}" if self.directory else line

    def request(self) -> bytes:
        """What a worker is given."""
        directory = str(Path(self.directory).absolute()) if self.directory else ""
        return json.dumps({"main": _MAIN, "arguments": self.arguments, "directory": directory}).encode()


def _quoted(word: str) -> str:
    """A word for a shell, on one line and without characters that a terminal would obey."""
    if word.isprintable():
        return shlex.quote(word)
    return "$'{}'".format("".join(map(_escaped, word)))


def _escaped(char: str) -> str:
    if char in "'\\":
        return f"\\{char}"
    return char if char.isprintable() else "".join(f"\\{byte:03o}" for byte in os.fsencode(char))


@final
@dataclass(frozen=True)
class Row:
    """What became of one source.

    Attributes:
        source: as in the job.
        group: as in the job.
        mark: as in the job.
        outcome: ``fine``, ``found`` (something wrong), ``not certain``, ``failed`` (could not be done).
        exit_code: of the command; `None`: its worker ended, or was ended.
        seconds: from giving it to a worker to having its answer.
        processor_seconds: that the worker spent.
        error: what was printed beside the document, or why there is none.
        repro: the command that shows it.
        document: what the command printed, `None` where it is no JSON.
    """

    source: str
    group: str
    mark: str
    outcome: Outcome
    exit_code: int | None
    seconds: float
    processor_seconds: float
    error: str
    repro: str
    document: Any

    @classmethod
    def answered(cls, job: Job, answer: bytes, seconds: float) -> Row:
        """The row of a job whose worker has answered."""
        found = json.loads(answer)
        code = found["exit_code"]
        error = found["error"]
        try:
            document = _load(found["printed"], _MAX_DEPTH) if found["printed"].strip() else None
        except ValueError:
            document, code = None, 2
            error = f"{error}it printed what is no JSON document: {found['printed'][:200]!r}"
        outcome = OUTCOMES.get(code, "failed")
        spent = found["processor_seconds"]
        return cls(job.source, job.group, job.mark, outcome, code, seconds, spent, error, job.repro, document)

    @classmethod
    def ended(cls, job: Job, why: str, seconds: float) -> Row:
        """The row of a job whose worker has ended, or was ended."""
        return cls(job.source, job.group, job.mark, "failed", None, seconds, 0.0, why, job.repro, None)

    def to_json(self) -> str:
        """One JSON object on one line, in ASCII: names of files may be no text."""
        return json.dumps(asdict(self))

    @classmethod
    def parse(cls, line: str) -> Row:
        """The row of such a line.

        Raises:
            MalformedError: it is none.
        """
        try:
            row = cls(**_load(line, _MAX_DEPTH + 1))
        except (ValueError, TypeError) as error:
            raise MalformedError(f"no row of a campaign: {error}") from error
        for name, kind in _KINDS.items():
            value = getattr(row, name)
            is_bounded = not isinstance(value, int | float) or abs(value) < _MAX_NUMBER
            if not (is_bounded and isinstance(value, kind)):
                raise MalformedError(f"no row of a campaign: source {row.source!r:.60}, {name} {value!r:.60}")
        if row.outcome not in OUTCOMES.values():
            raise MalformedError(f"no row of a campaign: source {row.source!r:.60}, outcome {row.outcome!r:.60}")
        return row

    def gist(self) -> Row:
        """The same without its document, but for what `told` says by it: so many rows take little memory."""
        document: Any = None
        if isinstance(self.document, dict):
            document = {name: self.document[name] for name in ("verdict",) if name in self.document}
            findings, story = self.document.get("findings"), self.document.get("found")
            if isinstance(findings, list):
                named = [(one.get("code"), one.get("severity")) for one in findings if isinstance(one, dict)]
                codes = dict.fromkeys((str(code), str(severity)) for code, severity in named)
                document["findings"] = [{"code": code, "severity": severity} for code, severity in codes]
            if isinstance(story, dict):
                document["found"] = {"error": str(story.get("error", "")).partition("\n")[0]}
        return replace(self, document=document)

    @property
    def told(self) -> str:
        """What it came to, in a few words of the command's own: a verdict and its causes, findings, an error."""
        document = self.document if isinstance(self.document, dict) else {}
        findings = document.get("findings")
        if isinstance(findings, list):
            told = [one for one in findings if isinstance(one, dict)]  # a row may come from a file
            graver = [str(one.get("code")) for one in told if one.get("severity") not in ("note", "warning")]
            words = [str(document["verdict"])] if "verdict" in document else []
            return ", ".join([*words, *dict.fromkeys(graver)]) or self.outcome
        if isinstance(document.get("found"), dict):  # a story that breaks a module
            return str(document["found"].get("error", "")).partition("\n")[0]
        lines = self.error.strip().splitlines()
        own = [line for line in lines if line.startswith("perdure: ")]  # behind it, what more can be done
        return (own or lines or [self.outcome])[-1]


def _load(text: str, max_depth: int) -> Any:
    """A JSON document. Raises `ValueError`: it is none, or nested deeper."""
    try:
        found = json.loads(text)
    except RecursionError as error:
        raise ValueError(f"nested deeper than {max_depth} levels") from error
    level = [one for one in (found,) if isinstance(one, dict | list)]
    for _ in range(max_depth):
        if not level:
            return found
        inside = (inner for one in level for inner in (one.values() if isinstance(one, dict) else one))
        level = [one for one in inside if isinstance(one, dict | list)]
    raise ValueError(f"nested deeper than {max_depth} levels")
