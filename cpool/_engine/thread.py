"""The threads of a pool: daemon threads that can start even while the program exits."""

from __future__ import annotations

import _thread
import sys
import threading
from collections.abc import Callable

from .. import _core
from .._base.stdlib import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any
else:
    Any = object


def check_can_start() -> None:
    """Raise `RuntimeError` during interpreter finalization, as in a late `__del__`.

    A new thread would never run then, and CPython 3.11 would wait for it forever.
    """
    if sys.is_finalizing():
        raise RuntimeError("can't create new thread at interpreter shutdown")


class _Begun(threading.Event):
    """Replaces `_started` of a thread, so that `Thread.start()` waits until the target runs."""

    begin: _core.Begin | None = None

    def wait(self, timeout: float | None = None) -> bool:
        return super().wait(timeout) if self.begin is None else self.begin.wait()


def _is_watchable() -> bool:
    """Are the functions that start threads CPython's own? Some programs replace them."""
    for name in "_start_joinable_thread", "_start_new_thread":  # from 3.13 on, and before
        if hasattr(threading, name):
            return getattr(threading, name) is getattr(_thread, name[1:])
    return False


def start(thread: threading.Thread, by: Callable[[], None]) -> None:
    """Start the thread by calling `by`, and return once its target runs.

    `Thread.start()` itself would wait forever if the new thread runs out of memory before it is set
    up, and would return although no target runs if that happens a little later. This function
    raises `RuntimeError` in both cases.
    """
    inner: Any = thread
    if not isinstance(thread, threading.Thread) or not inner._target or not _is_watchable():
        by()
        return
    begin = _core.Begin(inner._bootstrap, inner._target)
    inner._started = _Begun()
    inner._started.begin = inner._bootstrap = begin
    inner._target = begin.run
    raised: BaseException | None = None
    try:
        try:
            by()
        except KeyError as exc:
            # A signal handler raised in Thread.start() after the new thread had removed itself from
            # threading._limbo; start() then failed to remove the thread there.
            raised = exc.__context__ if exc.args == (thread,) else None
            if raised is None:
                raise
        if raised is not None:
            raise raised
        if not begin.wait():
            with threading._active_limbo_lock:  # type: ignore[attr-defined]
                threading._limbo.pop(thread, None)  # type: ignore[attr-defined]
            raise RuntimeError("can't start new thread: it had no memory to begin")
    finally:
        inner._started.begin = None
        inner.__dict__.pop("_bootstrap", None)  # it refers to the thread: a cycle


class Thread(threading.Thread):
    """A thread that can be started by exit handlers and by threads that outlive the main thread.

    CPython 3.12.0 to 3.12.2 refuse to start threads then (gh-113964), so the extension starts them.
    `start()` raises `RuntimeError` during interpreter finalization; in those three versions also on
    a daemon thread, as the interpreter does not wait for daemon threads.
    """

    _over: threading.Event | None = None  # set at the end of a thread that the extension started
    kept: object = None  # an object to keep alive as long as the thread
    _seen: threading.Thread | None = None  # what current_thread() returns in such a thread

    def start(self) -> None:
        check_can_start()
        try:
            start(self, super().start)
        except RuntimeError as exc:
            if threading.main_thread().is_alive():
                raise
            if threading.current_thread().daemon:
                exc.add_note(
                    "cpool: a daemon thread made the pool's first asynchronous call while the "
                    "program exits: make such a call before, or call map() or apply()"
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
        """Is this the calling thread?"""
        return threading.current_thread() in (self, self._seen)

    def is_started(self) -> bool:
        return self._started.is_set() or self._over is not None  # type: ignore[attr-defined]

    def is_over(self) -> bool:
        return self.is_started() and not self.is_alive()

    def is_alive(self) -> bool:
        return super().is_alive() if self._over is None else not self._over.is_set()

    def join(self, timeout: float | None = None) -> None:
        if self._over is not None:
            self._over.wait(timeout)
        elif self.is_started():
            # Otherwise a signal handler has interrupted start(), and the pool has ended.
            super().join(timeout)
