"""`pool.dump()`: prints what each worker is doing, with its stack."""

from __future__ import annotations

import os
import sys
import time
import traceback

from .._base import failures
from .._base.stdlib import TYPE_CHECKING
from .statistics import name_in

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

_PATIENCE_S = 0.5
_STATES = {
    "T": "is stopped",
    "t": "is stopped by a debugger",
    "D": "waits in the kernel and cannot be interrupted",
    "Z": "has ended",
}
_FOLDER = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep


def dump_pool(pool: Any, file: Any) -> None:
    """Write the dump in one write, so that other output does not come between its lines."""
    lines = _of_threads(pool) if pool._has_threads else _of_processes(pool)
    pending, queued, _, _ = pool._engine.counts()
    kind = "threads" if pool._has_threads else "processes"
    which = "serial pool" if pool._serial else f"pool of {pool._processes} {kind}"
    head = f"cpool: {which}, {_count(pending, 'call')} under way,"
    text = "\n".join([f"{head} {_count(queued, 'task')} queued", *lines])
    _write(file, text + "\n")


def _write(file: Any, text: str) -> None:
    try:
        file.write(text)
        if hasattr(file, "flush"):
            file.flush()
    except RuntimeError:  # called by a signal handler that interrupted a write to the same file
        os.write(file.fileno(), text.encode(errors="backslashreplace"))


def _count(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def _state_of(pid: int) -> str:
    """The kernel's letter for the state of a process; "" if it cannot be read."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0].decode()
    except (OSError, IndexError):
        return ""


# ---- processes ----


def _of_processes(pool: Any) -> Iterator[str]:
    engine = pool._engine
    states = {sight[1]: _state_of(sight[1]) for sight in engine.sights()}
    engine.ask_stacks()
    end = time.monotonic() + _PATIENCE_S
    while True:
        sights = engine.sights()
        waiting = [sight for sight in sights if _is_awaited(sight, states.get(sight[1], ""))]
        if not waiting or time.monotonic() >= end:
            break
        time.sleep(0.001)
    for sight in sights:
        yield from _of_process(sight, states.get(sight[1], ""))


def _is_awaited(sight: Any, before: str) -> bool:
    """Wait for this worker's stack? Not for that of a worker that is idle or has ended.

    A worker that was stopped before stops itself again, also if it is continued once more before
    it has done so. So the dump ends after that, and a program may continue the worker then.
    """
    _, pid, ready, exiting, runs, *_, stack = sight
    if exiting or (ready and not runs):
        return False
    if stack is None:
        return _state_of(pid) not in "Zt"
    return before == "T" and _state_of(pid) not in "TtZ"


def _of_process(sight: Any, state: str) -> Iterator[str]:
    index, pid, ready, exiting, runs, task, stride, items, item, ns, func, told = sight
    if exiting:
        does = "exits"
    elif runs:
        does = f"{_what(task, stride, items, item, name_in(func))}, for {ns / 1e9:.3f} s"
    else:
        does = "waits for tasks" if ready else "starts"
    known = _STATES.get(state)
    yield f"worker {index} (pid {pid}) {does}{'; it ' + known if known else ''}"
    if not runs and ready:
        return
    stack = failures.stack_of_task(told or b"")
    if stack:
        yield stack
    elif not told and not exiting:  # an empty stack: the function is in C
        yield "  (it did not report its stack in time)"


def _what(task: int, stride: int, items: int, item: int, name: str) -> str:
    if stride == 0:
        return f"runs a call of {name}"
    first = task * stride
    chunk = f" (of items {first} to {first + items - 1})" if items > 1 else ""
    return f"runs item {first + item}{chunk} of {name}"


# ---- threads ----


def _of_threads(pool: Any) -> Iterator[str]:
    frames = sys._current_frames()
    for index, ident, ns in sorted(pool._engine.busy_threads()):
        if ns < 0:
            yield f"worker {index} (thread {ident}) waits for tasks"
            continue
        yield f"worker {index} (thread {ident}) runs a task, for {ns / 1e9:.3f} s"
        frame = frames.get(ident)
        for entry in reversed(traceback.extract_stack(frame)) if frame is not None else ():
            if entry.filename.startswith(_FOLDER):
                break
            yield f'  File "{entry.filename}", line {entry.lineno} in {entry.name}'
