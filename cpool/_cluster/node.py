"""A node: the pool in a dask worker, and the dask task that runs a piece on it.

A piece is a list of chunks. Its dask task waits until workers of the node's pool are about to be
idle, asks the arbiter whether it may begin, submits its chunks to the pool, and sends results as
they arrive. The task gives up its dask slot (secedes) at once, so a waiting piece blocks only the
pieces behind it. The task is a coroutine: no thread waits for a piece.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import itertools
import logging
import multiprocessing
import os
import pickle
import tempfile
import time
import uuid
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from functools import partial

from distributed import Status, WorkerPlugin
from distributed.protocol import Serialize, to_serialize
from distributed.worker_state_machine import SecedeEvent

from .. import pool as cpool
from .._base import failures
from .._base.stdlib import TYPE_CHECKING
from .._engine.statistics import brief_of
from ..errors import InitializerError, PoolTerminated, TaskCancelledError, WorkerLostError
from . import worker
from .arbiter import CANCEL, RELAY, plugin_name
from .frames import Frames, for_pool, loads
from .versions import mismatches, versions

if TYPE_CHECKING:
    from typing import Any

    from distributed import Worker

logger = logging.getLogger("cpool.distributed")

__all__ = [
    "APART", "LOST", "PAUSES", "TAKEN",
    "Chunk", "NodePlugin", "ask_arbiter", "dump_node", "opened", "pack_piece", "run_piece",
]  # fmt: skip

# Outcome of a chunk whose worker process died: a description of the error instead of results.
LOST = 2

# Outcome of a chunk if the initializer failed: a report of the initializer's exception.
BROKEN = 3

# Seconds that a result waits for others of its piece, to share a message.
_GATHER = 0.002

# The next piece begins when the chunks in the node's pool will take less than these seconds. That
# is before a worker is idle, since asking the arbiter takes some milliseconds.
_SHORT = 0.05

# The upper limit of those seconds, which grow with the arbiter's response time.
_LONGEST_WAY = 0.5

# If chunks take no more than these seconds, the next piece begins when each worker has one left.
_LAST = 0.1

# Seconds before each retry to reach the scheduler.
PAUSES = (0.05, 0.2, 1.0)

# Pieces and results of this many bytes or more go directly between the program and the node, where
# it can reach the node. Pieces that cannot are not sent inside their dask task, which the scheduler
# would deserialize: the node fetches them, with two more messages and their answers.
APART = 1 << 20

# How the program says that it has the results that it fetched.
TAKEN = "taken"

# Callables of this many bytes or more are passed to the worker processes in a file.
_IN_FILE = 32 << 10

# Pieces of this many bytes or more are pickled for the node's pool outside the event loop.
_IN_LOOP = 1 << 20

# Seconds for the finalizers of a pool's workers, if nothing runs any more.
_FINALIZERS = 5.0

# How many cancelled chunks to remember that are not here: not yet, or no longer. As many as may be
# on their way to a node (`plan.MOST`); an older one that did arrive would run.
_MOST_CANCELLED = 1 << 12

_nodes: dict[tuple[str, str], Node] = {}


def opened(message: Any) -> Any:
    """A message that may be marked to be serialized: in one process dask passes on the object."""
    return message.data if isinstance(message, Serialize) else message


async def ask_arbiter(dask: Any, is_there: Callable[[], bool], what: str, **kwds: Any) -> Any:
    """Call the arbiter, from a dask client or worker. Every request may be repeated.

    Retries if only the connection of this request breaks, as it may on a busy machine. Raises
    `OSError` if the scheduler cannot be reached; without a retry if `is_there()` is false.
    """
    for pause in PAUSES:
        try:
            return await getattr(dask.scheduler, what)(**kwds)
        except OSError:
            if not is_there():
                raise
            await asyncio.sleep(pause)
    return await getattr(dask.scheduler, what)(**kwds)


async def ask_scheduler(dask: Worker, what: str, **kwds: Any) -> Any:
    """`ask_arbiter()`, from a node."""

    def is_there() -> bool:
        return dask.status in (Status.running, Status.paused, Status.init)

    return await ask_arbiter(dask, is_there, what, **kwds)


class Node:
    """The part of one cpool.distributed.Pool in this dask worker. Used in dask's event loop."""

    def __init__(self, name: str, dask: Worker, pool: cpool.Pool, workers: int) -> None:
        self.name = name
        self.dask = dask
        self.pool = pool
        self.workers = workers
        self.life = uuid.uuid4().hex
        self.pending = 0  # chunks in the pool, without those with a key
        self.seconds = _SHORT  # mean duration of chunks
        self.way = 0.0  # mean response time of the arbiter, in seconds
        self.spread = 0.0  # mean deviation of these seconds
        self.heard = 0.0  # when the last chunk ended, or an idle pool got work
        self.is_ended = False
        self.entry = asyncio.Lock()  # held by the piece that begins next
        self.changed = asyncio.Event()  # set when there may be room
        self.loop = asyncio.get_running_loop()
        self.arrived: deque[Callable[[], None]] = deque()  # results that the loop has not handled
        self.is_told = False
        self.callables: dict[str, bytes | str] = {}
        self.folder: str | None = None
        self.running: dict[int, Any] = {}  # by chunk number, the results of chunks in the pool
        self.cancelled: OrderedDict[int, None] = OrderedDict()  # chunks that have not arrived yet
        self.given: dict[int, Frames] = {}  # pieces that the program has sent to this node directly
        self.kept: dict[int, _Kept] = {}  # results for the program to fetch, by key
        self.keys = itertools.count()

    async def ask(self, what: str, **kwds: Any) -> Any:
        """Call the arbiter."""
        return await ask_scheduler(self.dask, what, pool=self.name, **kwds)

    # ---- callables ----

    async def source(self, number: str, inline: bytes | None) -> bytes | str:
        """What worker processes get for a callable: its pickle, or the path of a file with it."""
        if inline is not None:
            return inline
        found = self.callables.get(number)
        if found is None:
            frames = opened(await self.ask("cpool_fetch", key=number))
            if frames is None:
                raise PoolTerminated("the pool was terminated before this piece began")
            [data] = frames.parts
            found = await asyncio.to_thread(self._keep, number, bytes(data))
            self.callables[number] = found
        return found

    def _keep(self, number: str, data: bytes) -> bytes | str:
        if len(data) < _IN_FILE:
            return data
        if self.folder is None:
            self.folder = tempfile.mkdtemp(prefix="cpool-", dir=self.dask.local_directory)
        path = os.path.join(self.folder, number)
        with open(path + ".new", "wb") as file:
            file.write(data)
        os.replace(path + ".new", path)
        return path

    def forget(self, numbers: list[str]) -> None:
        for number in numbers:
            kept = self.callables.pop(number, None)
            if isinstance(kept, str):
                with contextlib.suppress(OSError):
                    os.unlink(kept)

    # ---- turns ----

    def _has_room(self) -> bool:
        if self.is_ended or self.pending < self.workers:
            return True
        short = max(_SHORT, min(self.way + 4 * self.spread, _LONGEST_WAY))
        if _SHORT < self.seconds <= _LAST:  # not for chunks that were not measured
            short = max(short, 1.1 * self.seconds)  # while each worker runs its last chunk
        if time.monotonic() - self.heard > short:
            return False  # they take longer than earlier chunks, so the mean tells nothing
        return self.pending * self.seconds < self.workers * short

    async def begin(self, piece: int) -> bool:
        """Ask the arbiter whether a piece may begin."""
        asked = time.monotonic()
        is_free: bool = await self.ask(
            "cpool_begin",
            piece=piece,
            node=self.dask.address,
            life=self.life,
            run=uuid.uuid4().hex,
        )
        late = time.monotonic() - asked - self.way
        self.way += late * 0.2
        self.spread += (abs(late) - self.spread) * 0.2
        return is_free

    async def await_room(self) -> None:
        """Wait until a worker is idle or will soon be idle."""
        while not self._has_room():
            self.changed.clear()
            await self.changed.wait()

    def chunk_ended(self, chunk: Chunk, seconds: float) -> None:
        self.pending -= not chunk.has_key
        self.heard = time.monotonic()
        self.seconds += (seconds - self.seconds) * 0.2
        self.changed.set()

    def tell(self, what: Callable[[], None]) -> None:
        """Have the event loop call `what`, in order. [any thread]"""
        self.arrived.append(what)
        if not self.is_told:
            self.is_told = True
            with contextlib.suppress(RuntimeError):  # the event loop is closed
                self.loop.call_soon_threadsafe(self._hear)

    def _hear(self) -> None:
        self.is_told = False
        while self.arrived:
            self.arrived.popleft()()

    def cancel(self, numbers: list[int], kill: bool) -> None:
        """Cancel these chunks. They may have ended, or not have arrived yet."""
        for number in numbers:
            result = self.running.get(number)
            if result is not None:
                result.cancel(kill)
                continue
            self.cancelled[number] = None
            if len(self.cancelled) > _MOST_CANCELLED:
                self.cancelled.popitem(last=False)

    def relay(self, key: int) -> None:
        """The program could not fetch these results: send them through the scheduler."""
        if (kept := self.kept.get(key)) is not None:
            kept.end(False)

    def leave_slot(self, key: Any) -> None:
        """Let dask start another task while this one runs, as `distributed.secede` does."""
        self.dask.handle_stimulus(
            SecedeEvent(key=key, compute_duration=0.0, stimulus_id=f"secede-{time.time()}")
        )

    async def end(self) -> None:
        """End the pool; pieces that wait or run here notice."""
        self.is_ended = True
        self.changed.set()
        self.given.clear()
        for kept in self.kept.values():
            kept.end(True)  # nobody waits for it
        await asyncio.to_thread(self._end_pool)

    def _end_pool(self) -> None:
        if self.pool._finalizer is not None and not self.running:
            # terminate() would give the finalizers only half a second.
            self.pool.close()
            with contextlib.suppress(multiprocessing.TimeoutError):
                self.pool.join(_FINALIZERS)
        self.pool.terminate()
        self.pool.join()
        self.forget(list(self.callables))
        if self.folder is not None:
            with contextlib.suppress(OSError):
                os.rmdir(self.folder)


class NodePool(cpool.Pool):
    """The pool in a dask worker. Its processes do not import the dask worker's main module, which
    would import dask in each: functions of a program's main module travel by value."""

    _imports_main = False


class Chunk:
    """A chunk as it is sent: its number, its callable's number, mode, options, and data.

    `first` is the number of its first item in the call, -1 for the item of an `apply`.
    """

    __slots__ = ("callable", "data", "first", "mode", "number", "options")

    def __init__(
        self,
        number: int,
        callable: str,
        mode: int,
        options: dict[str, Any],
        first: int,
        data: list[Any],
    ) -> None:
        self.number = number
        self.callable = callable
        self.mode = mode
        self.options = options
        self.first = first
        self.data = data

    @property
    def has_key(self) -> bool:
        """Is it for one worker? Then it waits for that worker, and does not block others."""
        return "key" in self.options["pool"]

    def __reduce__(self) -> tuple[Any, ...]:
        return Chunk, (
            self.number, self.callable, self.mode, self.options, self.first, self.data
        )  # fmt: skip


class _Kept:
    """Results that stay on the node until the program has fetched them."""

    def __init__(self, frames: Frames) -> None:
        self.frames = frames
        # Has the program fetched them? False: send them through the scheduler.
        self.is_taken: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    def end(self, is_taken: bool) -> None:
        if not self.is_taken.done():
            self.is_taken.set_result(is_taken)


class _Piece:
    """A running piece: passes its chunks' results from the pool to the program."""

    def __init__(self, node: Node, number: int, flush: float, came: float, direct: bool) -> None:
        self.node = node
        self.is_direct = direct  # does the program fetch large results from this node?
        self.came = came  # when the piece arrived
        self.number = number
        self.flush = flush
        # For each chunk: its number, its value, its seconds, and how often it was run again.
        self.results: list[tuple[int, Any, float, int]] = []
        self.ended: set[int] = set()  # chunks that have an outcome
        self.news = asyncio.Event()

    def hand_over(self, chunk: Chunk, source: bytes | str, attempts: int = 0) -> None:
        """Submit a chunk to the node's pool."""
        node = self.node
        begun = time.monotonic()
        if chunk.number in node.cancelled:
            del node.cancelled[chunk.number]
            cancelled = _describe(TaskCancelledError("the call was cancelled"))
            # Through the loop: this may be another thread.
            node.tell(partial(self.add, chunk, cancelled, node.seconds, attempts))
            return

        def came(value: tuple[Any, ...]) -> None:
            node.tell(partial(take, value))

        def take(value: tuple[Any, ...]) -> None:
            if (
                value[0] == worker.FAILURE
                and attempts < chunk.options["retries"]
                and not chunk.options["retry_on"].isdisjoint(value[2])
            ):
                self.hand_over(chunk, source, attempts + 1)
                return
            self.add(chunk, value, value[1], attempts)

        def failed(error: BaseException) -> None:
            node.tell(partial(take_failure, error))

        def take_failure(error: BaseException) -> None:
            if isinstance(error, WorkerLostError) and attempts < chunk.options["retries"]:
                self.hand_over(chunk, source, attempts + 1)
                return
            self.add(chunk, _describe(error), time.monotonic() - begun, attempts)

        try:
            node.running[chunk.number] = node.pool.apply_async(
                worker.run_chunk,
                (
                    chunk.callable,
                    source,
                    chunk.mode,
                    _raised(chunk.options, attempts),
                    (chunk.options["call"], chunk.first, node.dask.address),
                    *chunk.data,
                ),
                callback=came,
                error_callback=failed,
                **chunk.options["pool"],
            )
            if attempts >= chunk.options["retries"]:
                chunk.data = []  # the pool has it now
            if chunk.number in self.ended:  # this is another thread than the loop's
                node.running.pop(chunk.number, None)
        except Exception as exc:  # the pool has ended, or memory is out
            failed(exc)

    def add(self, chunk: Chunk, value: tuple[Any, ...], took: float, attempts: int) -> None:
        self.ended.add(chunk.number)
        self.node.running.pop(chunk.number, None)
        self.node.chunk_ended(chunk, took)
        self.results.append((chunk.number, value, took, attempts))
        self.news.set()

    async def send(self, outcomes: list[tuple[int, Any, float, int]]) -> bool:
        """Send results to the program. Returns False if nobody waits for them any more."""
        heads, parts = [], []
        for number, value, took, attempts in outcomes:
            kind, _, _, *data = value
            heads.append((number, kind, took, attempts, len(data)))
            parts.extend(data)
        node = self.node
        stayed = time.monotonic() - self.came
        head = pickle.dumps((node.dask.address, self.number, brief_of(node.pool), stayed, heads))
        frames = Frames([head, *parts])
        if self.is_direct and frames.nbytes >= APART:
            key = next(node.keys)
            kept = node.kept[key] = _Kept(frames)
            try:
                if node.is_ended or not await self._done(
                    {"op": "kept", "node": node.dask.address, "piece": self.number, "key": key}
                ):
                    return False
                if await kept.is_taken:
                    return True
            finally:
                del node.kept[key]
        return await self._done(to_serialize(frames))

    async def _done(self, data: Any) -> bool:
        """Send a message to the program. False: nobody waits for it any more."""
        node = self.node
        sent: bool = await node.ask("cpool_done", node=node.dask.address, life=node.life, data=data)
        return sent

    async def pass_on(self, count: int) -> None:
        """Send the results of `count` chunks, several in one message."""
        while count > 0:
            await self._wait(None)
            # If chunks are short, wait for the whole piece, which will be done soon.
            left = self.flush if self.node.seconds < self.flush / 2 else _GATHER
            end = time.monotonic() + left
            while len(self.results) < count and left > 0:
                await self._wait(left)
                left = end - time.monotonic()
            outcomes, self.results = self.results, []
            self.news.clear()
            count -= len(outcomes)
            if not await self.send(outcomes):
                return

    async def _wait(self, timeout: float | None) -> None:
        """Wait for a new result."""
        with contextlib.suppress(TimeoutError, asyncio.TimeoutError):
            await asyncio.wait_for(self.news.wait(), timeout)
        if timeout is not None:
            self.news.clear()


def _raised(options: dict[str, Any], attempts: int) -> frozenset[str] | None:
    """What `worker.run_chunk` raises: all that an item raises, or that it is run again for."""
    if not options["return_exceptions"]:
        return None
    found: frozenset[str] = options["retry_on"]
    return found if attempts < options["retries"] else frozenset()


def _cancel(address: str, pool: str, numbers: list[int], kill: bool) -> None:
    """Handle a message of the arbiter: cancel chunks."""
    node = _nodes.get((pool, address))
    if node is not None:
        node.cancel(numbers, kill)


def _relay(address: str, pool: str, key: int) -> None:
    """Handle a message of the arbiter: send results through the scheduler."""
    node = _nodes.get((pool, address))
    if node is not None:
        node.relay(key)


# The program's requests. dask wants functions with names.


def _reach(comm: Any, pool: str, address: str, life: str) -> bool:
    """Answer the program: is this the node that it means?"""
    node = _nodes.get((pool, address))
    return node is not None and node.life == life


def _give(comm: Any, pool: str, address: str, life: str, piece: int, data: Frames) -> bool:
    """Take a large piece from the program, whose dask task follows."""
    node = _nodes.get((pool, address))
    if node is None or node.life != life or node.is_ended:
        return False
    node.given[piece] = data
    return True


async def _take(comm: Any, pool: str, address: str, life: str, key: int) -> Any:
    """Answer the program with results. It says that it has them; until then the node keeps them."""
    node = _nodes.get((pool, address))
    kept = None if node is None or node.life != life else node.kept.get(key)
    if kept is None:
        return None
    is_taken = False
    try:
        await comm.write(to_serialize(kept.frames))
        is_taken = await comm.read() == TAKEN
    except OSError:
        comm.abort()
    finally:
        kept.end(is_taken)
    return Status.dont_reply


def _describe(error: BaseException) -> tuple[Any, ...]:
    """The outcome to send for a failure of the node's pool."""
    if isinstance(error, WorkerLostError):
        told = (type(error), str(error), error.pid, error.exitcode, vars(error))
        return LOST, 0.0, (), pickle.dumps(told)
    if isinstance(error, InitializerError):
        return BROKEN, 0.0, (), failures.pack_error(error.__cause__ or error, None)
    return worker.FAILURE, 0.0, (), failures.pack_error(error, None)


async def dump_node(pool: str, dask_worker: Worker) -> str:
    """The dump of a pool's workers on this node, as text. The program calls this through dask."""
    node = _nodes.get((pool, dask_worker.address))
    if node is None:
        return ""
    text = io.StringIO()
    await asyncio.to_thread(node.pool.dump, text)
    return text.getvalue()


async def run_piece(
    pool: str,
    address: str,
    life: str,
    key: Any,
    number: int,
    frames: Frames | None,
    flush: float,
    direct: bool,
) -> str:
    """The dask task of one piece. Results are sent to the program through the arbiter.

    `life` is the life of the node that the piece is for: not of another one with its address.
    `frames` is the piece; None if the program has given it to the node, or the arbiter has it.
    `flush` is how many seconds results may wait for others of the piece. `direct`: the program
    fetches large results here. Returns "done" or "refused", for people who look at the dask task.
    """
    came = time.monotonic()
    node = _nodes.get((pool, address))
    if node is None or node.life != life:
        return "refused"
    try:
        return await _run_piece(node, key, number, frames, flush, came, direct)
    finally:
        node.given.pop(number, None)


async def _run_piece(
    node: Node,
    key: Any,
    number: int,
    frames: Frames | None,
    flush: float,
    came: float,
    direct: bool,
) -> str:
    # Before waiting: other pools and other users of dask have tasks here too.
    node.leave_slot(key)
    async with node.entry:
        if frames is None:
            frames = node.given.pop(number, None)
            if frames is None:
                frames = opened(await node.ask("cpool_fetch", key=str(number)))
            if frames is None:
                return "refused"
        chunks, callables, forget = _unpack(frames)
        node.forget(forget)
        sources = {name: await node.source(name, inline) for name, inline in callables.items()}
        counted = sum(not chunk.has_key for chunk in chunks)
        if counted:
            await node.await_room()
        if node.is_ended or not await node.begin(number):
            return "refused"
        piece = _Piece(node, number, flush, came, direct)
        if node.pending == 0:
            node.heard = time.monotonic()
        node.pending += counted

        def hand_over() -> None:
            for chunk in chunks:
                piece.hand_over(chunk, sources[chunk.callable])

        if frames.nbytes < _IN_LOOP:
            hand_over()
        else:
            await asyncio.to_thread(hand_over)
        del frames
    await piece.pass_on(len(chunks))
    return "done"


def pack_piece(
    chunks: list[Chunk], callables: dict[str, bytes | None], forget: list[str]
) -> list[Any]:
    """The parts of a piece's `Frames`."""
    heads: list[Any] = []
    parts: list[Any] = []
    for chunk in chunks:
        head = chunk.number, chunk.callable, chunk.mode, chunk.options, chunk.first
        heads.append((*head, len(chunk.data)))
        parts.extend(chunk.data)
    return [pickle.dumps((heads, callables, forget)), *parts]


def _unpack(frames: Frames) -> tuple[list[Chunk], dict[str, bytes | None], list[str]]:
    parts = iter(frames.parts)
    heads, callables, forget = loads(next(parts))
    chunks = [
        Chunk(number, name, mode, options, first, _data(itertools.islice(parts, count)))
        for number, name, mode, options, first, count in heads
    ]
    return chunks, callables, forget


def _data(parts: Iterator[Any]) -> list[Any]:
    """The data of a chunk, as objects that the node's pool can pickle."""
    first = next(parts)
    return [
        pickle.PickleBuffer(first) if type(first) is memoryview else first,
        *map(for_pool, parts),
    ]


class NodePlugin(WorkerPlugin):  # type: ignore[misc]
    """A dask plugin that makes a node's pool, also in dask workers that join later."""

    def __init__(self, pool: str, options: dict[str, Any], only: list[str] | None) -> None:
        self.pool = pool
        self.name = plugin_name(pool)
        self.options = options
        self.only = only
        self.versions = versions()

    async def setup(self, worker: Worker) -> None:
        if self.only is not None and worker.address not in self.only:
            return
        worker.stream_handlers[CANCEL] = partial(_cancel, worker.address)
        worker.stream_handlers[RELAY] = partial(_relay, worker.address)
        worker.handlers.update(cpool_reach=_reach, cpool_give=_give, cpool_take=_take)
        told: dict[str, Any] = {"refused": None, "pid": os.getpid(), "workers": 0}
        node = None
        found = mismatches(self.versions, versions(), f"node {worker.address}")
        if found:
            told["refused"] = found
        else:
            workers = self.options["processes"] or worker.state.nthreads
            try:
                pool = await asyncio.to_thread(self._make_pool, workers)
            except Exception as exc:
                told["refused"] = f"{type(exc).__name__}: {exc}"
            else:
                node = Node(self.pool, worker, pool, workers)
                told["workers"] = workers
                _nodes[self.pool, worker.address] = node
        is_wanted = False
        try:
            is_wanted = await ask_scheduler(
                worker,
                "cpool_ready",
                pool=self.pool,
                node=worker.address,
                life=node.life if node else "",
                told=told,
            )
        except (OSError, RuntimeError):  # the dask worker is ending
            if node is not None and worker.status == Status.running:
                logger.exception("cpool: node %s is not used", worker.address)
        if not is_wanted:
            await self.teardown(worker)

    def _make_pool(self, workers: int) -> cpool.Pool:
        # A dask worker with a nanny is a daemonic process, which may not have children, as they
        # might outlive it. cpool's workers end with their parent, so lift the restriction.
        multiprocessing.current_process()._config["daemon"] = False  # type: ignore[attr-defined]
        given = self.options
        more = dict(given["more"])
        if "finalizer" in more:
            more.update(finalizer=worker.finalize, finalargs=(more["finalizer"],))
        if "env" in more:
            more["env"] = loads(more["env"])
        # The fork server imports it once for all workers.
        more["preload"] = (worker.__name__, *more.get("preload", ()))
        initializer: Callable[..., object] | None = None
        if given["initializer"] is not None:
            initializer = worker.initialize
        return NodePool(
            workers,
            initializer,
            (given["initializer"],) if initializer else (),
            given["maxtasksperchild"],
            multiprocessing.get_context(given["context"]),
            serial=False,  # ignore CPOOL_SERIAL in the dask worker's environment
            **more,
        )

    async def teardown(self, worker: Worker) -> None:
        node = _nodes.pop((self.pool, worker.address), None)
        if node is not None:
            await node.end()
