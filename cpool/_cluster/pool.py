"""`cpool.distributed.Pool`: the interface of `cpool.Pool`, on a dask.distributed cluster."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import operator
import queue
import sys
import threading
import time
import uuid
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from multiprocessing import TimeoutError, util

from distributed import Client, LocalCluster, Scheduler

from .._base import failures
from .._base.size import default_processes
from .._base.stdlib import TYPE_CHECKING, T
from .._engine.configured import ConfiguredPool
from .._engine.options import CallOptions, Unpack, check_options
from .._engine.processes import _length_of
from .._engine.progress import check_kind, show
from .._engine.results import ItemIterator
from .._engine.serial import is_wanted as is_serial_wanted
from . import worker
from .arbiter import Arbiter, plugin_name
from .errors import VersionMismatchError
from .frames import dumps_callable
from .jobs import Feeder, Job, Keys, Pulls, call_part, feeder_here
from .keeper import Keeper, Node
from .node import NodePlugin, dump_node
from .parameters import NOT_HERE, check_on_exit, of_nodes, refuse_method, refuse_worker
from .plan import Speed
from .results import (
    ApplyResult,
    Arrived,
    AsyncResult,
    Chunks,
    IMapIterator,
    IMapUnorderedIterator,
    MapResult,
    UnorderedChunks,
    seconds_of,
)
from .statistics import ClusterStatistics
from .versions import DISTRIBUTION, PACKAGES, mismatches, say, versions

if TYPE_CHECKING:
    from typing import Any, NoReturn, Self, TypeVar

    S = TypeVar("S")
else:
    Any = S = object

__all__ = ["Pool"]

RUN, CLOSE, TERMINATE = "RUN", "CLOSE", "TERMINATE"

# Functions whose measured time is remembered.
_SPEEDS = 256

# Seconds that the end of the pool waits for the nodes.
_GRACE = 60.0

# Seconds that `dump()` waits for a node.
_DUMP = 5.0

# Seconds between two looks whether the keeper is there to answer.
_LOOK = 0.1


class Pool:
    """A pool of worker processes on the nodes of a dask.distributed cluster.

    `address_or_client` is the address of a scheduler ("tcp://host:8786"), a `distributed.Client`
    or a dask cluster object. Without it the pool starts a `LocalCluster` of one node on this
    machine, and ends it with the pool.

    Each dask worker process is a node and has a `cpool.Pool` of `processes` workers, by default as
    many as the dask worker has threads; also one that joins later. Each worker process calls
    `initializer(*initargs)` when it starts, and is replaced after `maxtasksperchild` chunks.
    `context` is the name of the start method of the nodes' workers. `nodes` is a list of addresses
    of dask workers, not an empty one: the pool uses no others.

    `finalizer`, `finalargs`, `daemon`, `memory_limit`, `min_processes`, `idle_timeout`,
    `inner_max_num_threads`, `env` and `preload` are parameters of the pools on the nodes, and
    `on_exit` is that of this one: as in `cpool.Pool`. `cpu_ids` may be "auto" here; `max_pending`
    and `propagate_context` are refused with `ValueError`.

    `serial=True`: no cluster is used at all, each task runs in the thread that submits it, as in
    `cpool.Pool`; `nodes` is an empty list then. None: as the environment variable CPOOL_SERIAL
    says.

    Raises `ValueError` and `TypeError` as `cpool.Pool` does, `OSError` if the scheduler cannot be
    reached within the client's timeout, and `VersionMismatchError` if Python, cpool or dask have
    other versions in the cluster.

    Every call ends: with its results, with what a task raised, with `WorkerLostError` if a worker
    process died (its `node` is the node's address), with `NodeLostError` if a node left the
    cluster, with `SchedulerLostError`, or with `PoolTerminated`. Nothing runs twice, unless a call
    asks for that with `retries`. While the cluster has no node, calls wait for one.

    The methods are those of `cpool.Pool`, with the same keyword-only options, `CallOptions`:
    `retries` and `retry_on` (a lost node counts as a lost worker), `task_timeout` and `grace` (with
    chunks of one item), and the others. Calls of one `key` go to one worker of one node as long as
    that node is there. `worker` is refused with `ValueError`.
    """

    __module__ = "cpool.distributed"

    _state = RUN
    _keeper: Keeper | None = None
    _on_exit = "terminate"
    _serial_class: type[Pool]  # set by serial.py

    def __new__(cls, *_: Any, serial: bool | None = None, **__: Any) -> Pool:
        """A serial pool is of a class of its own."""
        if cls is Pool and is_serial_wanted(serial):
            return object.__new__(cls._serial_class)
        return object.__new__(cls)

    def __init__(
        self,
        address_or_client: Any = None,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        maxtasksperchild: int | None = None,
        *,
        context: str = "forkserver",
        nodes: Iterable[str] | None = None,
        serial: bool | None = None,
        on_exit: str = "terminate",
        **asked: Any,
    ) -> None:
        if processes is not None and operator.index(processes) < 1:
            raise ValueError("Number of processes must be at least 1")
        if maxtasksperchild is not None and (
            not isinstance(maxtasksperchild, int) or maxtasksperchild <= 0
        ):
            raise ValueError("maxtasksperchild must be a positive int or None")
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        if context not in ("fork", "spawn", "forkserver"):
            raise ValueError(f"context is the name of a start method here, not {context!r}")
        check_on_exit(on_exit)
        options: dict[str, Any] = {
            "processes": processes,
            "initializer": initializer and dumps_callable((initializer, initargs)),
            "maxtasksperchild": maxtasksperchild,
            "context": context,
            "more": of_nodes(processes, asked),
        }
        self._on_exit = on_exit
        only = None if nodes is None else [str(address) for address in nodes]
        if only == []:
            raise ValueError("nodes is empty: calls would wait for ever. None: use all nodes")
        self._processes = processes
        self._speeds: OrderedDict[str, Speed] = OrderedDict()
        self._pulls = Pulls()
        self._keys = Keys()
        self._job_numbers = itertools.count()
        name = uuid.uuid4().hex
        owned: list[Any] = []  # what the pool has started, and ends
        try:
            client = _client(address_or_client, owned)
            _check_versions(client)
            keeper = Keeper(name, client, partial(_end, name, client, owned))
            client.register_plugin(Arbiter())
            client.sync(client.scheduler.cpool_open, pool=name, client=client.id)
            client.subscribe_topic(plugin_name(name), keeper.hear)
            try:
                keeper.thread.start()
                _register(client, NodePlugin(name, options, only))
            except BaseException:
                keeper.tell("terminate")
                keeper.thread.join()
                raise
        except BaseException:
            for each in reversed(owned):
                each.close()
            raise
        self._client = client
        self._keeper = keeper
        self._cache: dict[int, Any] = keeper.cache
        self._terminate = util.Finalize(self, _terminate, args=(keeper,), exitpriority=15)
        _pools.add(self)

    # ---- what the cluster has ----

    @property
    def nodes(self) -> list[Node]:
        """The nodes that the pool uses now: address, pid, workers, and what they have done."""
        assert self._keeper is not None
        return list(self._keeper.nodes.values())

    def wait_for_nodes(self, count: int, timeout: float | None = None) -> None:
        """Wait until the pool uses at least `count` nodes; `TimeoutError` after `timeout` seconds.

        No call has to wait for nodes: tasks go to the nodes that there are.
        """
        keeper = self._keeper
        assert keeper is not None
        keeper.check_process()
        seconds = seconds_of(timeout)
        end = None if seconds is None else time.monotonic() + seconds
        enough = threading.Event()
        keeper.tell("expect", count, enough)
        while not enough.wait(_LOOK if (left := _left(end)) is None else min(_LOOK, left)):
            if keeper.lost is not None:
                raise keeper.lost
            if keeper.is_ending:
                raise ValueError("Pool not running")
            if end is not None and time.monotonic() >= end:
                raise TimeoutError

    def statistics(self) -> ClusterStatistics:
        """What the pool has done until now, by node. `print()` of it shows a table."""
        keeper = self._keeper
        assert keeper is not None
        keeper.check_process()
        answer: queue.SimpleQueue[ClusterStatistics] = queue.SimpleQueue()
        keeper.tell("tally", answer.put)
        while not keeper.is_ending:
            with contextlib.suppress(queue.Empty):
                return answer.get(timeout=_LOOK)
        return keeper.statistics()

    def dump(self, file: Any = None) -> None:
        """Print what each worker of each node does: how long already, and its Python stack.

        To `file`, which has a `write(str)`; None: `sys.stderr`. A node that is lost meanwhile, or
        does not answer within a few seconds, is left out. Raises `SchedulerLostError` where the
        scheduler is lost.
        """
        keeper = self._keeper
        assert keeper is not None
        keeper.check_process()
        if keeper.lost is not None:
            raise keeper.lost
        addresses = [node.address for node in self.nodes]
        texts: dict[str, Any] = {}
        if addresses and not keeper.is_ending:
            texts = self._client.sync(self._ask_dumps, keeper.pool, addresses)
        shown = [f"node {address}: {texts[address]}" for address in addresses if texts.get(address)]
        (sys.stderr if file is None else file).write("".join(shown))

    async def _ask_dumps(self, name: str, addresses: list[str]) -> dict[str, Any]:
        """The dumps of these nodes by address, without those that do not answer in time."""

        async def ask(address: str) -> dict[str, Any]:
            asked = self._client._run(dump_node, name, workers=[address], on_error="ignore")
            try:
                found: dict[str, Any] = await asyncio.wait_for(asked, _DUMP)
            except OSError:  # among them the builtin TimeoutError
                found = {}
            return found

        found = await asyncio.gather(*map(ask, addresses))
        return {address: text for each in found for address, text in each.items()}

    # ---- submitting ----

    def options(self, **asked: Unpack[CallOptions]) -> Any:
        """This pool, with these options as defaults of its calls, as `cpool.Pool.options`."""
        _Options(asked)
        return ConfiguredPool(self, asked)

    def _next_job(self) -> int:
        return next(self._job_numbers)

    def _check_running(self) -> Keeper:
        if self._state != RUN or self._keeper is None:
            raise ValueError("Pool not running")
        self._keeper.check_process()
        self._pulls.calls()
        return self._keeper

    def _job(
        self, result: Any, func: Callable[..., Any], mode: int, wanted: _Options, method: str
    ) -> Job | None:
        """A new call; None, and the result is a failure, if the callable cannot be pickled."""
        try:
            pickled = dumps_callable(func)
        except BaseException as exc:
            result.end(_not_sent(exc))
            return None
        number = hashlib.blake2b(pickled, digest_size=16).hexdigest()
        speed = self._speeds.pop(number, None) or Speed()
        self._speeds[number] = speed
        if len(self._speeds) > _SPEEDS:
            self._speeds.popitem(last=False)
        name = failures._name_of(func)
        options = {**wanted.of_chunk, "call": f"Pool.{method}({name})"}
        job = Job(result, number, pickled, name, mode, speed, options)
        job.priority = wanted.priority
        job.key = wanted.key
        job.fail_fast = wanted.fail_fast
        return job

    def apply(
        self,
        func: Callable[..., T],
        args: Iterable[Any] = (),
        kwds: Mapping[str, Any] = {},
        **options: Unpack[CallOptions],
    ) -> T:
        """Return `func(*args, **kwds)`, called in a worker of a node; raise what it raises."""
        value: T = _shown(self._apply(func, args, kwds, None, None, options, "apply"))
        return value

    def apply_async(
        self,
        func: Callable[..., T],
        args: Iterable[Any] = (),
        kwds: Mapping[str, Any] = {},
        callback: Callable[[T], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
        **options: Unpack[CallOptions],
    ) -> AsyncResult[T]:
        """Have a worker of a node call `func(*args, **kwds)`; return an `AsyncResult` at once.

        `callback(value)` or `error_callback(exception)` runs on a thread of the pool, before the
        result is ready; an exception of the callback becomes the result.
        """
        return self._apply(func, args, kwds, callback, error_callback, options, "apply_async")

    def _apply(
        self,
        func: Callable[..., T],
        args: Iterable[Any],
        kwds: Mapping[str, Any],
        callback: Callable[[T], object] | None,
        error_callback: Callable[[BaseException], object] | None,
        options: CallOptions,
        method: str,
    ) -> AsyncResult[T]:
        keeper = self._check_running()
        wanted = _Options(options)
        wanted.place(self._keys)
        result: AsyncResult[T] = ApplyResult(self, callback, error_callback)
        result._returns_exceptions = wanted.checked.returns_exceptions
        result._reporter = show(result, wanted.progress, 1)
        job = self._job(result, func, worker.APPLY, wanted, method)
        if job is None:
            return result
        job.total = 1
        try:
            job.ready.append(call_part(job, next(keeper.numbers), args, kwds))
        except BaseException as exc:
            result.end(_not_sent(exc))
            return result
        keeper.submit(job)
        return result

    def map(
        self,
        func: Callable[[S], T],
        iterable: Iterable[S],
        chunksize: int | None = None,
        **options: Unpack[CallOptions],
    ) -> list[T]:
        """Return `[func(x) for x in iterable]`, computed by the nodes, in order.

        By default the sizes of chunks follow the measured time of items. Waits for all items, then
        raises the first exception that arrived.
        """
        values: list[T] = _shown(
            self._map(func, iterable, worker.MAP, chunksize, None, None, options, "map")
        )
        return values

    def map_async(
        self,
        func: Callable[[S], T],
        iterable: Iterable[S],
        chunksize: int | None = None,
        callback: Callable[[list[T]], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
        **options: Unpack[CallOptions],
    ) -> MapResult[T]:
        """`map` that returns a `MapResult` at once; the callbacks are those of `apply_async`."""
        back = callback, error_callback
        return self._map(func, iterable, worker.MAP, chunksize, *back, options, "map_async")

    def starmap(
        self,
        func: Callable[..., T],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        **options: Unpack[CallOptions],
    ) -> list[T]:
        """Return `[func(*x) for x in iterable]`, as `map` does."""
        values: list[T] = _shown(
            self._map(func, iterable, worker.STAR, chunksize, None, None, options, "starmap")
        )
        return values

    def starmap_async(
        self,
        func: Callable[..., T],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        callback: Callable[[list[T]], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
        **options: Unpack[CallOptions],
    ) -> MapResult[T]:
        """`starmap` that returns a `MapResult` at once; callbacks as those of `apply_async`."""
        back = callback, error_callback
        return self._map(func, iterable, worker.STAR, chunksize, *back, options, "starmap_async")

    def imap(
        self,
        func: Callable[[S], T],
        iterable: Iterable[S],
        chunksize: int = 1,
        buffersize: int | None = None,
        **options: Unpack[CallOptions],
    ) -> IMapIterator[T]:
        """Return an iterator over `func(x) for x in iterable`, in order.

        The pool works whether or not `next` is called, and pulls the iterable as fast as the nodes
        take items. `buffersize` bounds the chunks that are in flight or unread. `ValueError` for a
        `chunksize` or `buffersize` below 1, `TypeError` for one that is no number, or no int.
        """
        items: IMapIterator[T] = self._imap(
            func, iterable, worker.MAP, chunksize, buffersize, True, "{0:n}", options
        )
        return items

    def imap_unordered(
        self,
        func: Callable[[S], T],
        iterable: Iterable[S],
        chunksize: int = 1,
        buffersize: int | None = None,
        **options: Unpack[CallOptions],
    ) -> IMapIterator[T]:
        """`imap` with results in the order of their arrival."""
        items: IMapIterator[T] = self._imap(
            func, iterable, worker.MAP, chunksize, buffersize, False, "{0!r}", options
        )
        return items

    def istarmap(
        self,
        func: Callable[..., T],
        iterable: Iterable[Iterable[Any]],
        chunksize: int = 1,
        buffersize: int | None = None,
        **options: Unpack[CallOptions],
    ) -> IMapIterator[T]:
        """`imap` for functions of several arguments: an iterator over `func(*x)`, in order."""
        items: IMapIterator[T] = self._imap(
            func, iterable, worker.STAR, chunksize, buffersize, True, "{0:n}", options
        )
        return items

    def istarmap_unordered(
        self,
        func: Callable[..., T],
        iterable: Iterable[Iterable[Any]],
        chunksize: int = 1,
        buffersize: int | None = None,
        **options: Unpack[CallOptions],
    ) -> IMapIterator[T]:
        """`istarmap` with results in the order of their arrival."""
        items: IMapIterator[T] = self._imap(
            func, iterable, worker.STAR, chunksize, buffersize, False, "{0!r}", options
        )
        return items

    def _map(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Any],
        mode: int,
        chunksize: int | None,
        callback: Callable[[list[Any]], object] | None,
        error_callback: Callable[[BaseException], object] | None,
        options: CallOptions,
        method: str,
    ) -> MapResult[Any]:
        keeper = self._check_running()
        wanted = _Options(options)
        wanted.checked.refuse_place("map")
        if not hasattr(iterable, "__len__"):
            with self._pulls.turn():
                source = iter(iterable)
            iterable = list(self._pulls.each(source))
        length = len(iterable)  # type: ignore[arg-type]
        size = chunksize
        if size is None:
            workers = sum(node.workers for node in self.nodes) or 1
            size = -(-length // (workers * 4))
        if length == 0 or size <= 0:
            size = 0
        size = operator.index(size)
        wanted.check_chunk(chunksize)
        self._check_running()  # the iterable may have ended it
        result: MapResult[Any] = MapResult(self, size, length, callback, error_callback)
        result._returns_exceptions = wanted.checked.returns_exceptions
        result._reporter = show(result, wanted.progress, length)
        if size == 0:
            return result
        job = self._job(result, func, mode, wanted, method)
        if job is not None:
            job.total = length
            job.chunk = size if chunksize is not None else wanted.chunk
            self._start(keeper, job, iterable)
        return result

    def _imap(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Any],
        mode: int,
        chunksize: int,
        buffersize: int | None,
        ordered: bool,
        shown: str,
        options: CallOptions,
    ) -> Any:
        keeper = self._check_running()
        wanted = _Options(options)
        wanted.checked.refuse_place("imap")
        if chunksize < 1:
            raise ValueError(f"Chunksize must be 1+, not {shown.format(chunksize)}")
        if buffersize is not None:
            if not isinstance(buffersize, int):
                raise TypeError("buffersize must be an integer or None")
            if buffersize < 1:
                raise ValueError("buffersize must be None or > 0")
        wanted.check_chunk(chunksize)
        result: Any
        if chunksize == 1:
            result = IMapIterator(self) if ordered else IMapUnorderedIterator(self)
        else:
            chunksize = operator.index(chunksize)
            result = Chunks(self) if ordered else UnorderedChunks(self)
        result._returns_exceptions = wanted.checked.returns_exceptions
        length = _length_of(iterable) if wanted.progress is not None else None
        show(result, wanted.progress, length)
        method = f"i{'star' if mode == worker.STAR else ''}map{'' if ordered else '_unordered'}"
        job = self._job(result, func, mode, wanted, method)
        if job is not None:
            job.chunk = int(chunksize)
            job.limit = buffersize
            if buffersize is not None:
                with contextlib.suppress(Exception):
                    job.length = len(iterable)  # type: ignore[arg-type]
                result.on_read = partial(keeper.tell, "read", job)
            self._start(keeper, job, iterable)
        return result if chunksize == 1 else ItemIterator(result)

    def _start(self, keeper: Keeper, job: Job, iterable: Iterable[Any]) -> None:
        job.is_fed = False
        job.feeder = Feeder(job, iterable, keeper.numbers, self._pulls, keeper.tell)
        keeper.submit(job)
        job.feeder.start()

    # ---- the end ----

    def close(self) -> None:
        """Accept no more calls. The nodes' pools end when all submitted calls are done."""
        if self._state == RUN:
            self._state = CLOSE
            assert self._keeper is not None
            self._keeper.tell("close")

    def terminate(self) -> None:
        """End now: pending calls fail with `PoolTerminated`, and the nodes end their workers."""
        self._state = TERMINATE
        self._terminate()

    def join(self, timeout: float | None = None) -> None:
        """Wait for the nodes' pools to end; `close()` or `terminate()` comes first.

        Without a `timeout`, ends the input of each `imap` whose buffer (`buffersize`) is full of
        unread results: reading on raises `PoolError`. Raises `ValueError` for a pool that is
        running, and `multiprocessing.TimeoutError` after `timeout` seconds; `join()` can be called
        again.
        """
        if self._state == RUN:
            raise ValueError("Pool is still running")
        keeper = self._keeper
        assert keeper is not None
        keeper.check_process()
        if timeout is None and self._state == CLOSE:
            feeder = feeder_here()
            is_needed = (
                feeder is not None and feeder.pulls is self._pulls and not feeder.job.is_over
            )
            if is_needed or keeper.helper.is_current():
                raise RuntimeError(
                    "a callback or an iterable cannot join the pool that waits for it"
                )
        timeout = seconds_of(timeout)
        end = None if timeout is None else time.monotonic() + timeout
        if timeout is None:
            keeper.tell("join")
        if not keeper.ended.wait(timeout):
            raise TimeoutError
        keeper.thread.join(_left(end))
        # After terminate() a callback may block for ever.
        is_closed = self._state == CLOSE
        if not keeper.helper.join(_left(end) if is_closed else 1.0) and is_closed:
            raise TimeoutError

    def __enter__(self) -> Self:
        self._check_running()
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._on_exit == "join" and exc_info[0] is None:
            self.close()
            self.join()
        else:
            self.terminate()

    async def __aenter__(self) -> Self:
        self._check_running()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        from .._engine.loops import leave

        await leave(self)

    def __repr__(self) -> str:
        return f"<{type(self).__module__}.Pool state={self._state} nodes={len(self.nodes)}>"

    def __reduce__(self) -> NoReturn:
        raise NotImplementedError("pool objects cannot be passed between processes or pickled")


def _left(end: float | None) -> float | None:
    """The seconds until this time of `time.monotonic()`, for a wait."""
    return None if end is None else max(0.0, end - time.monotonic())


def _not_here(name: str) -> Callable[..., Any]:
    def method(self: Pool, *args: Any, **kwds: Any) -> NoReturn:
        refuse_method(name)

    method.__name__ = name
    method.__qualname__ = f"Pool.{name}"
    method.__doc__ = f"Raises `ValueError`. {NOT_HERE[name][0].upper()}{NOT_HERE[name][1:]}."
    return method


for _name in NOT_HERE:
    setattr(Pool, _name, _not_here(_name))


class _Options:
    """The keyword-only parameters of one call: those of `cpool.Pool`, checked as there."""

    def __init__(self, asked: CallOptions) -> None:
        checked = check_options(asked)
        refuse_worker(asked)
        check_kind(checked.progress)
        self.checked = checked
        self.progress = checked.progress
        self.of_chunk: dict[str, Any] = {
            "retries": operator.index(asked.get("retries", 0)),
            "retry_on": frozenset(worker.names_of(cls)[0] for cls in checked.retry_on),
            "return_exceptions": bool(asked.get("return_exceptions")),
            "pool": {
                name: value
                for name, value in asked.items()
                if name in ("task_timeout", "grace") and value is not None
            },
        }
        self.has_limit = asked.get("task_timeout") is not None
        self.fail_fast = bool(asked.get("fail_fast"))
        self.priority = operator.index(asked.get("priority", 0))
        self.key: int | None = None  # its number
        self.chunk = 1 if checked.wants_single_items else None

    def place(self, keys: Keys) -> None:
        """Give the key of a single call its number, by which the nodes know it."""
        if self.checked.has_place:
            self.key = keys.number(self.checked.key)
            self.of_chunk["pool"]["key"] = self.key

    def check_chunk(self, chunksize: int | None) -> None:
        """Raise for a chunk whose items cannot have a time limit each."""
        if self.has_limit and chunksize is not None and chunksize > 1:
            raise ValueError("on a cluster task_timeout needs chunks of one item: chunksize=1")


def _not_sent(error: BaseException) -> Arrived:
    """The outcome of each item of a call that cannot be pickled."""
    return Arrived(0, 1, worker.FAILURE, [], error)


def _shown(result: Any) -> Any:
    """The value of a result. Its progress is shown to the end."""
    with result._reporter:
        return result.get()


# ---- making and ending what the pool has in the cluster ----


def _client(given: Any, owned: list[Any]) -> Client:
    """The client for what the program gave; what is started for it is added to `owned`."""
    if isinstance(given, Client):
        if given.asynchronous:
            raise ValueError("the pool needs a Client that is not asynchronous")
        if given.status != "running":
            raise ValueError(f"the Client is {given.status}")
        return given
    if given is None:
        given = LocalCluster(
            n_workers=1,
            threads_per_worker=default_processes(),
            dashboard_address=":0",
            host="127.0.0.1",
        )
        owned.append(given)
    client = Client(given, set_as_default=False)
    owned.append(client)
    return client


def _check_versions(client: Client) -> None:
    """Raise `VersionMismatchError` if the scheduler or a node has other versions."""
    found = []
    here = versions()
    told = client.get_versions(packages=[DISTRIBUTION])
    for where, each in [("the scheduler", told["scheduler"]), *told["workers"].items()]:
        if not isinstance(each, dict) or "packages" not in each:
            continue  # a worker that is leaving
        packages = dict(each["packages"])
        packages["cpool"] = packages.get(DISTRIBUTION)
        packages["python"] = ".".join(str(packages["python"]).split(".")[:2])
        there = {package: packages.get(package) or "none" for package in PACKAGES}
        name = where if where == "the scheduler" else f"node {where}"
        found += mismatches(here, there, name)
    if found:
        raise VersionMismatchError(say(found), found)


def _register(client: Client, plugin: NodePlugin) -> None:
    """Make the nodes' pools. A node that is lost meanwhile is not waited for."""
    for is_last in (False, False, True):
        try:
            client.register_plugin(plugin)
            return
        except OSError:
            if is_last or client.status != "running":
                raise


def _ignore(event: object) -> None:
    """Handle a message to a pool that has ended. A client never drops a handler; the pool's own
    would keep the pool."""


def _end(name: str, client: Client, owned: list[Any], is_connected: bool) -> None:
    """End the nodes' pools, and what the pool started itself. [the keeper's thread]"""
    if is_connected:
        with contextlib.suppress(Exception):  # the connection may end at any time
            # The client keeps the handler of a topic for ever: not this pool's.
            client.subscribe_topic(plugin_name(name), _ignore)
            client.unsubscribe_topic(plugin_name(name))
            # With a limit: a node may be frozen, and dask would wait until it gives the node up.
            client.sync(
                client.scheduler.unregister_worker_plugin,
                name=plugin_name(name),
                callback_timeout=_GRACE,
            )
    if is_connected:
        with contextlib.suppress(Exception):
            client.sync(client.scheduler.cpool_close, pool=name, callback_timeout=_GRACE)
    for each in reversed(owned):
        with contextlib.suppress(Exception):
            each.close()


_pools: weakref.WeakSet[Pool] = weakref.WeakSet()


def _end_pools() -> None:
    """End the pools whose scheduler is in this process, when the main thread has ended.

    From then on no executor takes work, which this scheduler needs for each piece: it would log an
    error for each, and no call would end. Other pools end later, after all threads of the program.
    """
    here = {scheduler._address for scheduler in list(Scheduler._instances)}  # None: never started
    for pool in _pools.copy():
        if pool._client.scheduler and pool._client.scheduler.address in here:
            pool._terminate()


with contextlib.suppress(RuntimeError):  # this is imported while the interpreter ends
    # Like the executors of concurrent.futures, but before these, which were imported before.
    threading._register_atexit(_end_pools)  # type: ignore[attr-defined]


def _terminate(keeper: Keeper) -> None:
    keeper.tell("terminate")
    if threading.current_thread() is keeper.thread:
        return
    with contextlib.suppress(RuntimeError):
        asyncio.get_running_loop()
        return  # the collector runs this in an event loop, perhaps in the client's
    keeper.ended.wait(_GRACE)
