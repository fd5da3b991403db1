"""Workers that multiprocessing's own launchers start. Imported where a pool has such workers."""

from __future__ import annotations

import os
import signal
from multiprocessing import (
    connection,
    context,
    forkserver,
    popen_forkserver,
    popen_spawn_posix,
    reduction,
    resource_tracker,
    util,
)
from multiprocessing.process import BaseProcess

from .. import _core
from .._base.stdlib import TYPE_CHECKING
from . import child
from .popen import Popen

if TYPE_CHECKING:
    from typing import Any

    from .._core import Worker


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
        # As a forked worker: Ctrl-C concerns it once it is in child.main(). The mask stays over
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


POPENS: dict[str, type[Popen]] = {"spawn": SpawnPopen, "forkserver": ForkServerPopen}


def _close_both(worker: Worker, pipes: util.Finalize) -> None:
    worker.close()
    pipes()


def _reduce_worker(worker: Worker) -> tuple[Any, ...]:
    context.assert_spawning(worker)
    *fds, budget = worker.ends()
    ends = [reduction.DupFd(fd) if fd >= 0 else None for fd in fds]
    return child.attach, (ends, budget)


reduction.ForkingPickler.register(_core.Worker, _reduce_worker)
