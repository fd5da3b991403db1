"""Tasks that do what no task should. Programs of the tests import the tasks by name."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import stat
import sys

from engine import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

    from gates import Gate


def ignore_sigterm_and_hold(gate: Gate) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    gate.hold()


# Descriptors


def open_descriptors() -> list[int]:
    """All descriptors except the standard ones. The worker's own descriptors are among them."""
    return [int(name) for name in os.listdir("/proc/self/fd") if int(name) > 2]


def close_all(value: Any) -> Any:
    os.closerange(3, max(open_descriptors()) + 1)
    return value


def replace_all(path: str, value: Any) -> Any:
    """Replace every descriptor by one of the file at path."""
    with open(path, "ab") as file:
        for fd in open_descriptors():
            if fd != file.fileno():
                os.dup2(file.fileno(), fd)
    return value


def write_to_all(value: Any) -> Any:
    for fd in open_descriptors():
        with contextlib.suppress(OSError):
            os.set_blocking(fd, False)
            os.write(fd, b"rubbish " * 100)
    return value


def read_from_all(value: Any) -> Any:
    for fd in open_descriptors():
        with contextlib.suppress(OSError):
            os.set_blocking(fd, False)
            os.read(fd, 100)
    return value


def write_into_its_tasks(value: Any) -> Any:
    """Write into the pipe from which the worker reads its tasks, through the other end."""
    for fd in open_descriptors():
        with contextlib.suppress(OSError):
            if not stat.S_ISFIFO(os.fstat(fd).st_mode):
                continue  # not cpool's: libffi keeps its own library open
            # Skip the pipe that tells the worker when the parent ends: the worker watches that one.
            if fcntl.fcntl(fd, fcntl.F_GETFL) & (os.O_ACCMODE | os.O_ASYNC) == os.O_RDONLY:
                end = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK)
                os.write(end, b"rubbish " * 100)
                os.close(end)
    return value


def make_nonblocking(value: Any) -> Any:
    for fd in open_descriptors():
        with contextlib.suppress(OSError):
            os.set_blocking(fd, False)
    return value


# Output


def print_to_closed_stdout() -> None:
    sys.stdout.close()
    print("hello")


def print_to_nowhere() -> None:
    """Print into a pipe without a reader. The error shows when the worker ends."""
    reading, writing = os.pipe()
    os.dup2(writing, 1)
    os.close(reading)
    os.close(writing)
    print("hello" * 10, end="")
