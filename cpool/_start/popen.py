"""Popen classes of a pool's Process objects, in place of multiprocessing's own."""

from __future__ import annotations

import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from multiprocessing import popen_fork, util
from multiprocessing import process as _process
from multiprocessing.process import BaseProcess
from time import monotonic, sleep

from .. import _core
from .._base import failures
from .._base.stdlib import TYPE_CHECKING
from . import child

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from .._core import Worker
    from .surroundings import Surroundings


@contextmanager
def _announced(intent: Any) -> Iterator[None]:
    intent.preserve_fd = True
    try:
        yield
    finally:
        intent.preserve_fd = False


def _fork_intent() -> Any:
    tracker = sys.modules.get("multiprocessing.resource_tracker")
    return getattr(tracker, "_fork_intent", None)


def _keeping_the_tracker(intent: Any) -> AbstractContextManager[None]:
    """Announce the fork to the resource tracker, if the program imported it.

    gh-146313: from 3.13.14 and 3.14.5 on the child keeps the parent's tracker only if
    multiprocessing announces the fork.
    """
    return nullcontext() if intent is None else _announced(intent)


@contextmanager
def forks(around: Surroundings) -> Iterator[child.Fork]:
    """Within, workers can be forked with the value that this yields.

    Their sys.stdin is a stream without input, as multiprocessing opens it in each. The children
    have copies of its descriptor; this process closes its own.
    """
    try:
        fd = os.open(os.devnull, os.O_RDONLY) if child.opens_stdin_as_usual() else -1
    except OSError:  # multiprocessing will try it
        fd = -1
    try:
        no_input = open(fd, encoding="utf-8", closefd=False) if fd >= 0 else None  # noqa: SIM115
        yield child.Fork(around, _fork_intent(), no_input)
    finally:
        if fd >= 0:
            os.close(fd)


def flush() -> tuple[Any, ...]:
    """Flush stdout and stderr before a start, as multiprocessing does, but wait for no reader.

    Returns the streams that were not flushed, of which a forked child must not use its copies. A
    thread may still begin to write between the look and the flush: then the start waits for it.
    """
    left: tuple[Any, ...] = ()
    for name in ("stdout", "stderr"):
        try:
            stream = getattr(sys, name)
            if child.takes_output(stream):
                stream.flush()
            else:
                left += (stream,)
        except (AttributeError, ValueError):  # there is none, or it is closed
            pass
    return left


_hooks = threading.RLock()

# Importing concurrent.futures takes milliseconds, unless it waits for code of the program.
_IMPORT_S = 0.1


@contextmanager
def hooks_stay(wait: float) -> Iterator[None]:
    """Keeps forks of workers and the registration of fork hooks from overlapping.

    If hooks were registered during a fork on another thread, the after-fork hook would run without
    its before-fork hook: logging would release a lock that it does not hold. Waits at most `wait`
    seconds for the other side, which code of the program may hold up.
    """
    has_it = _hooks.acquire(timeout=wait)
    try:
        yield
    finally:
        if has_it:
            _hooks.release()


class Popen(popen_fork.Popen):
    """A worker process. The extension watches and reaps the process."""

    def __init__(self, process: BaseProcess, worker: Worker) -> None:
        self._worker = worker
        super().__init__(process)

    sentinel = -1  # Process.start() copies this; see _LazySentinel

    def open_sentinel(self) -> int:
        """A descriptor that becomes readable when the process has ended."""
        return self._worker.sentinel

    @property
    def index(self) -> int:
        return self._worker.index

    @property
    def is_leaving(self) -> bool:
        """Has the worker run its last task, but not exited yet?"""
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
        # The extension knows whether the pid still belongs to this process.
        if self.returncode is None:
            self._worker.kill(sig)

    def interrupt(self) -> None:
        self._send_signal(signal.SIGINT)


class ForkPopen(Popen):
    """A worker that the extension forks."""

    def __init__(self, process: BaseProcess, worker: Worker, around: Surroundings) -> None:
        # Without multiprocessing's __init__(), which flushes: if fork_ahead() has forked the
        # worker, nothing may fail.
        self._worker = worker
        self._around = around
        self.returncode = None
        self._launch(process)

    def _launch(self, process: BaseProcess) -> None:
        if self._worker.pid == 0:
            with forks(self._around) as fork:
                fork.unflushed = flush()
                with _keeping_the_tracker(fork.intent), hooks_stay(_IMPORT_S):
                    pid = self._worker.fork()
                if pid == 0:
                    child.run_forked(process, self._worker, fork)
        self.pid = self._worker.pid
        self.finalizer = util.Finalize(self, self._worker.close)


_START = BaseProcess.start

# How long a thread that is not the main thread forks with the GIL, and how long it then sleeps, so
# that a thread that waits for the GIL gets it.
_HOLD_S = 2e-3
_GIVE_WAY_S = 50e-6


def _starts_as_usual(process: BaseProcess) -> bool:
    """Does the start of this Process object only fork?

    A class of the program may do more first, and so may a tool that replaces start() for all.
    """
    return (
        getattr(process.start, "__func__", None) is _START
        and getattr(_START, "__globals__", None) is vars(_process)
        and not _process.current_process()._config.get("daemon")  # type: ignore[attr-defined]
    )


def fork_ahead(
    processes: list[BaseProcess], workers: list[Worker], fork: child.Fork, waits: bool
) -> tuple[int, BaseException | None]:
    """Fork workers one right after the other, before their Process objects are started.

    `Process.start()` then finds a process that runs. Each page that the parent writes to between
    two forks is copied once more, and Python code that starts a process writes to some 130 pages.
    Returns how many were forked, and the exception that ended it, or None. Forks none if a start
    has to do more than to fork. `waits`: the caller has flushed stdout and stderr, as
    multiprocessing does; between the forks wait for readers, too, and so write to fewer pages.

    This thread has the GIL all the time. So unless it is the main thread, it sleeps for a moment
    after a fork or a few: another thread, such as that of an event loop, has not to wait for all.
    """
    if not all(map(_starts_as_usual, processes)):
        return 0, None

    def flush_ready() -> None:
        fork.unflushed = flush()

    flush_between = util._flush_std_streams if waits else flush_ready  # type: ignore[attr-defined]
    if not waits:
        flush_ready()

    begun = monotonic()

    def give_way() -> None:
        nonlocal begun
        if monotonic() - begun >= _HOLD_S:
            sleep(_GIVE_WAY_S)
            begun = monotonic()
        flush_between()

    is_main = threading.get_ident() == threading.main_thread().ident
    between = flush_between if is_main else give_way
    with _keeping_the_tracker(fork.intent), hooks_stay(_IMPORT_S):
        return _core._fork_all(tuple(workers), tuple(processes), child.run_forked, fork, between)


class _LazySentinel:
    """`_sentinel` of all Process objects; opens the sentinel of a pool's worker when it is read.

    `Process.start()` sets the attribute, which `Process.sentinel` returns. Hundreds of workers
    might run out of descriptors if each had one, and hardly any program reads it.
    """

    def __get__(self, process: BaseProcess | None, owner: object = None) -> Any:
        if process is None:
            return self
        try:
            fd = process.__dict__["_sentinel"]
        except KeyError:
            raise AttributeError("_sentinel") from None
        popen = process._popen  # type: ignore[attr-defined]
        return popen.open_sentinel() if isinstance(popen, Popen) else fd

    def __set__(self, process: BaseProcess, fd: int) -> None:
        process.__dict__["_sentinel"] = fd

    def __delete__(self, process: BaseProcess) -> None:
        try:
            del process.__dict__["_sentinel"]
        except KeyError:
            raise AttributeError("_sentinel") from None


BaseProcess._sentinel = _LazySentinel()  # type: ignore[attr-defined]


def _forget_workers() -> None:
    """In a child that other code forked, which has copies of this process's pools: forget their
    workers."""
    _hooks._at_fork_reinit()  # type: ignore[attr-defined]
    # Otherwise multiprocessing would terminate and join them when this process exits.
    children = _process._children  # type: ignore[attr-defined]
    children.difference_update([c for c in children if isinstance(c._popen, Popen)])


failures.forget_workers = _forget_workers
os.register_at_fork(after_in_child=_core._after_fork_in_child)


@contextmanager
def started_together() -> Iterator[Callable[[BaseProcess], None]]:
    """Yields a function that starts a process without polling the processes started before.

    `Process.start()` polls all children, and polling writes to pages that a fork shares, which
    copies them. `active_children()` includes the new processes only after the block ends.
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


_FORK_WARNING = (
    "This process (pid={}) is multi-threaded, use of fork() may lead to deadlocks in the child."
)


def warn_of_threads(own: int) -> None:
    """After a fork, from 3.12 on: warn about other threads, as os.fork() does in multiprocessing.

    Counted after the fork, since libraries such as OpenBLAS end their threads in fork handlers.
    `own` is the number of this pool's threads. If warnings are errors, this raises from 3.15 on;
    before that it drops the error, as os.fork() does.
    """
    if sys.version_info < (3, 12) or _count_threads() - own <= 1:
        return
    with suppress(*(() if sys.version_info >= (3, 15) else (Warning,))):
        warnings.warn_explicit(
            _FORK_WARNING.format(os.getpid()),
            DeprecationWarning,
            popen_fork.__file__,
            _line_of_fork(),
            popen_fork.__name__,
            vars(popen_fork).setdefault("__warningregistry__", {}),
        )


def _count_threads() -> int:
    """The kernel's number, which includes threads of libraries; if unknown, Python's number."""
    try:
        with open("/proc/self/stat", encoding="utf-8", errors="replace") as file:
            return int(file.read().rpartition(")")[2].split()[17])
    except (OSError, ValueError, IndexError):
        return threading.active_count()


def _line_of_fork() -> int:
    import linecache

    lines = linecache.getlines(popen_fork.__file__)
    numbers = [number for number, line in enumerate(lines, 1) if "os.fork()" in line]
    return numbers[0] if numbers else 1
