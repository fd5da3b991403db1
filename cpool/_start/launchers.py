"""Workers by spawn and forkserver. Imported only for pools that have such workers."""

from __future__ import annotations

import os
import signal
import sys
import threading
from contextlib import contextmanager, nullcontext
from multiprocessing import (
    connection,
    context,
    forkserver,
    popen_fork,
    popen_forkserver,
    popen_spawn_posix,
    reduction,
    resource_tracker,
    spawn,
)
from multiprocessing import util as _typed_util
from multiprocessing.process import BaseProcess

from .. import _core
from .._base.stdlib import TYPE_CHECKING
from ..errors import PoolError
from . import child
from .popen import Popen, flush

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from .._core import Worker

util: Any = _typed_util


@contextmanager
def _sigpipe_blocked() -> Iterator[bool]:
    """Within, writing to a dead process raises no SIGPIPE. Yields whether this blocked the signal.

    Nothing to do if SIGPIPE is ignored, which is Python's default.
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
            signal.sigwait(only)  # removes the pending signal; does not wait
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


class _LaunchedPopen(Popen):
    """A worker that multiprocessing's own launcher (the next class in the MRO) starts, and that the
    extension then takes over."""

    pid = 0

    def __init__(
        self,
        process: BaseProcess,
        worker: Worker,
        is_first: bool,
        place: child.Place,
        environment: dict[str, str | None] | None,
        imports_main: bool,
    ) -> None:
        self._is_first = is_first
        self._place = place
        self._environment = environment
        self._imports_main = imports_main
        super().__init__(process, worker)

    def _launch(self, process: BaseProcess) -> None:
        # Must not be pickled with the Process object.
        process.__dict__.pop("_Popen", None)
        try:
            self._launch_blocked(process)
            self._worker.started(self.pid, self._status())
        except BaseException:
            self._undo_start()
            raise
        # Close the launcher's pipes: the extension has its own.
        self.sentinel = -1
        assert self.finalizer is not None
        self.finalizer()
        self.finalizer = util.Finalize(self, self._worker.close)

    def _launch_blocked(self, process: BaseProcess) -> None:
        # First of all: a worker whose main module lacks the guard must not start a fork server.
        spawn._check_not_importing_main()  # type: ignore[attr-defined]
        self._prepare()
        # In the child SIGINT stays blocked across exec until child.main(), as in a forked worker.
        # In this process the mask keeps Ctrl-C from interrupting the launcher halfway.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        _launch.worker, _launch.is_first = self._worker, self._is_first
        _launch.place, _launch.imports_main = self._place, self._imports_main
        _launch.environment, _launch.is_whole = self._environment_of_worker()
        try:
            with _sigpipe_blocked() as _launch.blocks_sigpipe:
                super()._launch(process)  # type: ignore[misc]
        finally:
            _launch.worker, _launch.is_sent, _launch.environment = None, False, None
            _launch.imports_main = True
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def _prepare(self) -> None:
        """Start helper processes that must not inherit a blocked SIGINT, or that unblock it
        here."""
        with _sigpipe_blocked():  # writes to the tracker, which may have died
            resource_tracker.ensure_running()

    def _environment_of_worker(self) -> tuple[dict[str, str | None], bool]:
        """The variables that the worker sets; True: they are its whole environment."""
        return self._environment or {}, False

    def _status(self) -> int:
        """The pipe with the exit code of a process that is not a child of this one; or -1."""
        return -1

    def _undo_start(self) -> None:
        # The extension reaps a child that it has taken over. A child whose pid never arrived here
        # exits, since its pipes are closed.
        if self.pid != 0 and self._worker.pid == 0:
            self._kill()
        self.pid = 0
        self._worker.started(-1, -1)
        if self.finalizer is not None:
            self.finalizer()

    def _kill(self) -> None:
        try:
            # Is it still our child? The program may have reaped it.
            os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        except ChildProcessError:
            pass


class _Start(popen_fork.Popen):
    """Replaces the `__init__()` of multiprocessing's base class, and waits for no reader of stdout
    and stderr. Stands between the launcher and the base class in the MRO."""

    def __init__(self, process: BaseProcess) -> None:
        flush()
        self.returncode = None
        self.finalizer = None
        self._launch(process)  # type: ignore[attr-defined]


class SpawnPopen(_LaunchedPopen, popen_spawn_posix.Popen, _Start):
    """A worker that is a new Python process."""


class ForkServerPopen(_LaunchedPopen, popen_forkserver.Popen, _Start):
    """A worker that the fork server forks."""

    def _prepare(self) -> None:
        super()._prepare()
        has_environment = self._environment is not None
        with (
            _watched() if _PRELOADS_MAIN else nullcontext(),
            _without_main() if has_environment else nullcontext(),
        ):
            forkserver.ensure_running()

    def _launch_blocked(self, process: BaseProcess) -> None:
        try:
            super()._launch_blocked(process)
        except (EOFError, ConnectionError) as exc:
            if self._is_first:
                raise PoolError(_SERVER_ENDED) from exc
            exc.add_note(f"cpool: {_SERVER_ENDED}")
            raise

    def _environment_of_worker(self) -> tuple[dict[str, str | None], bool]:
        # The server has the environment of the time when it was started.
        return {**os.environ, **(self._environment or {})}, True

    def _status(self) -> int:
        return self.sentinel

    def _kill(self) -> None:
        # After the server has reaped the process its pid may belong to another one.
        if not connection.wait([self.sentinel], 0):
            os.kill(self.pid, signal.SIGKILL)


_SERVER_ENDED = (
    "the fork server ended, perhaps because it could not import the main module; then stderr shows "
    "why (see `if __name__ == '__main__'` in multiprocessing's documentation)"
)

# The default of set_forkserver_preload() has always been ["__main__"]; these versions obey.
_PRELOADS_MAIN = (3, 13, 8) <= sys.version_info < (3, 14) or sys.version_info >= (3, 14, 1)

_WATCH = (
    "import sys; sys.path.append({!r}); from cpool._start import guard; guard.watch_the_server(); "
    "sys.path.pop(); "
)


@contextmanager
def _watched() -> Iterator[None]:
    """A fork server that is started within this block does not start the program's server again."""
    own = util.spawnv_passfds
    folder = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

    def spawn_watched(path: Any, args: list[Any], passfds: Any) -> int:
        if os.fsdecode(path) == sys.executable:  # another interpreter may lack cpool
            watch = _WATCH.format(folder)
            args = [
                watch + arg if "multiprocessing.forkserver" in str(arg) else arg for arg in args
            ]
        pid: int = own(path, args, passfds)
        return pid

    util.spawnv_passfds = spawn_watched
    try:
        yield
    finally:
        if util.spawnv_passfds is spawn_watched:
            util.spawnv_passfds = own


@contextmanager
def _without_main() -> Iterator[None]:
    """A fork server that this thread starts within this block does not import the main module.

    Otherwise the module, and what it imports, would not see the variables of `env=`, which are set
    in the workers. Leaves the server's list of modules alone, which belongs to the program: the
    server imports the main module only if it is told its path (`_preparation_data`).
    """
    _launch.imports_main = False
    try:
        yield
    finally:
        _launch.imports_main = True


POPENS: dict[str, type[_LaunchedPopen]] = {"spawn": SpawnPopen, "forkserver": ForkServerPopen}


class _Launch(threading.local):
    """The state of the launch that this thread is doing."""

    worker: Worker | None = None
    is_first = False
    place: child.Place = (None, None)
    environment: dict[str, str | None] | None = None
    is_whole = False
    blocks_sigpipe = False
    imports_main = True
    is_sent = False  # the Worker was sent ahead of the Process object


_launch = _Launch()

# A new process runs this before it imports the main module. It sets the environment before it
# imports anything, and sys.path before it imports cpool, which may be on that path only.
_ATTACH = """
import os, sys
for name in set(os.environ).difference(environment) if is_whole else ():
    del os.environ[name]
for name, value in environment.items():
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value
sys.path[:] = path
from cpool._start import child
child.attach(*ends)
child.settle(*place)
child.report_failed_starts(is_first)
"""


class _WorkerAhead:
    """Sends the Worker to a new process before the main module is imported, which may fail."""

    def __init__(self, worker: Worker, path: list[str]) -> None:
        self.worker = worker
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        names = {
            "ends": _ends(self.worker),
            "path": self.path,
            "is_first": _launch.is_first,
            "place": _launch.place,
            "environment": _launch.environment or {},
            "is_whole": _launch.is_whole,
        }
        _launch.is_sent = True
        return exec, (_ATTACH, names)


def _preparation_data(name: str) -> dict[str, Any]:
    data: dict[str, Any] = _get_preparation_data(name)
    if _launch.worker is not None and "sys_path" in data:
        data["cpool"] = _WorkerAhead(_launch.worker, data["sys_path"])
    if not _launch.imports_main:
        data.pop("init_main_from_name", None)
        data.pop("init_main_from_path", None)
    return data


_get_preparation_data = spawn.get_preparation_data
spawn.get_preparation_data = _preparation_data


def _ends(worker: Worker) -> tuple[list[Any], int, int, bool]:
    """The arguments of `child.attach()`."""
    context.assert_spawning(worker)
    popen: Any = context.get_spawning_popen()
    *fds, area, budget = worker.ends()
    # Children of the fork server do not inherit our signal mask.
    unblocks = _launch.blocks_sigpipe and popen.method == "spawn"
    return [reduction.DupFd(fd) for fd in fds if fd >= 0], area, budget, unblocks


def _reduce_worker(worker: Worker) -> tuple[Any, ...]:
    if _launch.is_sent:
        return child.take, ()
    return child.attach_and_take, _ends(worker)


reduction.ForkingPickler.register(_core.Worker, _reduce_worker)
