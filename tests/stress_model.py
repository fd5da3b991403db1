"""Random sequences of everything that a pool can do, checked against a model.

    python tests/stress_model.py --method fork --seconds 60 --seed 1

A sequence is some 40 operations on one pool: calls of every kind, calls for one worker and for
each, calls beyond what the pool encodes at once, arrays that are returned without a copy, results
that are dropped, iterators read in part and dropped, workers that are killed, stopped and
continued, moments of idleness, collections, looks at what workers do; with a trace, and with
forwarded logs, or without. Then no thread is in a call of the pool's any more, and all by itself
the pool must come to rest in time: each callback was called once, with the right value, nothing is
pending, the statistics add up, no object of a job is kept, each worker that died has been replaced.
At last the pool ends, by close(), by terminate() or by its last reference, with work or without,
and nothing is left of it.

`--seed S --first N --sequences 1` runs sequence N of seed S again. Prints a summary as JSON, ends
with 1 where anything was wrong.
"""

from __future__ import annotations

import argparse
import faulthandler
import functools
import gc
import importlib.util
import io
import itertools
import json
import logging
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import threading
import time
import traceback
import warnings
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import dump
from engine import DEADLINE, PORTABLE, Pool, errors, pool_module
from leftovers import open_files, threads

from cpool._engine.options import check_options

LIMIT = 2 * DEADLINE  # seconds until the pool must be at rest
OPERATIONS = 40
LOAD = 2_000_000  # bytes
ALL_METHODS = "fork", "spawn", "forkserver", "threads"

# It is imported where it is needed: each worker that starts afresh would wait for it.
HAS_NUMPY = importlib.util.find_spec("numpy") is not None


def zeros() -> Any:
    import numpy

    return numpy.zeros(150_000, "i4")


# Tasks


def answer(x: int) -> int:
    return 3 * x + 1


class Shared:
    """An object that is shared: a number, a load, and other shared objects."""

    def __init__(self, x: int, load: bytes, held: list[Any]) -> None:
        self.x = x
        self.load = load
        self.held = held


def answer_of(given: list[Any]) -> int:
    [shared] = given
    assert not any(shared.load), "the load has changed"
    # Threads get the object as it was passed to share(): with handles.
    held = [getattr(other, "obj", other) for other in shared.held if not is_closed(other)]
    assert all(isinstance(other, Shared) for other in held), "a handle came as something else"
    return answer(shared.x)


def is_closed(other: Any) -> bool:
    return bool(getattr(other, "_closed", False))


def odd_fails(x: int) -> int:
    if x % 2:
        raise ValueError(x)
    return answer(x)


LOG = logging.getLogger("stress_model")
LOG.addHandler(logging.NullHandler())
LOG.propagate = False


def slow(x: int) -> int:
    time.sleep(x % 5 / 1000)
    LOG.warning("%d", x)
    return answer(x)


class Records(logging.Handler):
    """How often each number was logged, here or in a worker."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[int] = Counter()

    def emit(self, record: logging.LogRecord) -> None:
        self.seen[int(record.getMessage())] += 1


def placed(x: int) -> tuple[int, int]:
    worker = errors.current_worker()
    worker.state["calls"] = worker.state.get("calls", 0) + 1
    return answer(x), worker.index


def body(x: int, size: int) -> bytes:
    return x.to_bytes(4, "little") * (size // 4)


def large(x: int, sent: bytes) -> bytes:
    if sent != body(x, len(sent)):
        raise AssertionError("the argument is not what was sent")
    return body(x, 600_000)


def built(x: int) -> Any:
    """An array that is made in shared memory; every other time, the larger part of it."""
    array = errors.empty(200_000, "i4")
    array[:] = x
    return array[:150_000] if x % 2 else array[:150_000].copy()


def filled(x: int, array: Any) -> Any:
    """The task's argument, which goes back as it came."""
    if array.any():
        raise AssertionError("the argument is not what was sent")
    array[:] = x
    return array


def plain(value: Any) -> Any:
    """Arrays as bytes, which can be compared."""
    return value.tobytes() if hasattr(value, "tobytes") else value


def leave(x: int) -> int:
    """End the worker with SystemExit, which is this task's result."""
    raise SystemExit(x)


def die(x: int) -> int:
    os._exit(3)


def two(func: Callable[[int], Any], x: int) -> Iterator[Any]:
    yield answer(x)
    yield func(x)


def unpicklable(x: int) -> Any:
    return lambda: x


# What a task comes to: a value, or the type and the arguments of an exception (None: any arguments)

Outcome = tuple[str, Any]


def outcome_of(func: Callable[..., Any], x: int, is_thread: bool = False) -> Outcome:
    if func is odd_fails and x % 2:
        return "ValueError", (x,)
    if func is leave:
        return "SystemExit", (x,)
    if func is die:
        return "WorkerLostError", None
    if func is unpicklable:
        return "MaybeEncodingError", None
    return "value", body(x, 600_000) if func in (large, built, filled) else answer(x)


def seen(value: Any) -> Outcome:
    if isinstance(value, BaseException):
        return type(value).__name__, value.args
    return "value", plain(value)


class Box:
    """The state of a callable or a callback that a job holds, for weak references."""


class Load(Box):
    """Two megabytes when encoded: a pool keeps most of such calls unencoded while they wait."""

    def __init__(self, x: int) -> None:
        self.x = x

    def __reduce__(self) -> tuple[Any, ...]:
        return unloaded, (self.x, body(self.x, LOAD))


def unloaded(x: int, sent: bytes) -> Load:
    if sent != body(x, LOAD):
        raise AssertionError("the argument is not what was sent")
    return Load(x)


def weigh(load: Load) -> int:
    return answer(load.x)


class Told(Box):
    """The callbacks of one job: what they were called with."""

    def __init__(self, job: Job, fails: bool, nested: Callable[[], None] | None) -> None:
        self.job, self.fails, self.nested = job, fails, nested

    def value(self, value: Any) -> None:
        self.job.told.append(("value", plain(value)))
        self._then()

    def error(self, error: BaseException) -> None:
        self.job.told.append(seen(error))
        self._then()

    def _then(self) -> None:
        nested, self.nested = self.nested, None
        if nested is not None:
            nested()
        if self.fails:
            raise KeyError("of the callback")


class Job:
    """One call, its expected outcome, and what was observed."""

    def __init__(self, name: str, parts: list[Outcome], listed: bool) -> None:
        self.name = name
        self.parts = parts  # of each item
        self.listed = listed  # the value is the list of all
        self.told: list[Outcome] = []
        self.calls = 0  # callbacks that must come: 0 or 1
        self.callback_fails = False
        self.cancelled = False
        self.returns = False  # exceptions stand among the values
        self.may_lose = False  # resize() may remove the worker that it has to run in
        self.result: Any = None

    def fits(self, outcome: Outcome, lost: bool, ended: bool) -> bool:
        """Is this outcome allowed? lost: a worker was killed; ended: the pool was terminated."""
        kind, value = outcome
        lost = lost or self.may_lose
        if kind == "TaskCancelledError":
            return self.cancelled
        if self.returns and kind == "value" and self.listed:
            # A SystemExit ends its chunk: it is the result of the items behind it too.
            return len(value) == len(self.parts) and all(
                Job(self.name, self.parts if isinstance(each, SystemExit) else [part], False).fits(
                    seen(each), lost, ended
                )
                for each, part in zip(value, self.parts, strict=True)
            )
        if self.returns and kind == "value":
            return Job(self.name, self.parts, False).fits(seen(value), lost, ended)
        if (kind == "WorkerLostError" and lost) or (kind == "PoolTerminated" and ended):
            return True
        errors = [part for part in self.parts if part[0] != "value"]
        if self.returns:
            return False
        if not errors:
            right = [part[1] for part in self.parts]
            return kind == "value" and value == (right if self.listed else right[0])
        return any(kind == name and args in (None, value) for name, args in errors)


# The sequences


class Wrong(Exception):
    pass


class Sequence:
    def __init__(self, method: str, rng: random.Random) -> None:
        self.rng = rng
        self.is_threads = method == "threads"
        self.log: list[str] = []
        self.jobs: list[Job] = []
        self.refs: list[tuple[str, Any]] = []  # what must be freed once its job is done
        self.streams: list[tuple[Job, Any, list[Outcome]]] = []
        self.yields: list[tuple[Job, Any, list[Outcome]]] = []  # of generators, not at their ends
        self.shared: list[Any] = []  # handles of shared objects, and the numbers in these
        self.values: list[int] = []
        self.arrays: list[tuple[Any, bytes]] = []  # results that outlive the pool, and their bytes
        self.stopped: set[int] = set()
        self.killed: set[int] = set()
        self.lost = self.terminated = False
        self.kept = self.left_off = 0
        self.lock = threading.Lock()
        self.size = rng.randint(1, 3)
        # A worker that starts afresh takes half a second.
        self.limit = rng.choice([None, None, 1, 3, 30] if method == "fork" else [None, None, 30])
        self.records = Records()
        self.forwards = False
        self.trace = self.trace_file = None
        if rng.random() < 0.3:
            self.note("with a trace")
            self.trace_file = tempfile.NamedTemporaryFile(suffix=".json")  # noqa: SIM115
            self.trace = errors.trace(self.trace_file.name)
            self.trace.start()
        if self.is_threads:
            self.pool = pool_module.ThreadPool(self.size)
        else:
            context = multiprocessing.get_context(method)
            asked = self.worker_options()
            self.forwards = "forward_logs" in asked
            if self.forwards:
                LOG.addHandler(self.records)  # copies of it in workers are taken away
            self.pool = Pool(self.size, maxtasksperchild=self.limit, context=context, **asked)
            self.note(f"with {asked}")
        self.note(f"pool of {self.size}, maxtasksperchild={self.limit}")

    def note(self, text: str) -> None:
        self.log.append(text)

    def run(self) -> None:
        rng = self.rng
        weights = {
            self.call: 10,
            self.map: 5,
            self.stream: 5,
            self.blocking: 2,
            self.read: 5,
            self.drop: 3,
            self.leave_off: 2,
            self.generators: 3,
            self.share: 2,
            self.place: 3,
            self.broadcast: 1,
            self.read_values: 3,
            self.cancel: 3,
            self.resize: 1,
            self.forget: 1,
            self.collect: 1,
            self.look: 2,
            self.idle: 2,
        }
        if not self.is_threads:
            weights |= {self.kill: 2, self.stop: 1, self.go_on: 2, self.pile: 1}
        for _ in range(rng.randint(1, OPERATIONS)):
            [operation] = rng.choices(list(weights), list(weights.values()))
            operation()
        self.end_values()
        if rng.random() < 0.6:
            self.rest()
        end = rng.choice([self.close, self.terminate, self.abandon])
        try:
            end()
            self.check_records()
            self.check_arrays()
            self.check_memory()
        finally:
            LOG.removeHandler(self.records)
            if self.trace is not None:
                self.trace.stop()
        self.check_trace()

    # Operations

    def new(self, name: str, parts: list[Outcome], listed: bool) -> Job:
        job = Job(f"{name} #{len(self.jobs)}", parts, listed)
        with self.lock:
            self.jobs.append(job)
        return job

    def callbacks(self, job: Job) -> dict[str, Any]:
        rng = self.rng
        if rng.random() < 0.4:
            return {}
        job.calls = 1
        job.callback_fails = rng.random() < 0.1
        nested = self.nested if rng.random() < 0.2 else None
        told = Told(job, job.callback_fails, nested)
        self.refs.append((f"a callback of {job.name}", weakref.ref(told)))
        return {"callback": told.value, "error_callback": told.error}

    def nested(self) -> None:
        """In a callback: another call."""
        job = self.new("nested apply_async", [("value", answer(7))], listed=False)
        told = Told(job, False, None)
        job.calls = 1
        try:
            self.pool.apply_async(answer, (7,), {}, told.value, told.error)
        except (ValueError, AttributeError):  # closed meanwhile, or dropped
            job.calls = 0

    def function(self) -> tuple[Callable[[int], Any], int]:
        rng = self.rng
        choices = [answer, answer, answer, odd_fails, slow]
        if not self.is_threads and rng.random() < 0.2:
            choices = [leave, unpicklable, die]
        func = rng.choice(choices)
        return func, rng.randrange(1000)

    def hold(self, job: Job, result: Any) -> None:
        self.refs.append((f"the result of {job.name}", weakref.ref(result)))
        job.result = result

    def call(self) -> None:
        rng = self.rng
        for _ in range(rng.choice([1, 1, 5, 50])):
            func, x = self.function()
            args: tuple[Any, ...] = (x,)
            if rng.random() < 0.1:
                func, args = large, (x, body(x, rng.choice([8, 70_000, 1_000_000])))
            elif HAS_NUMPY and rng.random() < 0.1:
                func, args = rng.choice([(built, (x,)), (filled, (x, zeros()))])
            job = self.new(f"apply_async({func.__name__}, {x})", [outcome_of(func, x)], False)
            callbacks = self.callbacks(job)
            if rng.random() < 0.2:
                func = functools.partial(func)  # an object of one use
            options = self.options(job)
            self.note(f"{job.name} {list(callbacks)} {options}")
            self.hold(job, self.pool.apply_async(func, args, **callbacks, **options))

    def pile(self) -> None:
        """More than the pool encodes while no worker takes any: the rest is kept as it is."""
        rng = self.rng
        for worker in self.workers():
            self.halt(worker)
        for _ in range(rng.choice([10, 20])):
            load = Load(rng.randrange(1000))
            listed = rng.random() < 0.3
            name = "map_async" if listed else "apply_async"
            job = self.new(f"{name}(weigh, {load.x})", [outcome_of(weigh, load.x)], listed)
            callbacks, options = self.callbacks(job), self.options(job)
            self.note(f"{job.name} {list(callbacks)} {options}")
            self.refs.append((f"the argument of {job.name}", weakref.ref(load)))
            if listed:
                result = self.pool.map_async(weigh, [load], **callbacks, **options)
            else:
                result = self.pool.apply_async(weigh, (load,), **callbacks, **options)
            self.hold(job, result)
        self.kept += any(thread.name == "cpool-caller" for thread in threading.enumerate())
        if rng.random() < 0.5:
            self.go_on()

    def leave_off(self) -> None:
        """An iterator is dropped, read in part or not at all: its source ends, and its job."""
        rng = self.rng
        size, limit = rng.choice([1, 1, 3]), rng.choice([None, 1, 3])
        source = (7 for _ in (range(50) if limit is None else itertools.count()))
        method = rng.choice([self.pool.imap, self.pool.imap_unordered])
        count = rng.choice([0, 1, 5])
        name = f"{method.__name__} of a source, {size}, {limit}, dropped after {count} items"
        job = self.new(name, [("value", answer(7))], listed=True)
        self.note(job.name)
        self.go_on()  # or it would wait for what is stopped
        results = method(slow, source, size, **({"buffersize": limit} if limit else {}))
        self.refs.append((f"the iterator of {job.name}", weakref.ref(results)))
        self.refs.append((f"the source of {job.name}", weakref.ref(source)))
        self.take(job, results, count, [])
        self.left_off += 1

    def items(self, func: Callable[[int], Any]) -> list[int]:
        length = self.rng.choice([0, 1, 2, 10, 100])
        if func in (leave, die):
            length = min(length, 2)
        return [self.rng.randrange(1000) for _ in range(length)]

    def map(self) -> None:
        rng = self.rng
        func, _ = self.function()
        items = self.items(func)
        parts = [outcome_of(func, x) for x in items]
        star = rng.random() < 0.3
        size = rng.choice([None, 1, 1, 3, 20])
        job = self.new(f"map_async({func.__name__}, {len(items)} items, {size})", parts, True)
        # The stdlib's: where there are no items nothing is called.
        callbacks = self.callbacks(job)
        if not items:
            job.calls = 0
        options = self.options(job)
        self.note(f"{job.name} {'star ' if star else ''}{list(callbacks)} {options}")
        method = self.pool.starmap_async if star else self.pool.map_async
        given: list[Any] = [(x,) for x in items] if star else items
        self.hold(job, method(func, given, size, **callbacks, **options))

    def stream(self) -> None:
        rng = self.rng
        func, _ = self.function()
        items = self.items(func)
        ordered = rng.random() < 0.5
        size = rng.choice([1, 1, 1, 4])
        parts = [outcome_of(func, x) for x in items]
        # A generator over chunks ends with its first error, and leaves the rest to nobody.
        fails = size > 1 and any(name != "value" for name, _ in parts)
        limit = None if fails else rng.choice([None, None, 3])
        name = (
            f"{'imap' if ordered else 'imap_unordered'}({func.__name__}, {len(items)} items, {size}"
        )
        job = self.new(f"{name}, {limit})", parts, True)
        self.note(job.name)
        method = self.pool.imap if ordered else self.pool.imap_unordered
        results = method(func, iter(items), size, **({"buffersize": limit} if limit else {}))
        self.refs.append((f"the iterator of {job.name}", weakref.ref(results)))
        if limit is not None or size > 1:
            self.go_on()
            self.take(job, results, len(items) + 1, [])
        else:
            self.streams.append((job, results, []))

    def generators(self) -> None:
        """What they yield is read now or later, to its end or not, or by nobody."""
        rng = self.rng
        func, x = self.function()
        method = rng.choice(["stream", "flatmap", "flatmap_unordered"])
        items = [x] if method == "stream" else self.items(func)
        parts = [part for x in items for part in (("value", answer(x)), outcome_of(func, x))]
        ahead = rng.choice([1, 2, 64])
        job = self.new(f"{method}({func.__name__}, {len(items)} items, {ahead})", parts, True)
        self.note(job.name)
        given: Any = (x,) if method == "stream" else iter(items)
        results = getattr(self.pool, method)(functools.partial(two, func), given, buffersize=ahead)
        self.refs.append((f"the iterator of {job.name}", weakref.ref(results)))
        self.yields.append((job, results, []))

    def share(self) -> None:
        """Tasks get shared objects, which are closed or dropped while these wait."""
        rng = self.rng
        if not self.shared or rng.random() < 0.5:
            x = rng.randrange(1000)
            held = [rng.choice(self.shared)] if self.shared and rng.random() < 0.5 else []
            try:
                self.shared.append(
                    self.pool.share(Shared(x, bytes(rng.choice([8, 300_000])), held))
                )
            except ValueError:  # it holds a handle that was closed
                assert any(handle._closed for handle in held), "a share() was refused"
                return
            self.refs.append((f"the shared object {x}", weakref.ref(self.shared[-1])))
            self.values.append(x)
        number = rng.randrange(len(self.shared))
        handle, x = self.shared[number], self.values[number]
        if not handle._closed:
            job = self.new(f"apply_async(answer_of, shared {x})", [("value", answer(x))], False)
            callbacks, options = self.callbacks(job), self.options(job)
            self.note(f"{job.name} {list(callbacks)} {options}")
            self.hold(job, self.pool.apply_async(answer_of, ([handle],), **callbacks, **options))
        if rng.random() < 0.3:
            self.note(f"close shared {x}")
            handle.close()
        elif rng.random() < 0.3:
            self.note(f"drop shared {x}")
            del self.shared[number], self.values[number]

    def place(self) -> None:
        """Calls for one worker, which may be stopped, busy, dead, replaced or not there yet."""
        rng = self.rng
        for _ in range(rng.choice([1, 5, 20])):
            x = rng.randrange(1000)
            if rng.random() < 0.5:
                asked: dict[str, Any] = {"worker": rng.randrange(self.size)}
                index = asked["worker"]
            else:
                asked = {"key": f"key {rng.randrange(6)}"}
                checked = check_options(asked)  # type: ignore[arg-type]
                self.pool._place(checked)  # as the call will do
                index = checked.engine[4] - 1
            name = f"apply_async(placed, {x}, {asked})"
            job = self.new(name, [("value", (answer(x), index))], False)
            job.may_lose = True
            callbacks, others = self.callbacks(job), self.options(job)
            self.note(f"{job.name} {list(callbacks)} {others}")
            self.hold(job, self.pool.apply_async(placed, (x,), **callbacks, **asked, **others))

    def broadcast(self) -> None:
        """A call in each worker; in an elastic pool, in each that is there."""
        if not self.is_threads and self.is_elastic:
            return
        x = self.rng.randrange(1000)
        parts: list[Outcome] = [("value", (answer(x), index)) for index in range(self.size)]
        job = self.new(f"broadcast_async(placed, {x})", parts, True)
        job.may_lose = True
        callbacks, others = self.callbacks(job), self.options(job)
        self.note(f"{job.name} {list(callbacks)} {others}")
        self.hold(job, self.pool.broadcast_async(placed, (x,), **callbacks, **others))

    def read_values(self) -> None:
        if self.yields:
            self.go_on()
            job, results, found = self.rng.choice(self.yields)
            count = self.rng.randint(1, 8)
            self.note(f"read {count} values of {job.name}")
            self.take(job, results, count, found)

    def end_values(self) -> None:
        """Nobody else reads them: each is read to its end, closed, or dropped."""
        self.go_on()
        while self.yields:
            job, results, found = self.yields.pop(self.rng.randrange(len(self.yields)))
            how = self.rng.choice(["read", "read", "close", "drop"])
            self.note(f"{how} {job.name}")
            if how == "read":
                self.take(job, results, len(job.parts) + 1, found)
                lost = any(name == "WorkerLostError" for name, _ in found)
                if len(found) != len(job.parts) and not lost:
                    raise Wrong(f"{job.name} gave {len(found)} of {len(job.parts)} values")
            elif how == "close":
                results.close()
            del results

    def take(self, job: Job, results: Any, count: int, found: list[Outcome]) -> None:
        for _ in range(count):
            try:
                found.append(("value", next(results)))
            except StopIteration:
                break
            except BaseException as error:
                found.append(seen(error))
        self.check_stream(job, found)

    def check_stream(self, job: Job, found: list[Outcome]) -> None:
        for outcome in found:
            one = Job(job.name, job.parts, listed=False)
            fits = outcome in job.parts or (
                outcome[0] != "value" and one.fits(outcome, self.lost, self.terminated)
            )
            if not fits:
                raise Wrong(f"{job.name} gave {outcome!r:.200}")

    def blocking(self) -> None:
        self.go_on()  # or it would wait for what is stopped
        items = self.items(answer)
        self.note(f"map of {len(items)} items, and apply")
        try:
            values = self.pool.map(answer, items, self.rng.choice([None, 1, 7]))
            assert values == [answer(x) for x in items], "map gave wrong values"
            assert self.pool.apply(answer, (5,)) == answer(5), "apply gave a wrong value"
        except errors.WorkerLostError:
            if not self.lost:
                raise

    def read(self) -> None:
        """A few items of an iterator, while all workers run."""
        if not self.streams:
            return
        self.go_on()
        job, results, found = self.rng.choice(self.streams)
        count = self.rng.randint(1, 8)
        self.note(f"read {count} of {job.name}")
        self.take(job, results, count, found)

    def drop(self) -> None:
        """Nobody holds the result any more; the callbacks come all the same."""
        rng = self.rng
        if self.streams and rng.random() < 0.5:
            job, _, _ = self.streams.pop(rng.randrange(len(self.streams)))
            self.note(f"drop {job.name}")
            return
        held = [job for job in self.jobs if job.result is not None]
        if held:
            job = rng.choice(held)
            self.note(f"drop {job.name}")
            job.result = None

    def cancel(self) -> None:
        """A call that may have ended, or not have begun."""
        held = [job for job in self.jobs if job.result is not None and not job.cancelled]
        if held:
            job = self.rng.choice(held[-5:])
            kill = self.rng.random() < 0.3
            job.cancelled = job.result.cancel(kill=kill)
            self.note(f"cancel {job.name}, kill={kill}: {job.cancelled}")

    def resize(self) -> None:
        if not self.is_threads and self.rng.random() < 0.3:
            self.note("restart the workers")
            self.pool.restart_workers()
            return
        self.size = self.rng.randint(1, 4)
        self.note(f"resize to {self.size}")
        self.pool.resize(self.size)

    def worker_options(self) -> dict[str, Any]:
        """Random options for a pool of processes, with limits that are never reached."""
        rng, options = self.rng, {}
        if rng.random() < 0.3:
            options["min_processes"] = rng.randint(1, self.size)
        if rng.random() < 0.3:
            options["idle_timeout"] = rng.choice([0.001, 0.05])
        if rng.random() < 0.2 and not PORTABLE:
            options["memory_limit"] = "1TB"
        if rng.random() < 0.2:
            options["daemon"] = False
        if rng.random() < 0.2:
            options["forward_logs"] = True
        self.is_elastic = "min_processes" in options or "idle_timeout" in options
        return options

    def options(self, job: Job) -> dict[str, Any]:
        """Random options for a call, with limits that are never reached."""
        rng, options = self.rng, {}
        if rng.random() < 0.2:
            options["fail_fast"] = True
        elif rng.random() < 0.2:
            options["return_exceptions"] = job.returns = True
        if not self.is_threads and rng.random() < 0.2:
            options["task_timeout"] = 100.0
        if not self.is_threads and rng.random() < 0.2:
            options["retries"] = rng.choice([0, 1, 5])
        if rng.random() < 0.2:
            options["priority"] = rng.randint(-2, 2)
        return options

    def forget(self) -> None:
        """Use many callables once each; the workers are told to drop them."""
        self.go_on()
        self.note("forget 200 callables")
        results = [self.pool.apply_async(functools.partial(answer, x)) for x in range(200)]
        for x, result in enumerate(results):
            try:
                value = result.get(LIMIT)
            except errors.WorkerLostError:
                if not self.lost:
                    raise
            else:
                assert value == answer(x), "a partial gave a wrong value"

    def collect(self) -> None:
        self.note("collect")
        gc.collect()

    def look(self) -> None:
        self.note("look")
        text = io.StringIO()
        self.pool.dump(text)
        lines = text.getvalue().splitlines()
        assert lines[0].startswith("cpool: pool of "), lines
        self.check_statistics()

    def check_statistics(self) -> Any:
        """At any time: no item is counted twice, and none is lost."""
        found = self.pool.statistics()
        over = found.done + found.failed + found.lost + found.cancelled
        if found.pending < 0 or found.submitted != over + found.pending:
            raise Wrong(f"the statistics do not add up: {found}")
        if not 0 <= found.shared_memory_in_use <= found.shared_memory:
            raise Wrong(f"more memory is in use than there is: {found}")
        for name in "done", "lost", "retried":
            if sum(getattr(worker, name) for worker in found.workers) != getattr(found, name):
                raise Wrong(f"{name} of the workers do not add up: {found}")
        return found

    def statistics_at_rest(self) -> None:
        """Each item that was submitted is done, failed, lost or cancelled."""
        self.eventually("statistics that add up", lambda: self.check_statistics().pending == 0)

    def check_records(self) -> None:
        """Nothing else than numbers of items has come, and none but from `slow`."""
        slow_jobs = any("slow" in job.name or "imap" in job.name for job in self.jobs)
        if self.records.seen and not slow_jobs:
            raise Wrong(f"records of nobody: {self.records.seen}")

    def check_arrays(self) -> None:
        """Those that are kept stay as they were, whatever has become of their pool and workers."""
        for array, was in self.arrays:
            if array.tobytes() != was:
                raise Wrong("an array has changed")
        self.arrays.clear()

    def check_memory(self) -> None:
        """Nothing is kept: a pool that has ended has no shared memory."""

        def takes_none() -> bool:
            gc.collect()
            none: bool = self.pool.statistics().shared_memory == 0
            return none

        if self.pool is not None:
            self.eventually("the end of the shared memory", takes_none)

    def check_trace(self) -> None:
        """The file is JSON, and the slices of a lane do not overlap."""
        if self.trace_file is None:
            return
        with self.trace_file, open(self.trace_file.name, encoding="utf-8") as file:
            events = json.load(file)["traceEvents"]
        lanes: dict[Any, list[tuple[float, float]]] = {}
        for event in events:
            if event.get("cat") in ("task", "parent"):
                lane = lanes.setdefault((event["pid"], event["tid"]), [])
                lane.append((event["ts"], event["ts"] + event["dur"]))
        for key, lane in lanes.items():
            lane.sort()
            for (_, end), (begin, _) in itertools.pairwise(lane):
                if begin < end - 0.01:
                    raise Wrong(f"slices of lane {key} overlap at {begin} us")

    def idle(self) -> None:
        self.note("idle")
        self.end_values()
        self.at_rest()

    def workers(self) -> list[Any]:
        """The running workers, found without a call of the pool."""
        with self.pool._lock:
            found = list(self.pool._workers)
        return [worker for worker in found if worker.pid not in self.killed]

    def kill(self) -> None:
        workers = self.workers()
        if not workers or len(self.killed) >= 4:
            return
        worker = self.rng.choice(workers)
        self.note(f"kill {worker.pid}")
        self.lost = True
        self.killed.add(worker.pid)
        worker.kill()

    def signal(self, pid: int, number: int) -> None:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            self.note(f"{pid} had ended")

    def stop(self) -> None:
        workers = self.workers()
        if workers:
            self.halt(self.rng.choice(workers))

    def halt(self, worker: Any) -> None:
        self.note(f"stop {worker.pid}")
        self.stopped.add(worker.pid)
        worker._popen._send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        for pid in self.stopped:
            self.note(f"continue {pid}")
            self.signal(pid, signal.SIGCONT)
        self.stopped.clear()

    # At rest

    def eventually(self, what: str, condition: Callable[[], Any]) -> None:
        end = time.monotonic() + LIMIT
        while not condition():
            if time.monotonic() > end:
                raise Wrong(f"{what} did not come within {LIMIT} s")
            time.sleep(0.002)

    def at_rest(self) -> None:
        """Nothing is pending, each callback has come; no thread was in a call meanwhile."""
        self.go_on()
        engine = self.pool._engine
        self.eventually("rest (pending and queued are 0)", lambda: engine.counts()[:2] == (0, 0))
        assert len(self.pool._cache) == 0, "the cache lists results"
        self.statistics_at_rest()
        if not self.is_threads and self.pool._has_helper:
            least = 1 if self.is_elastic else self.size
            self.eventually("all workers", lambda: least <= engine.counts()[2] <= self.size)
        for job in list(self.jobs):
            self.check(job)

    def check(self, job: Job) -> None:
        """A job that has ended: its callbacks, and its result where it is held."""
        limit = 0 if self.terminated else job.calls
        if not limit <= len(job.told) <= job.calls:
            raise Wrong(f"{job.name}: {len(job.told)} callbacks of {job.calls}: {job.told!r:.300}")
        for outcome in job.told:
            if not job.fits(outcome, self.lost, self.terminated):
                raise Wrong(f"{job.name} called back with {outcome!r:.300}")
        if job.result is None:
            return
        if not job.result.ready():
            raise Wrong(f"{job.name} is not ready")
        try:
            value = job.result.get(0)
            outcome = "value", plain(value)
            if outcome[1] is not value and len(self.arrays) < 3:
                self.arrays.append((value, outcome[1]))
        except BaseException as error:
            outcome = seen(error)
        if job.callback_fails and job.told and not self.terminated:
            if outcome[0] != "KeyError":
                raise Wrong(f"{job.name}: the callback failed, the result is {outcome!r:.300}")
        elif not (job.callback_fails and outcome[0] == "KeyError") and not job.fits(
            outcome, self.lost, self.terminated
        ):
            raise Wrong(f"{job.name} came to {outcome!r:.300}")

    def rest(self) -> None:
        self.note("rest")
        self.at_rest()
        self.read_all()
        self.release()
        self.freed()

    def read_all(self) -> None:
        for job, results, found in self.streams:
            # All is there: reading takes no time, and tells how many there are.
            self.take(job, results, len(job.parts) + 1, found)
            lost = any(name == "WorkerLostError" for name, _ in found)
            if len(found) != len(job.parts) and not lost:
                raise Wrong(f"{job.name} gave {len(found)} of {len(job.parts)} items")

    def release(self) -> None:
        self.streams.clear()
        self.shared.clear()
        self.values.clear()
        for job in self.jobs:
            job.result = None

    def freed(self) -> None:
        """What the jobs held goes, without a call of the pool's."""

        def kept() -> list[str]:
            gc.collect()
            return [name for name, ref in self.refs if ref() is not None]

        end = time.monotonic() + LIMIT
        while names := kept():
            if time.monotonic() > end:
                raise Wrong(f"kept: {names[:5]}")
            time.sleep(0.01)
        self.refs.clear()

    # The end

    def close(self) -> None:
        """All that was submitted is done, and the workers go, though nobody waits for them."""
        self.note("close")
        pool = self.pool
        self.streams = [item for item in self.streams if item[1] is not None]
        pool.close()
        self.go_on()
        self.eventually("the end of all jobs", lambda: pool._engine.counts()[:2] == (0, 0))
        for job in list(self.jobs):
            self.check(job)
        if not self.is_threads and pool._has_helper:
            workers = list(pool._workers)
            self.eventually(
                "the end of all workers", lambda: not any(w.is_alive() for w in workers)
            )
        pool.join(timeout=LIMIT)
        self.statistics_at_rest()
        self.release()
        self.freed()

    def terminate(self) -> None:
        """What is not done fails, and nothing is left."""
        self.note("terminate")
        self.terminated = True
        self.pool.terminate()
        self.stopped.clear()
        self.pool.join(timeout=LIMIT)
        self.statistics_at_rest()
        for job in list(self.jobs):
            self.check(job)
        self.release()
        self.freed()

    def abandon(self) -> None:
        """The last references to the pool go, while there is work."""
        self.note("abandon")
        self.terminated = True
        self.pool = None
        self.go_on()
        self.release()
        self.freed()
        for job in self.jobs:
            self.check(job)


# The program

_noise: list[str] = []  # errors that nobody could be given


def note_noise(unraisable: Any) -> None:
    """But for results that were dropped, and callbacks of jobs that were terminated."""
    where, error = repr(unraisable.object), repr(unraisable.exc_value)
    if "exception was never retrieved" not in where and "of the callback" not in error:
        _noise.append(f"{where}: {error} {unraisable.err_msg}")


def explain(one: Sequence, error: BaseException) -> None:
    say(f"{type(error).__name__}: {error}")
    for text in one.log:
        say("  ", text)
    pool = getattr(one, "pool", None)
    if pool is not None and pool._engine is not None:
        say("pending, queued, ready, failed starts:", pool._engine.counts())
        for number, job in pool._engine.jobs().items():
            names = [one_.name for one_ in one.jobs if one_.result is job]
            say(f"job {number}: {job!r} {names}, left: {getattr(job, '_left', int)()}")
        if not one.is_threads:
            for worker in list(pool._workers):
                say(f"worker {worker.pid}, exit code {worker.exitcode}")
                say(dump.state(worker.pid))
                say(dump.stacks(worker.pid))
        say(dump.stacks(os.getpid()))
    faulthandler.dump_traceback(all_threads=True)


def say(*parts: object) -> None:
    print(*parts, file=sys.stderr, flush=True)


def left(before: tuple[set[str], set[str]]) -> Iterator[str]:
    yield from open_files() - before[0]
    yield from (f"thread {name}" for name in threads() - before[1])
    yield from (f"child {child}" for child in multiprocessing.active_children())


def nothing_left(before: tuple[set[str], set[str]]) -> None:
    end = time.monotonic() + LIMIT
    while found := list(left(before)):
        gc.collect()
        if time.monotonic() > end:
            raise Wrong(f"left behind: {found}")
        time.sleep(0.005)


def stress(methods: list[str], args: argparse.Namespace) -> dict[str, Any]:
    done: Counter[str] = Counter()
    end = time.monotonic() + args.seconds
    for method in methods:  # what the launchers keep for good is there before a look
        with multiprocessing.get_context(None if method == "threads" else method).Pool(1):
            pass
    if HAS_NUMPY:
        zeros()  # the same for the threads of its libraries
    number = args.first
    while number < args.first + args.sequences and time.monotonic() < end:
        method = methods[number % len(methods)]
        # A deadline for what blocks, which shows where.
        faulthandler.dump_traceback_later(12 * LIMIT, exit=True)
        before = open_files(), threads()
        one = Sequence(method, random.Random(f"{args.seed} {number}"))
        try:
            one.run()
            one.pool = None
            nothing_left(before)
            if _noise:
                raise Wrong(f"could not be raised: {_noise}")
        except BaseException as error:
            again = (
                f"--method {','.join(methods)} --seed {args.seed} --first {number} --sequences 1"
            )
            say(f"sequence {number} ({method}), again: {again}")
            explain(one, error)
            if not args.go_on:
                raise
            traceback.print_exc()
            if one.pool is not None:
                one.pool.terminate()
            done["failed"] += 1
            _noise.clear()
        done["sequences"] += 1
        done["jobs"] += len(one.jobs)
        done["killed"] += len(one.killed)
        done["kept"] += one.kept
        done["left off"] += one.left_off
        del one
        number += 1
    faulthandler.cancel_dump_traceback_later()
    return dict(done)


def main() -> int:
    parser = argparse.ArgumentParser(description="Random operations, held against a model.")
    parser.add_argument("--method", default="fork,threads", help=f"of {', '.join(ALL_METHODS)}")
    parser.add_argument("--seconds", type=float, default=60, help="no new sequence after that")
    parser.add_argument("--seed", type=int, default=1, help="what chance begins with")
    parser.add_argument("--first", type=int, default=0, help="the number of the first sequence")
    parser.add_argument("--sequences", type=int, default=10**9, help="how many, at most")
    parser.add_argument("--go-on", action="store_true", help="after a failure too")
    args = parser.parse_args()
    warnings.simplefilter("ignore", DeprecationWarning)  # forks beside threads, from 3.12 on
    warnings.simplefilter("ignore", ResourceWarning)  # pools that are dropped
    sys.unraisablehook = note_noise
    began = time.monotonic()
    try:
        summary = stress(args.method.split(","), args)
    except BaseException:
        traceback.print_exc()
        for child in multiprocessing.active_children():
            child.kill()
        faulthandler.dump_traceback_later(LIMIT, exit=True)  # the pool may hang at the exit too
        return 1
    print(json.dumps({**summary, "seconds": round(time.monotonic() - began, 1)}))
    return 1 if summary.get("failed") else 0


if __name__ == "__main__":
    sys.exit(main())
