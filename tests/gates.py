"""Synchronisation between a test and its tasks, by named pipes that any process can use."""

from __future__ import annotations

import operator
import os
import select
import struct
import time
from collections.abc import Callable, Iterable
from functools import partial

from engine import DEADLINE, TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

_PID = struct.Struct("i")


def _open(path: str) -> int:
    # Open for reading and writing, so that open() does not wait for the other side.
    return os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)


def _await(fd: int, end: float, what: str) -> None:
    """Wait until the descriptor is readable, or fail at the time end."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    if not poll.poll(max(0.0, end - time.monotonic()) * 1000):
        raise TimeoutError(what)


def _read(fd: int, size: int, what: str) -> bytes:
    """Read size bytes that one write() wrote, or fail at the deadline."""
    end = time.monotonic() + DEADLINE
    while True:
        _await(fd, end, what)
        try:
            return os.read(fd, size)
        except BlockingIOError:
            continue  # another process was quicker


class Gate:
    """Tasks report their arrival, and wait until the test opens the gate.

    The test's own copy holds both pipes open, so that their content outlives any task.
    """

    def __init__(self, folder: Path | str) -> None:
        self.arrivals = os.path.join(folder, "arrivals")
        self.opening = os.path.join(folder, "opening")
        os.mkfifo(self.arrivals)
        os.mkfifo(self.opening)
        self._fds = [_open(self.arrivals), _open(self.opening)]

    def __reduce__(self) -> tuple[Any, ...]:
        return _task_side, (self.arrivals, self.opening)

    # In a task.

    def enter(self, *then: Callable[[], object]) -> None:
        """Report the arrival, then call these, with no bytecode in between."""
        fd = _open(self.arrivals)
        try:
            report = partial(os.write, fd, _PID.pack(os.getpid()))
            list(map(operator.call, [report, *then]))
        finally:
            os.close(fd)

    def wait(self) -> None:
        fd = _open(self.opening)
        try:
            self._await_opening(fd)
        finally:
            os.close(fd)

    def hold(self, value: Any = None) -> Any:
        # Opened before the report, after which the test may end: what a pipe holds is lost once
        # everybody has closed it.
        fd = _open(self.opening)
        try:
            self.enter()
            self._await_opening(fd)
        finally:
            os.close(fd)
        return value

    @staticmethod
    def _await_opening(fd: int) -> None:
        # Poll and do not read: a task that died after the read would leave the gate closed.
        _await(fd, time.monotonic() + DEADLINE, "the gate was never opened")

    # In the test.

    def arrived(self, count: int = 1) -> list[int]:
        """Wait until count tasks have arrived; the ids of their processes."""
        what = f"fewer than {count} tasks came to the gate"
        return [_PID.unpack(_read(self._fds[0], _PID.size, what))[0] for _ in range(count)]

    def open(self) -> None:
        os.write(self._fds[1], b"!")

    def close(self) -> None:
        for fd in self._fds:
            os.close(fd)
        self._fds.clear()


def _task_side(arrivals: str, opening: str) -> Gate:
    gate = Gate.__new__(Gate)
    gate.arrivals, gate.opening, gate._fds = arrivals, opening, []
    return gate


class Diary:
    """A file to which any process appends lines, in the order of events."""

    def __init__(self, path: Path | str) -> None:
        self.path = os.fspath(path)

    def write(self, line: object) -> None:
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(f"{line}\n")

    def lines(self) -> list[str]:
        try:
            with open(self.path, encoding="utf-8") as file:
                return file.read().splitlines()
        except FileNotFoundError:
            return []


def eventually(condition: Callable[[], Any], what: str = "it never became true") -> Any:
    """Poll a condition that sends no message (such as the end of a process); return its value."""
    end = time.monotonic() + DEADLINE
    while not (value := condition()):
        if time.monotonic() > end:
            raise AssertionError(what)
        time.sleep(0.002)
    return value


def all_gone(pids: Iterable[int]) -> None:
    """Wait until the processes have ended."""
    for pid in pids:
        eventually(partial(gone, pid), f"process {pid} lives on")


def kill_all(pool: Any) -> None:
    """Kill the workers of a pool, and wait until they have ended."""
    workers = list(pool._pool)
    for worker in workers:
        worker.kill()
    eventually(lambda: not any(worker.is_alive() for worker in workers), "a worker lives on")


def gone(pid: int) -> bool:
    """Whether a process has ended. A zombie has ended as well."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            return file.read().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True
