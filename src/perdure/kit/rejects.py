"""``with rejects(...)``: a call that must fail."""

from __future__ import annotations

import re
from types import TracebackType
from typing import final

from perdure.errors import RejectError
from perdure.ic.reject import RejectCode

__all__ = ["Rejects", "rejects"]


@final
class Rejects:
    """The context of :func:`rejects`. `error` is the rejection, once there was one."""

    __slots__ = ("_code", "_error", "_error_code", "_match")

    def __init__(self, code: int | str | None, match: str | None, error_code: str | None) -> None:
        if isinstance(code, str) and code not in RejectCode.__members__:
            raise ValueError(
                f"no reject code {code!r:.60}, expected 1 to 6 or one of {', '.join(RejectCode.__members__)}"
            )
        self._code = RejectCode[code].value if isinstance(code, str) else code
        self._match = match
        self._error_code = error_code
        self._error: RejectError | None = None

    @property
    def error(self) -> RejectError:
        """The rejection; raises AssertionError before there is one."""
        if self._error is None:
            raise AssertionError("nothing was rejected yet")
        return self._error

    def __enter__(self) -> Rejects:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        if error is None:
            raise AssertionError(f"expected a rejection{self._wanted()}, and all calls succeeded")
        if not isinstance(error, RejectError):
            return False
        self._error = error
        wrong = self._wrong(error)
        if wrong:
            raise AssertionError(f"rejected with {wrong}:\n{error}") from error
        return True

    def _wanted(self) -> str:
        wanted = {"code": self._code, "error_code": self._error_code, "match": self._match}
        given = ", ".join(f"{name} {value!r}" for name, value in wanted.items() if value is not None)
        return f" with {given}" if given else ""

    def _wrong(self, error: RejectError) -> str:
        if self._code is not None and error.code != self._code:
            return f"code {int(error.code)}, expected {int(self._code)}"
        if self._error_code is not None and error.error_code != self._error_code:
            return f"error code {error.error_code!r}, expected {self._error_code!r}"
        if self._match is not None and not re.search(self._match, error.message):
            return f"message {error.message!r}, expected one that matches {self._match!r}"
        return ""


def rejects(*, code: int | str | None = None, match: str | None = None, error_code: str | None = None) -> Rejects:
    """A context in which a call must be rejected.

        with rejects(code=5, match="assertion failed") as rejected:
            canister.update("transfer", arg)
        assert "ledger" in rejected.error.backtrace[0]

    Args:
        code: the reject code, 1 to 6, or its name, such as ``"CANISTER_ERROR"``.
        match: a regular expression, searched for in the message.
        error_code: the replica's code, such as ``"IC0503"``.

    Raises:
        AssertionError: on leaving, if nothing was rejected, or otherwise than asked for. Any other exception passes.
    """
    return Rejects(code, match, error_code)
