"""What stands under a pool's Process objects in place of multiprocessing's own Popen classes."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager, nullcontext
from multiprocessing import (
    connection,
    context,
    forkserver,
    popen_fork,
    popen_forkserver,
    popen_spawn_posix,
    reduction,
    resource_tracker,
    util,
)
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
            _child.run_forked(process, self._worker)
        self.finalizer = util.Finalize(self, self._worker.close)
        self.sentinel = self._worker.sentinel


class _LaunchedPopen(Popen):
    """Started by one of multiprocessing's own launchers, the next class in line, and the
    extension's from then on."""

    pid = 0
    sentinel: int

    def _launch(self, process: BaseProcess) -> None:
        # Not in the pickle of the process: it is for this process only.
        process.__dict__.pop("_Popen", None)
        try:
            self._launch_blocked(process)
            self._worker.started(self.pid, self._status())
        except BaseException:
            self._not_started()
            raise
        # The launcher's pipes: the child sees our end by one of them.
        pipes = self.finalizer
        self.finalizer = util.Finalize(self, _close_both, args=(self._worker, pipes))
        self.sentinel = self._worker.sentinel

    def _launch_blocked(self, process: BaseProcess) -> None:
        self._prepare()
        # As a forked worker: Ctrl-C concerns it once it is in _child.main(). The mask stays over
        # exec. And none of the launcher's steps is interrupted, in the main thread.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            super()._launch(process)  # type: ignore[misc]
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def _prepare(self) -> None:
        """Start what is to start without a blocked SIGINT, or would unblock it."""
        resource_tracker.ensure_running()

    def _status(self) -> int:
        """The pipe that tells how the process ended, where it is no child of ours."""
        return -1

    def _not_started(self) -> None:
        # A child that the extension has taken over is reaped there already. One whose pid was
        # never told finds its pipes closed, and ends.
        if self.pid != 0 and self._worker.pid == 0:
            self._kill()
        self.pid = 0
        self._worker.started(-1, -1)
        if self.finalizer is not None:
            self.finalizer()

    def _kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


class SpawnPopen(_LaunchedPopen, popen_spawn_posix.Popen):
    """A worker that is a new program."""


class ForkServerPopen(_LaunchedPopen, popen_forkserver.Popen):
    """A worker that the fork server forked."""

    def _prepare(self) -> None:
        forkserver.ensure_running()

    def _status(self) -> int:
        return self.sentinel

    def _kill(self) -> None:
        # What has been waited for may be another process by now.
        if not connection.wait([self.sentinel], 0):
            os.kill(self.pid, signal.SIGKILL)


_KINDS: dict[str, type[Popen]] = {
    "fork": ForkPopen,
    "spawn": SpawnPopen,
    "forkserver": ForkServerPopen,
}


def _close_both(worker: Worker, pipes: util.Finalize) -> None:
    worker.close()
    pipes()


def _reduce_worker(worker: Worker) -> tuple[Any, ...]:
    context.assert_spawning(worker)
    *fds, budget = worker.ends()
    ends = [reduction.DupFd(fd) if fd >= 0 else None for fd in fds]
    return _child.attach, (ends, budget)


reduction.ForkingPickler.register(_core.Worker, _reduce_worker)


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


def starter(worker: Worker, method: str) -> Callable[[BaseProcess], Popen]:
    """To be set as `_Popen` of one Process object."""

    kind = _KINDS[method]

    def start(process: BaseProcess) -> Popen:
        return kind(process, worker)

    return start
