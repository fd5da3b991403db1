"""Where each thread of a process is, for tests that found a hang.

`stacks()` asks gdb where there is one; without it, the kernel's files tell the state, the system
call and the signals that wait. A worker before its hello has most signals blocked, so that only
these two can tell where it stands.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from typing import Any

_FIELDS = "State", "Threads", "SigPnd", "ShdPnd", "SigBlk"
# The locks of AddressSanitizer: those of its allocator are not released in a forked copy.
_LOCKS = re.compile(
    r"__sanitizer::(FutexWait|Semaphore::Wait|Mutex::|StaticSpinMutex|BlockingMutex)"
)


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read().strip()
    except OSError as error:
        return f"({error.strerror})"


def state(pid: int) -> str:
    """What the kernel says of a process and each of its threads, in a few lines."""
    status = dict(
        line.split(":\t", 1) for line in _read(f"/proc/{pid}/status").splitlines() if ":\t" in line
    )
    lines = [", ".join(f"{name} {status[name]}" for name in _FIELDS if name in status)]
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            folder = f"/proc/{pid}/task/{thread}"
            call = _read(f"{folder}/syscall").split(" ")[0]
            waits_in = _read(f"{folder}/wchan")
            lines.append(f"thread {thread}: system call {call}, waits in {waits_in}")
    return "\n".join(lines)


def stacks(pid: int) -> str:
    """The C stacks of all threads, or "" without gdb."""
    gdb = shutil.which("gdb")
    if gdb is None:
        return ""
    env = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    command = [gdb, "-p", str(pid), "-batch", "-nx", "-ex", "thread apply all backtrace 40"]
    # Not through a pipe: this very process may be the one that gdb has stopped.
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as output:
        streams = {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": subprocess.STDOUT}
        try:
            subprocess.run(command, env=env, timeout=60, **streams)  # type: ignore[call-overload]
        except subprocess.TimeoutExpired:
            return "(gdb was not through in time)"
        output.seek(0)
        lines = output.read().splitlines()
    return "\n".join(line for line in lines if line.startswith(("#", "Thread ", "  ")))


def waits_for_allocator(stack: str) -> bool:
    """Does a thread wait for a lock of the sanitizer's allocator?"""
    return any(
        _LOCKS.search(line)
        for line in stack.splitlines()
        if line.startswith(("#0 ", "#1 ", "#2 ", "#3 "))
    )


def workers(pool: Any, greeted: Iterable[int]) -> Iterator[str]:
    """A paragraph for each worker process; greeted: those that have run their initializer."""
    known = set(greeted)
    for worker in list(pool._pool):
        pid = worker.pid
        stack = stacks(pid)
        hello = "has run its initializer" if pid in known else "BEFORE ITS HELLO"
        verdict = ""
        if waits_for_allocator(stack):
            verdict = (
                "\nIT WAITS FOR A LOCK OF THE SANITIZER, held by a thread that it does not have."
            )
        yield (
            f"worker {pid}: {hello}, exit code {worker.exitcode}, leaving"
            f" {worker._popen.is_leaving}{verdict}\n{state(pid)}\n{stack}"
        )
