"""The threads of a pool: daemons, as the stdlib's are, that start even when the program ends."""

from __future__ import annotations

import sys
import threading

from .. import _core


def check_can_start() -> None:
    """Raise `RuntimeError` while the interpreter itself goes, as in a `__del__` at the very end.

    A new thread would not come to life any more, and CPython 3.11 would wait until it does.
    """
    if sys.is_finalizing():
        raise RuntimeError("can't create new thread at interpreter shutdown")


class Thread(threading.Thread):
    """One that may be started by exit handlers, and by threads that outlive the main one.

    CPython 3.12.0 to 3.12.2 start no thread then, so the extension does; all others do, until the
    interpreter itself goes (gh-113964). Raises `RuntimeError` from there on, and with those three
    on a daemon thread, for which the interpreter does not wait while it starts another.
    """

    _over: threading.Event | None = None  # of one that the extension started
    _seen: threading.Thread | None = None  # what current_thread() is there

    def start(self) -> None:
        check_can_start()
        try:
            super().start()
        except RuntimeError as exc:
            if threading.main_thread().is_alive():
                raise
            if threading.current_thread().daemon:
                exc.add_note(
                    "cpool: the program ends, and a daemon thread made its pool's first "
                    "asynchronous call: make one before, or call map() or apply()"
                )
                raise
            self._over = threading.Event()
            _core._start_late(self._run_late)

    def _run_late(self) -> None:
        assert self._over is not None
        self._seen = threading.current_thread()
        self._seen.name = self.name
        try:
            self.run()
        finally:
            self._over.set()

    def is_current(self) -> bool:
        """Is it the thread that asks?"""
        return threading.current_thread() in (self, self._seen)

    def is_alive(self) -> bool:
        return super().is_alive() if self._over is None else not self._over.is_set()

    def join(self, timeout: float | None = None) -> None:
        if self._over is None:
            super().join(timeout)
        else:
            self._over.wait(timeout)
