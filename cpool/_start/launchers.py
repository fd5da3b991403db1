"""Workers by spawn and forkserver. Imported only for pools that have such workers."""

from __future__ import annotations

import os
import signal
from contextlib import contextmanager
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
    from collections.abc import Iterator
    from typing import Any

    from .._core import Worker


@contextmanager
def _sigpipe_blocked() -> Iterator[bool]:
    """Writing to a process that has died raises no SIGPIPE. Yields whether that took blocking it.

    Python ignores SIGPIPE, unless the program has given it another action.
    """
    if signal.getsignal(signal.SIGPIPE) == signal.SIG_IGN:
        yield False
        return
    only = {signal.SIGPIPE}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, only)
    was_pending = signal.SIGPIPE in signal.sigpending()
    try:
        yield signal.SIGPIPE not in mask
    finally:
        if not was_pending and signal.SIGPIPE in signal.sigpending():
            signal.sigwait(only)  # does not wait
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


class _LaunchedPopen(Popen):
    """Started by multiprocessing's own launcher (the next class in the MRO), then handed over to
    the extension."""

    pid = 0
    blocks_sigpipe = False

    def _launch(self, process: BaseProcess) -> None:
        # Not to be pickled with the Process object.
        process.__dict__.pop("_Popen", None)
        try:
            self._launch_blocked(process)
            self._worker.started(self.pid, self._status())
        except BaseException:
            self._undo_start()
            raise
        # The launcher's pipes: the extension has its own for all that they tell.
        self.sentinel = -1
        assert self.finalizer is not None
        self.finalizer()
        self.finalizer = util.Finalize(self, self._worker.close)

    def _launch_blocked(self, process: BaseProcess) -> None:
        self._prepare()
        # SIGINT stays blocked over exec until the child is in child.main(), as in a forked worker.
        # Here the mask keeps Ctrl-C from interrupting the launcher halfway.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            with _sigpipe_blocked() as self.blocks_sigpipe:
                super()._launch(process)  # type: ignore[misc]
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def _prepare(self) -> None:
        """Start helper processes that must not inherit a blocked SIGINT, or unblock SIGINT here."""
        with _sigpipe_blocked():  # writes to the tracker, which may have died
            resource_tracker.ensure_running()

    def _status(self) -> int:
        """The pipe that tells the exit code of a process that is no child of this one; or -1."""
        return -1

    def _undo_start(self) -> None:
        # The extension reaps a child that it has taken over. A child whose pid never arrived finds
        # its pipes closed, and exits.
        if self.pid != 0 and self._worker.pid == 0:
            self._kill()
        self.pid = 0
        self._worker.started(-1, -1)
        if self.finalizer is not None:
            self.finalizer()

    def _kill(self) -> None:
        try:
            # Still a child of ours? The program may have reaped it.
            os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        except ChildProcessError:
            pass


class SpawnPopen(_LaunchedPopen, popen_spawn_posix.Popen):
    """A worker that is a new Python process."""


class ForkServerPopen(_LaunchedPopen, popen_forkserver.Popen):
    """A worker that the fork server forks."""

    def _prepare(self) -> None:
        super()._prepare()
        forkserver.ensure_running()

    def _status(self) -> int:
        return self.sentinel

    def _kill(self) -> None:
        # After the server has reaped the process its pid may belong to another one.
        if not connection.wait([self.sentinel], 0):
            os.kill(self.pid, signal.SIGKILL)


POPENS: dict[str, type[Popen]] = {"spawn": SpawnPopen, "forkserver": ForkServerPopen}


def _reduce_worker(worker: Worker) -> tuple[Any, ...]:
    context.assert_spawning(worker)
    popen: Any = context.get_spawning_popen()
    *fds, budget = worker.ends()
    # A fork server's processes do not inherit our mask.
    unblocks = popen.blocks_sigpipe and popen.method == "spawn"
    return child.attach, ([reduction.DupFd(fd) for fd in fds], budget, unblocks)


reduction.ForkingPickler.register(_core.Worker, _reduce_worker)
