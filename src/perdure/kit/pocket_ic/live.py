"""Instances whose time goes on by itself, and that are served over HTTP."""

from __future__ import annotations

from contextlib import ExitStack

from perdure.network import Network
from perdure.network.live import Rounds

__all__ = ["GoesOn"]


class GoesOn:
    """What stands still until somebody wants it to go on."""

    network: Network
    _going_on: ExitStack | None = None
    _url = ""

    def auto_progress(self) -> None:
        """Let time and rounds go on by themselves, as the machine's clock does, until `stop_progress`."""
        if self._going_on is None:
            rounds = Rounds.of(self.network)
            rounds.start()
            self._going_on = ExitStack()
            self._going_on.callback(rounds.stop)

    def make_live(self, listen_at: int | None = None) -> str:
        """Serve agents and browsers over HTTP, and go on by itself, until `stop_live`; the URL.

        Args:
            listen_at: the port; by default a free one.

        Raises:
            OSError: the port is taken.
            UnsupportedError: the extra ``serve`` is not installed.
        """
        if not self._url:
            self.stop_progress()
            going_on = ExitStack()
            self._url = going_on.enter_context(self.network.serve(port=listen_at or 0)) + "/"
            self._going_on = going_on
        return self._url

    def stop_progress(self) -> None:
        """Let time stand still again, and answer nobody any more."""
        going_on, self._going_on, self._url = self._going_on, None, ""
        if going_on is not None:
            going_on.close()

    stop_live = stop_progress

    def auto_progress_enabled(self) -> bool:
        """Whether time and rounds go on by themselves."""
        return self._going_on is not None

    def url(self) -> str | None:
        """Where it is served; `None`: nowhere."""
        return self._url or None
