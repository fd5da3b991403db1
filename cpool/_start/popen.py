"""What stands under a pool's Process objects in place of multiprocessing's own Popen classes."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager, nullcontext
from multiprocessing import popen_fork, util
from multiprocessing import process as _process
from multiprocessing.process import BaseProcess

from .. import _core
from .._base.stdlib import TYPE_CHECKING
from . import child

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from .._core import Worker


@contextmanager
def _set(intent: Any) -> Iterator[None]:
    intent.preserve_fd = True
    try:
        yield
    finally:
        intent.preserve_fd = False


def _tracker_stays() -> AbstractContextManager[None]:
    """gh-146313: from 3.13.14 and 3.14.5 on, a fork by multiprocessing announces itself, so that
    the child goes on with the parent's resource tracker. There is one where that was imported."""
    tracker = sys.modules.get("multiprocessing.resource_tracker")
    intent = getattr(tracker, "_fork_intent", None)
    return nullcontext() if intent is None else _set(intent)


class Popen(popen_fork.Popen):
    """A worker process: reaped by the extension, which also watches its end."""

    def __init__(self, process: BaseProcess, worker: Worker) -> None:
        self._worker = worker
        super().__init__(process)

    @property
    def is_leaving(self) -> bool:
        """It was through long ago, and something keeps it from ending."""
        return self._worker.is_leaving

    def poll(self, flag: int = os.WNOHANG) -> int | None:
        if self.returncode is None:
            code = self._worker.poll() if flag == os.WNOHANG else self._worker.wait(None)
            self.returncode = code
        return self.returncode

    def wait(self, timeout: float | None = None) -> int | None:
        if self.returncode is None:
            self.returncode = self._worker.wait(timeout)
        return self.returncode

    def _send_signal(self, sig: int) -> None:
        # Through the extension, which knows whether the pid is still this process.
        if self.returncode is None:
            self._worker.kill(sig)

    def interrupt(self) -> None:
        self._send_signal(signal.SIGINT)


class ForkPopen(Popen):
    """Forked by the extension."""

    def _launch(self, process: BaseProcess) -> None:
        with _tracker_stays():
            self.pid = self._worker.fork()
        if self.pid == 0:
            child.run_forked(process, self._worker)
        self.finalizer = util.Finalize(self, self._worker.close)
        self.sentinel = self._worker.sentinel


def after_fork_in_child() -> None:
    """A process that somebody forks has copies of our pools, and none of their workers."""
    if not _core._after_fork_in_child():
        return
    # Or multiprocessing would end and join them when this process exits.
    children = _process._children  # type: ignore[attr-defined]
    children.difference_update([c for c in children if isinstance(c._popen, Popen)])


os.register_at_fork(after_in_child=after_fork_in_child)


@contextmanager
def started_together() -> Iterator[Callable[[BaseProcess], None]]:
    """Gives what starts a process, without a look at those that it has started before.

    multiprocessing asks all children at each start whether they still run; and after a fork, each
    page of memory that this writes to costs a copy. Until the last one is started,
    `active_children()` shows none of them.
    """
    children = _process._children  # type: ignore[attr-defined]
    started: list[BaseProcess] = []

    def start(process: BaseProcess) -> None:
        try:
            process.start()
        finally:
            if process in children:
                children.discard(process)
                started.append(process)

    try:
        yield start
    finally:
        children.update(started)
