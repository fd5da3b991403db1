"""A node: the pool in a dask worker, and the dask task that runs a piece on it.

A piece is a list of chunks. Its task waits until workers of the node's pool are about to be idle,
asks the arbiter whether it may begin, hands its chunks to the pool, and sends results as they come.
As soon as its chunks are handed out it leaves dask's thread pool, so that the next piece can get
ready.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import pickle
import queue
import tempfile
import threading
import time
import uuid
from collections.abc import Callable

import distributed
from distributed import WorkerPlugin
from distributed.protocol import to_serialize
from distributed.utils import sync

from .. import pool as cpool
from .._base import failures
from .._base.stdlib import TYPE_CHECKING
from ..errors import InitializerError, PoolTerminated, WorkerLostError
from . import worker
from .arbiter import plugin_name
from .frames import Frames, loads
from .versions import mismatches, versions

if TYPE_CHECKING:
    from typing import Any

    from distributed import Worker

__all__ = ["LOST", "Chunk", "NodePlugin", "run_piece"]

# A chunk whose worker process died: (pid, exitcode) in place of a result.
LOST = 2

# A chunk that the initializer's failure ended: the report of its cause.
BROKEN = 3

# Results of a piece wait so long for others, to share a message.
_GATHER = 0.002

# The next piece begins when the chunks in the node's pool take no longer than this: before a worker
# is idle, since to ask the arbiter takes some milliseconds.
_SHORT = 0.05

# Callables of this many bytes or more go to the worker processes through a file.
_IN_FILE = 32 << 10

_nodes: dict[tuple[str, str], Node] = {}


class Node:
    """The pool of one cpool.distributed.Pool in this dask worker."""

    def __init__(self, name: str, dask: Worker, pool: cpool.Pool, workers: int) -> None:
        self.name = name
        self.dask = dask
        self.pool = pool
        self.workers = workers
        self.life = uuid.uuid4().hex
        self.turn = threading.Condition()
        self.pending = 0  # chunks in the pool
        self.seconds = 0.0  # a mean of how long chunks take
        self.is_ended = False
        self.entry = threading.Lock()  # held by the piece that begins next
        self.callables: dict[str, bytes | str] = {}
        self.folder: str | None = None

    def ask(self, what: str, **kwds: Any) -> Any:
        """Call the arbiter, on a thread."""
        return sync(self.dask.loop, getattr(self.dask.scheduler, what), pool=self.name, **kwds)

    # ---- callables ----

    def source(self, number: str, inline: bytes | None) -> bytes | str:
        """What worker processes get for a callable: its pickle, or the path of a file with it."""
        if inline is not None:
            return inline
        found = self.callables.get(number)
        if found is None:
            frames = self.ask("cpool_fetch", key=number)
            if frames is None:
                raise PoolTerminated("the pool was terminated before this piece began")
            [data] = frames.parts
            found = self.callables[number] = self._keep(number, bytes(data))
        return found

    def _keep(self, number: str, data: bytes) -> bytes | str:
        if len(data) < _IN_FILE:
            return data
        with self.turn:
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
        return (
            self.is_ended
            or self.pending < self.workers
            or self.pending * self.seconds < self.workers * _SHORT
        )

    def await_room(self) -> None:
        """Wait until a worker is idle, or will be soon."""
        with self.turn:
            self.turn.wait_for(self._has_room)

    def chunk_ended(self, seconds: float) -> None:
        with self.turn:
            self.pending -= 1
            self.seconds += (seconds - self.seconds) * 0.2
            self.turn.notify_all()

    def end(self) -> None:
        """End the pool; pieces that wait or run here see it."""
        with self.turn:
            self.is_ended = True
            self.turn.notify_all()
        self.pool.terminate()
        self.pool.join()
        self.forget(list(self.callables))
        if self.folder is not None:
            with contextlib.suppress(OSError):
                os.rmdir(self.folder)


class Chunk:
    """A chunk as it travels: its number, its callable's number and mode, options, and its data."""

    __slots__ = ("callable", "data", "mode", "number", "options")

    def __init__(
        self, number: int, callable: str, mode: int, options: dict[str, Any], data: list[Any]
    ) -> None:
        self.number = number
        self.callable = callable
        self.mode = mode
        self.options = options
        self.data = data

    def __reduce__(self) -> tuple[Any, ...]:
        return Chunk, (self.number, self.callable, self.mode, self.options, self.data)


class _Piece:
    """A piece that runs: its chunks' results, on their way from the pool to the program."""

    def __init__(self, node: Node, number: int, flush: float) -> None:
        self.node = node
        self.number = number
        self.flush = flush
        self.results: queue.SimpleQueue[tuple[int, Any, float]] = queue.SimpleQueue()

    def hand_over(self, chunk: Chunk, source: bytes | str, attempts: int = 0) -> None:
        """Give a chunk to the pool's workers."""
        node = self.node
        begun = time.monotonic()

        def came(value: tuple[Any, ...]) -> None:
            if (
                value[0] == worker.FAILURE
                and attempts < chunk.options["retries"]
                and not chunk.options["retry_on"].isdisjoint(value[2])
            ):
                self.hand_over(chunk, source, attempts + 1)
                return
            node.chunk_ended(value[1])
            self.results.put((chunk.number, value, value[1]))

        def failed(error: BaseException) -> None:
            took = time.monotonic() - begun
            if isinstance(error, WorkerLostError) and attempts < chunk.options["retries"]:
                with contextlib.suppress(ValueError):  # the pool has ended meanwhile
                    self.hand_over(chunk, source, attempts + 1)
                    return
            node.chunk_ended(took)
            self.results.put((chunk.number, _describe(error), took))

        node.pool.apply_async(
            worker.run_chunk,
            (
                chunk.callable,
                source,
                chunk.mode,
                chunk.options["return_exceptions"],
                *chunk.data,
            ),
            callback=came,
            error_callback=failed,
            **chunk.options["pool"],
        )

    def send(self, outcomes: list[tuple[int, Any, float]]) -> bool:
        """Send results to the program; False if nobody waits for them any more."""
        heads, parts = [], []
        for number, value, took in outcomes:
            kind, _, _, *data = value
            heads.append((number, kind, took, len(data)))
            parts.extend(data)
        head = pickle.dumps((self.node.dask.address, self.number, heads))
        data = to_serialize(Frames([head, *parts]))
        node = self.node
        sent: bool = node.ask("cpool_done", node=node.dask.address, life=node.life, data=data)
        return sent

    def pass_on(self, count: int) -> None:
        """Send the results of so many chunks, several in a message."""
        while count > 0:
            outcomes = [self.results.get()]
            since = time.monotonic()
            wait = _GATHER
            while len(outcomes) < count and (left := since + wait - time.monotonic()) > 0:
                with contextlib.suppress(queue.Empty):
                    outcomes.append(self.results.get(timeout=left))
                    # Short chunks: wait for the whole piece, which will be done soon.
                    wait = self.flush if self.node.seconds < self.flush / 2 else _GATHER
            count -= len(outcomes)
            if not self.send(outcomes):
                return


def _describe(error: BaseException) -> tuple[Any, ...]:
    """How a failure of the node's pool travels."""
    if isinstance(error, WorkerLostError):
        return LOST, 0.0, (), pickle.dumps((type(error), error.pid, error.exitcode, vars(error)))
    if isinstance(error, InitializerError):
        return BROKEN, 0.0, (), failures.pack_error(error.__cause__ or error, None)
    return worker.FAILURE, 0.0, (), failures.pack_error(error, None)


def run_piece(pool: str, number: int, frames: Frames | None, flush: float) -> str:
    """The dask task of one piece. Results go to the program by way of the arbiter.

    `frames` is the piece; None if the arbiter has it. `flush` is the number of seconds that
    results may wait for others of the piece. Returns a word for those who look at the task.
    """
    dask = distributed.get_worker()
    node = _nodes.get((pool, dask.id))
    if node is None:
        return "refused"
    with node.entry:
        if frames is None:
            frames = node.ask("cpool_fetch", key=str(number))
            if frames is None:
                return "refused"
        chunks, callables, forget = _unpack(frames)
        node.forget(forget)
        sources = {number: node.source(number, inline) for number, inline in callables.items()}
        node.await_room()
        if node.is_ended or not node.ask(
            "cpool_begin", piece=number, node=dask.address, life=node.life
        ):
            return "refused"
        piece = _Piece(node, number, flush)
        with node.turn:
            node.pending += len(chunks)
        for chunk in chunks:
            try:
                piece.hand_over(chunk, sources[chunk.callable])
            except Exception as exc:
                node.chunk_ended(0.0)
                piece.results.put((chunk.number, _describe(exc), 0.0))
    distributed.secede()
    piece.pass_on(len(chunks))
    return "done"


def pack_piece(
    chunks: list[Chunk], callables: dict[str, bytes | None], forget: list[str]
) -> list[Any]:
    """The parts of a piece's `Frames`."""
    heads: list[Any] = []
    parts: list[Any] = []
    for chunk in chunks:
        heads.append((chunk.number, chunk.callable, chunk.mode, chunk.options, len(chunk.data)))
        parts.extend(chunk.data)
    return [pickle.dumps((heads, callables, forget)), *parts]


def _unpack(frames: Frames) -> tuple[list[Chunk], dict[str, bytes | None], list[str]]:
    parts = iter(frames.parts)
    heads, callables, forget = loads(next(parts))
    chunks = [
        Chunk(number, callable, mode, options, [_sendable(next(parts)) for _ in range(count)])
        for number, callable, mode, options, count in heads
    ]
    return chunks, callables, forget


def _sendable(part: Any) -> Any:
    """A bytes-like object that the node's pool can pickle."""
    return pickle.PickleBuffer(part) if type(part) is memoryview else part


class NodePlugin(WorkerPlugin):  # type: ignore[misc]
    """Makes a node's pool when dask registers it, also on workers that join later."""

    def __init__(self, pool: str, options: dict[str, Any], only: list[str] | None) -> None:
        self.pool = pool
        self.name = plugin_name(pool)
        self.options = options
        self.only = only
        self.versions = versions()

    async def setup(self, worker: Worker) -> None:
        if self.only is not None and worker.address not in self.only:
            return
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
                _nodes[self.pool, worker.id] = node
        is_wanted = False
        with contextlib.suppress(OSError, RuntimeError):  # the dask worker is about to end
            is_wanted = await worker.scheduler.cpool_ready(
                pool=self.pool, node=worker.address, life=node.life if node else "", told=told
            )
        if not is_wanted:
            await self.teardown(worker)

    def _make_pool(self, workers: int) -> cpool.Pool:
        # A dask worker with a nanny is a daemonic process, which may have no children: they might
        # outlive it. cpool's workers end with their parent.
        multiprocessing.current_process()._config["daemon"] = False  # type: ignore[attr-defined]
        given = self.options
        initializer: Callable[..., object] | None = None
        if given["initializer"] is not None:
            initializer = worker.initialize
        return cpool.Pool(
            workers,
            initializer,
            (given["initializer"],) if initializer else (),
            given["maxtasksperchild"],
            multiprocessing.get_context(given["context"]),
            **given["more"],
        )

    async def teardown(self, worker: Worker) -> None:
        node = _nodes.pop((self.pool, worker.id), None)
        if node is not None:
            await asyncio.to_thread(node.end)
