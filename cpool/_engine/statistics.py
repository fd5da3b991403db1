"""`pool.statistics()`: names and prints what the engine has counted."""

from __future__ import annotations

import pickletools
import sys
from dataclasses import dataclass

from .._base.stdlib import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from .. import _core

__all__ = ["LongTask", "PoolStatistics", "WorkerStatistics", "brief_of", "statistics_of"]

_OUTCOMES = {1: "done", 2: "failed", 3: "lost"}  # the core's enum cp_outcome


@dataclass(frozen=True)
class WorkerStatistics:
    """What the workers with one index have done: the live worker and those that it replaced.

    All counts are ints, from the start of the pool. A task is the unit that is sent to a worker: a
    chunk of items, or one call.
    """

    index: int
    """From 0; the same as `cpool.current_worker().index`."""
    pid: int | None
    """Process id of the live worker; None if there is none, and for threads."""
    restarts: int
    """How often the worker was replaced."""
    tasks: int
    """Tasks whose answers have arrived."""
    done: int
    """Items whose function call returned."""
    failed: int
    """Items whose function call raised. If one raises, all items of its chunk count."""
    lost: int
    """Items that failed because their worker died or was killed for time or memory."""
    retried: int
    """How often items were run again: an item that was run again twice counts twice."""
    work_seconds: float
    """Seconds spent on tasks, with decoding and encoding, including the task that runs now."""
    idle_seconds: float
    """Seconds without a task, since the worker was ready."""
    start_seconds: float
    """Seconds from the process's start until it was ready, with the initializer. Threads: 0."""
    bytes_sent: int
    """Bytes sent: tasks and functions, including large data in shared memory. Threads: 0."""
    bytes_received: int
    """Bytes received: results and exceptions, including data in shared memory. Threads: 0."""


@dataclass(frozen=True)
class LongTask:
    """One of the five tasks that took longest."""

    seconds: float
    function: str
    """The function's name, read from its pickle; "a function" if not found there."""
    item: int | None
    """The number of the task's first item in its call, from 0; None for `apply` and `submit`."""
    items: int
    """How many items the task has (an int)."""
    worker: int
    """The index of the worker."""
    outcome: str
    """"done", "failed" or "lost"."""

    def __str__(self) -> str:
        what = "a call"
        if self.item is not None:
            last = self.item + self.items - 1
            what = f"item {self.item}" if self.items == 1 else f"items {self.item} to {last}"
        where = f"{self.outcome} by worker {self.worker}"
        return f"{self.seconds:.3f} s: {what} of {self.function}, {where}"


@dataclass(frozen=True)
class PoolStatistics:
    """What a pool has done so far. `str()` of it is a table.

    `submitted` = `done` + `failed` + `lost` + `cancelled` + `pending`, in items. A call of `apply`
    or `submit` is one item. Items of calls that wait to be encoded, and items that were not pulled
    from their iterable yet, do not count as submitted.
    """

    kind: str
    """"processes" or "threads"."""
    submitted: int
    done: int
    failed: int
    """Including items and results that could not be pickled."""
    lost: int
    cancelled: int
    """Items of calls that were cancelled, failed early (`fail_fast`), or were cut by the pool's
    end."""
    pending: int
    """Items that wait or run."""
    retried: int
    workers: tuple[WorkerStatistics, ...]
    """By index; indexes that the pool no longer uses after `resize()` are included."""
    longest: tuple[LongTask, ...]
    """Longest first."""
    shared_memory: int
    """Bytes of shared memory that the pool takes now; 0 if it uses none, as pools of threads."""
    shared_memory_in_use: int
    """Bytes of it that hold arguments on their way or with a worker, results that this process has
    received and keeps, shared objects, large `initargs`, and what forked copies of these processes
    may keep. Results that a worker has not sent yet do not count. The rest is kept to be used
    again."""

    @property
    def tasks(self) -> int:
        """Tasks whose answers have arrived."""
        return sum(worker.tasks for worker in self.workers)

    @property
    def restarts(self) -> int:
        """How many workers were replaced."""
        return sum(worker.restarts for worker in self.workers)

    @property
    def work_seconds(self) -> float:
        """Seconds that all workers have spent on tasks."""
        return sum(worker.work_seconds for worker in self.workers)

    @property
    def idle_seconds(self) -> float:
        """Seconds that all workers were without a task."""
        return sum(worker.idle_seconds for worker in self.workers)

    @property
    def start_seconds(self) -> float:
        """Seconds that all workers took to start."""
        return sum(worker.start_seconds for worker in self.workers)

    @property
    def bytes_sent(self) -> int:
        """Bytes sent to all workers."""
        return sum(worker.bytes_sent for worker in self.workers)

    @property
    def bytes_received(self) -> int:
        """Bytes received from all workers."""
        return sum(worker.bytes_received for worker in self.workers)

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        yield (
            f"pool of {len(self.workers)} {self.kind}: {self.submitted} items submitted:"
            f" {self.done} done, {self.failed} failed, {self.lost} lost,"
            f" {self.cancelled} cancelled, {self.pending} pending; {self.retried} run again"
        )
        rows = [_HEAD, *map(_row, self.workers)]
        rows.append(("all", "", *_row(self)[2:]))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            yield "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        if self.shared_memory:
            in_use = _size(self.shared_memory_in_use)
            yield f"shared memory: {_size(self.shared_memory)}, of which {in_use} in use"
        if self.longest:
            yield "longest tasks:"
            for task in self.longest:
                yield f"  {task}"


_HEAD = (
    "worker pid tasks done failed lost again work_s idle_s start_s sent received restarts".split()
)


def _row(found: Any) -> tuple[str, ...]:
    return (
        str(getattr(found, "index", "")),
        str(getattr(found, "pid", None) or "-"),
        str(found.tasks),
        str(found.done),
        str(found.failed),
        str(found.lost),
        str(found.retried),
        f"{found.work_seconds:.3f}",
        f"{found.idle_seconds:.3f}",
        f"{found.start_seconds:.3f}",
        _size(found.bytes_sent),
        _size(found.bytes_received),
        str(found.restarts),
    )


def _size(n: float) -> str:
    for unit in "B", "KiB", "MiB", "GiB":
        if n < 1024:
            return f"{n:.0f} {unit}" if unit == "B" else f"{n:.1f} {unit}"
        n /= 1024
    return f"{n:.1f} TiB"


def statistics_of(engine: _core.Engine, threads: bool) -> PoolStatistics:
    """Read the counters of an engine."""
    submitted, cancelled, failed_here, of_workers, longest, row, memory, used = engine.tallies()
    workers = tuple(_worker(i, row) for i, row in enumerate(of_workers))
    # The last row is for workers that got no row of their own, for lack of memory.
    rest = _worker(len(workers), row)
    done = rest.done + sum(worker.done for worker in workers)
    failed = failed_here + rest.failed + sum(worker.failed for worker in workers)
    lost = rest.lost + sum(worker.lost for worker in workers)
    return PoolStatistics(
        kind="threads" if threads else "processes",
        submitted=submitted,
        done=done,
        failed=failed,
        lost=lost,
        cancelled=cancelled,
        pending=submitted - done - failed - lost - cancelled,
        retried=rest.retried + sum(worker.retried for worker in workers),
        workers=workers,
        longest=tuple(_long_task(row, threads) for row in longest),
        shared_memory=memory,
        shared_memory_in_use=used,
    )


def brief_of(pool: Any) -> tuple[int, int, int]:
    """How often workers of a pool were replaced; its shared memory, and that in use, in bytes."""
    *_, of_workers, _, _, memory, used = pool._engine.tallies()
    return sum(max(row[1] - 1, 0) for row in of_workers), memory, used


def _worker(index: int, row: tuple[int, ...]) -> WorkerStatistics:
    pid, starts, tasks, done, failed, lost, retried, sent, received, work, start, ready = row
    return WorkerStatistics(
        index=index,
        pid=pid or None,
        restarts=max(starts - 1, 0),
        tasks=tasks,
        done=done,
        failed=failed,
        lost=lost,
        retried=retried,
        work_seconds=work / 1e9,
        idle_seconds=max(ready - work, 0) / 1e9,
        start_seconds=start / 1e9,
        bytes_sent=sent,
        bytes_received=received,
    )


def _long_task(row: tuple[int, int, int, int, int, int, int, bytes], threads: bool) -> LongTask:
    ns, index, stride, items, worker, _, outcome, func = row
    return LongTask(
        seconds=ns / 1e9,
        function=func.decode(errors="replace") if threads else name_in(func),
        item=index * stride if stride else None,
        items=items,
        worker=worker,
        outcome=_OUTCOMES.get(outcome, "failed"),
    )


# ---- names of functions ----

# Globals that may come before the function itself in its pickle.
_WRAPPERS = frozenset(
    (
        ("functools", "partial"),
        ("multiprocessing.reduction", "_rebuild_partial"),
        ("cpool._base.failures", "Retrying"),
        ("cpool._base.by_value", "receive"),
        ("copyreg", "_reconstructor"),
        ("builtins", "object"),
        ("builtins", "getattr"),
    )
)


def name_in(data: bytes) -> str:
    """Find the name of a callable in the bytes that were sent, which may be truncated. Loads
    nothing. The name of a method that a `partial` binds may be one of its arguments, if that is a
    string which could be a name."""
    encoded = data[:1] and data[0] & _TAG_BITS
    return _name_in_encoding(data) if encoded else _name_in_pickle(data)


_TAG_BITS = 0x3F  # of the first byte; a pickle has none of them
# How the strings with the tags from TAG_ASCII on are encoded, and the bytes of a character.
_TEXTS = (
    ("ascii", 1),
    ("latin-1", 1),
    (f"utf-16-{sys.byteorder[0]}e", 2),
    (f"utf-32-{sys.byteorder[0]}e", 4),
)


def _name_in_encoding(data: bytes) -> str:
    """The first name in a body, as csrc/py/value/tags.h describes it; of a method with the last
    string. Only looks for names and strings, and skips everything else byte by byte."""
    from .._core import TAG_ASCII, TAG_NAME  # not there where the pools are the stdlib's

    found: list[str] = []
    is_method = False
    last = ""
    at = 0
    while at < len(data):
        tag = data[at] & _TAG_BITS if at == 0 else data[at]
        if tag == TAG_NAME:
            module, end = _text_at(data, at + 1, TAG_ASCII)
            name, end = _text_at(data, end, TAG_ASCII)
            if module and name:
                is_method = is_method or (module, name) == ("builtins", "getattr")
                if (module, name) not in _WRAPPERS:
                    found.append(_join(module, name))
                at = end
                continue
        text, end = _text_at(data, at, TAG_ASCII)
        if text.isidentifier():
            last, at = text, end
        else:
            at += 1
    if is_method and found and last:
        return f"{found[0]}.{last}"
    return found[0] if found else "a function"


def _text_at(data: bytes, at: int, first_tag: int) -> tuple[str, int]:
    """The short string at this place, and where it ends; "" if there is none."""
    kind = data[at] - first_tag if 0 <= at < len(data) - 1 else -1
    if not 0 <= kind < len(_TEXTS):
        return "", -1
    encoding, size = _TEXTS[kind]
    end = at + 2 + data[at + 1] * size
    try:
        return (data[at + 2 : end].decode(encoding), end) if end <= len(data) else ("", -1)
    except UnicodeDecodeError:
        return "", -1


def _name_in_pickle(data: bytes) -> str:
    """Find the name of a callable in its pickle."""
    strings: list[str] = []  # all strings so far
    found: list[str] = []
    by_value: dict[str, str] = {}
    is_method = False
    try:
        for opcode, arg, _ in pickletools.genops(data):
            if isinstance(arg, str) and "UNICODE" in opcode.name:
                if strings and strings[-1] in ("__qualname__", "__module__", "__name__"):
                    by_value.setdefault(strings[-1], arg)
                strings.append(arg)
            elif opcode.name == "STACK_GLOBAL" and len(strings) > 1:
                pair = strings[-2], strings[-1]
                is_method = is_method or pair == ("builtins", "getattr")
                if pair not in _WRAPPERS and not pair[0].startswith("cloudpickle"):
                    found.append(_join(*pair))
    except Exception:  # it is truncated, or not a pickle
        pass
    name = by_value.get("__qualname__") or by_value.get("__name__")
    if name:
        return _join(by_value.get("__module__", "__main__"), name)
    if is_method and found and strings:
        return f"{found[0]}.{strings[-1]}"
    return found[0] if found else "a function"


def _join(module: str, name: str) -> str:
    return name if module in ("__main__", "__mp_main__", "builtins") else f"{module}.{name}"
