"""What stands under a pool's Process objects in place of multiprocessing.popen_fork.Popen."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager, nullcontext
from multiprocessing import popen_fork, util
from multiprocessing import process as _process
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, Any

from . import _child, _core

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ._core import Worker


@contextmanager
def _set(intent: Any) -> Iterator[None]:
    intent.preserve_fd = True
    try:
        yield
    finally:
        intent.preserve_fd = False


def _tracker_stays() -> AbstractContextManager[None]:
    """gh-146313: from 3.13.14 and 3.14.5 on, a fork by multiprocessing announces itself, so that
    the child goes on with the parent's resource tracker."""
    from multiprocessing import resource_tracker

    intent = getattr(resource_tracker, "_fork_intent", None)
    return nullcontext() if intent is None else _set(intent)


class Popen(popen_fork.Popen):
    """A worker process: forked and reaped by the extension, which also watches its end."""

    def __init__(self, process: BaseProcess, worker: Worker) -> None:
        self._worker = worker
        super().__init__(process)

    def _launch(self, process: BaseProcess) -> None:
        with _tracker_stays():
            self.pid = self._worker.fork()
        if self.pid == 0:
            _child.run_forked(process, self._worker)
        self.finalizer = util.Finalize(self, self._worker.close)
        self.sentinel = self._worker.sentinel

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


def after_fork_in_child() -> None:
    """A process that somebody forks has copies of our pools, and none of their workers."""
    if not _core._after_fork_in_child():
        return
    # Or multiprocessing would end and join them when this process exits.
    children = _process._children  # type: ignore[attr-defined]
    children.difference_update([c for c in children if isinstance(c._popen, Popen)])


os.register_at_fork(after_in_child=after_fork_in_child)


def starter(worker: Worker) -> Callable[[BaseProcess], Popen]:
    """To be set as `_Popen` of one Process object."""

    def start(process: BaseProcess) -> Popen:
        return Popen(process, worker)

    return start
