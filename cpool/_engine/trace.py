"""`cpool.trace()`: a timeline of what the pools of this process do, in Chrome's trace format."""

from __future__ import annotations

import contextlib
import json
import os
import time

from .._base.stdlib import TYPE_CHECKING
from . import known
from .statistics import name_in

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, Self, TextIO

# enum cp_outcome, enum cp_reason and enum cp_span_kind of the extension.
_OK, _LOST = 1, 3
_OUTCOMES = {1: "done", 2: "failed", 3: "lost"}
_REASONS = {0: "its worker died", 1: "it ran out of time", 2: "it took too much memory"}
_START, _END = 64, 65
_NO_NAME = 0xFFFF
# enum cp_work: the name of a slice of the parent, and the names of its time and its count.
_WORK = (
    ("making tasks", "making_us", "made"),
    ("reading results", "reading_us", "read"),
    ("callbacks", "callbacks_us", "called"),
)
# The parent's lanes have the lowest tids, since Perfetto sorts by them, and chrome://tracing by
# thread_sort_index. A tid that is the pid, the number of the pool, would be its "main thread".
_FIRST_TID = 1000

# The running trace, by pid: a fork of the process may have its own. Uses atomic operations of the
# dict and no lock, since a lock that is taken while memory is out may stay locked forever.
_on: dict[int, object] = {}


class trace:  # lower case: used like a function
    """Write a timeline of what the pools of this process do, to the file at `path`.

    `path` is a str or a path-like object. Use it as a context manager, or call `start()` and
    `stop()`; the file is complete after the block or after `stop()`. The file is JSON in Chrome's
    trace format: open it at https://ui.perfetto.dev or in chrome://tracing. It has a lane for each
    worker of each pool, also of each `ThreadPool` and of pools that are made within the block. A
    slice is a task that ended during the trace, with the name of its function, its items, its
    outcome, its process and the time that it was queued; many short tasks of one function in a row
    are one slice, with their number. Starts and ends of worker processes are shown too. Above the
    workers, each thread of this process that worked for the pool has a lane: making tasks (pulling
    and pickling items), reading results (unpickling them), and callbacks. Pools that are made
    inside tasks are not traced.

    Entering the block and `start()` raise `OSError` if the file cannot be opened, and
    `RuntimeError` if another trace is running.
    """

    __module__ = "cpool"

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = path
        self._pid = os.getpid()
        self._run: object = None  # set from start() to stop()
        self._watcher = self._add  # a bound method made here: stop() may run out of memory
        self._since = 0
        self._file: TextIO | None = None
        self._engines: list[tuple[Any, bool, int]] = []  # engine, has it threads, number of workers

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start the trace. The docstring of the class says what this raises."""
        run = object()
        pid = os.getpid()
        if _on.setdefault(pid, run) is not run:
            raise RuntimeError("this process is already being traced: stop the other trace first")
        self._pid, self._run = pid, run
        try:
            self._engines = []
            self._file = open(self._path, "w", encoding="utf-8")  # noqa: SIM115
            self._since = time.monotonic_ns()
            known.watch(self._watcher)
        except BaseException:  # the file cannot be opened, or no memory for the trace of a pool
            self._end()
            raise

    def _add(self, pool: Any) -> None:
        if self._pid == os.getpid():  # ignored in a fork of the process
            self._engines.append((pool._engine, pool._has_threads, pool._processes))
            pool._engine.trace(self._since)

    def stop(self) -> None:
        """Stop the trace and write the file. Does nothing without a trace, or in a fork."""
        if self._run is not None and self._pid == os.getpid():
            self._end()

    def _end(self) -> None:
        run, self._run = self._run, None
        if _on.get(self._pid) is run:
            del _on[self._pid]
        known.unwatch(self._watcher)
        file, self._file = self._file, None
        engines, self._engines = self._engines, []
        if _on.get(self._pid) is run:
            del _on[self._pid]
        try:
            if file is not None:
                with file:
                    self._write(file, engines, known.names_of_threads())
        finally:
            for engine, *_ in engines:  # after an error: engines whose trace was not read
                with contextlib.suppress(MemoryError):
                    engine.end_trace()

    def _write(
        self, file: TextIO, engines: list[tuple[Any, bool, int]], threads: dict[int, str]
    ) -> None:
        file.write('{"displayTimeUnit": "ms", "traceEvents": [')
        separator, number = "\n", 0
        for engine, has_threads, workers in engines:
            found = engine.end_trace()
            if found is None or not (found[3] or found[4]):
                continue  # the pool did nothing during the trace
            number += 1
            title = f"pool {number} of {workers} {'threads' if has_threads else 'processes'}"
            lanes = {ident: threads.get(ident, "a thread that has ended") for *_, ident in found[4]}
            for event in _events(found, has_threads, title, lanes, number, self._since):
                file.write(separator + json.dumps(event))
                separator = ",\n"
        file.write("\n]}\n")


def _events(
    found: Any, threads: bool, title: str, lanes: dict[int, str], number: int, since: int
) -> Iterator[dict[str, Any]]:
    """The events of one pool. `title`: its name; `lanes`: names of this process's threads by id."""
    _, dropped, names, spans, work = found
    functions = [_name(name, threads) for name in names]
    if dropped:
        title += f" ({dropped} slices left out)"
    yield _meta("process_name", number, 0, name=title)
    yield _meta("process_sort_index", number, 0, sort_index=number)
    tids = {ident: _FIRST_TID + lane for lane, ident in enumerate(lanes)}
    first = _FIRST_TID + len(lanes)  # of the workers
    names = {tid: f"parent: {lanes[ident]}" for ident, tid in tids.items()}
    names |= {first + worker: f"worker {worker}" for worker in sorted({span[9] for span in spans})}
    for tid, name in names.items():
        yield _meta("thread_name", number, tid, name=name)
        yield _meta("thread_sort_index", number, tid, sort_index=tid)
    for span in spans:
        yield _event(span, functions, number, first, since)
    for done in work:
        yield _work_event(done, number, tids[done[4]], since)


def _name(name: bytes, threads: bool) -> str:
    return name.decode(errors="replace") if threads else name_in(name)


def _meta(what: str, pid: int, tid: int, **args: Any) -> dict[str, Any]:
    return {"ph": "M", "name": what, "pid": pid, "tid": tid, "args": args}


def _event(
    span: Any, functions: list[str], number: int, first_tid: int, since: int
) -> dict[str, Any]:
    began, ended, busy, waited, call, index, tasks, items, stride = span[:9]
    worker, pid, name, outcome, reason = span[9:]
    event: dict[str, Any] = {
        "pid": number,
        "tid": first_tid + worker,
        "ts": (began - since) / 1e3,  # in microseconds, the unit of the format
        "args": {"process": pid} if pid else {},
    }
    if outcome == _END:
        return {**event, "ph": "i", "s": "t", "cat": "worker", "name": "the worker ended"}
    event |= {"ph": "X", "dur": (ended - began) / 1e3}
    if outcome == _START:
        return {**event, "cat": "worker", "name": "start of the worker"}
    args = event["args"]
    function = "a function" if name == _NO_NAME else functions[name]
    args["outcome"] = _OUTCOMES.get(outcome, "failed")
    if outcome == _LOST:
        args["why"] = _REASONS.get(reason, "its worker died")
    if tasks > 1:
        args |= {"tasks": tasks, "busy_us": busy / 1e3}
    elif stride:
        first = index * stride
        args["first_item"], args["last_item"] = first, first + items - 1
    args |= {"items": items, "call": call}
    if waited >= 0:
        args["queued_us"] = waited / 1e3
    event |= {"cat": "task", "name": function if tasks == 1 else f"{function} x {tasks}"}
    if outcome != _OK:
        event["name"] += f" ({args['outcome']})"  # in Perfetto a colour is that of a name
        event["cname"] = "terrible"  # red, in chrome://tracing
    return event


def _work_event(done: Any, number: int, tid: int, since: int) -> dict[str, Any]:
    began, ended, spent, times, _ = done
    args: dict[str, Any] = {}
    names = []
    for (name, us, count), ns, n in zip(_WORK, spent, times, strict=True):
        if n:
            names.append((ns, name))
            args |= {us: ns / 1e3, count: n}
    return {
        "pid": number,
        "tid": tid,
        "ts": (began - since) / 1e3,
        "dur": (ended - began) / 1e3,
        "ph": "X",
        "cat": "parent",
        # The work that took longest comes first.
        "name": ", ".join(name for _, name in sorted(names, key=lambda each: -each[0])),
        "args": args,
    }
