"""The keeper, the thread that knows the nodes and sends chunks to them; and its helper thread.

Every change of state arrives as a message in one queue: from the program, from feeders, from the
cluster. The keeper handles the messages, then sends out all chunks for which nodes have room. No
code of the program runs on its thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import math
import os
import pickle
import queue
import threading
import time
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
from functools import partial

import dask
from distributed import Client
from distributed.core import send_recv
from distributed.protocol import to_serialize

from .._base import failures
from .._base.stdlib import TYPE_CHECKING
from ..errors import PoolError
from . import node as remote
from . import plan, worker
from .errors import NodeLostError, SchedulerLostError
from .frames import Frames, loads
from .jobs import Job, Part
from .results import Arrived, Ends
from .statistics import ClusterStatistics, NodeStatistics, Tally
from .versions import say
from .waiting import Keyed, Waiting

if TYPE_CHECKING:
    from typing import Any

__all__ = ["Helper", "Keeper", "Node"]

logger = logging.getLogger("cpool.distributed")

# While calls are pending: seconds between checks of the connection and of the dask tasks.
_LOOK = 0.5

# Callables of fewer bytes are sent with each piece; others once to the scheduler and to each node.
_INLINE = 4 << 10

# The most bytes of a piece, unless a single chunk has more.
_MOST_BYTES = 32 << 20

# The most bytes of chunks to send to a node, unless its workers would be idle.
_MOST_THERE = 2 * _MOST_BYTES

# Seconds for a node to answer whether the program reaches it directly. Nothing waits for that.
_REACH = 5.0

# Finished pieces are kept for the dashboard until there are at least so many; then those whose dask
# tasks have ended are dropped.
_MOST_ENDING = 64

# The most bytes of finished pieces to keep.
_MOST_ENDING_BYTES = 4 << 20

# The arbiter is told to drop so many finished pieces at a time.
_MOST_STALE = 100

# How often to send a piece again whose dask task failed before the piece began.
_MOST_FAILURES = 3


class Node:
    """A node of the cluster that this pool uses, with what it has done for the pool.

    `address` (a str) and `pid` (an int) are those of the dask worker, `workers` is the number of
    processes in its pool, `items` the number of items that they have done and `seconds` the time
    that these took (a float).
    """

    def __init__(self, address: str, life: str, pid: int, workers: int) -> None:
        self.address = address
        self.life = life
        self.is_direct: bool | None = None  # can it be reached directly? None: not yet known
        self.comms: set[Any] = set()  # connections of requests to it, in the client's event loop
        self.pid = pid
        self.workers = workers
        self.items = 0
        self.seconds = 0.0
        self.chunks = 0
        self.done = self.failed = self.lost = self.retried = 0  # items of calls not cancelled
        self.sent = self.received = 0  # bytes
        self.restarts = 0
        self.shared_memory = [0, 0]  # bytes: all, and those in use
        self.pieces: dict[int, Piece] = {}
        self.count = 0  # chunks that it has now
        self.outstanding = 0.0  # seconds that these would take one worker
        self.extra = 0  # chunks beyond its room
        self.bytes = 0  # of the chunks that it has now
        self.known: set[str] = set()  # callables that it may have cached
        self.keys = 0  # how many keys of calls have their worker here

    def statistics(self, is_there: bool) -> NodeStatistics:
        """A snapshot of what the node has done."""
        return NodeStatistics(
            address=self.address,
            pid=self.pid,
            workers=self.workers,
            is_there=is_there,
            chunks=self.chunks,
            done=self.done,
            failed=self.failed,
            lost=self.lost,
            retried=self.retried,
            work_seconds=self.seconds,
            bytes_sent=self.sent,
            bytes_received=self.received,
            restarts=self.restarts,
            shared_memory=self.shared_memory[0] if is_there else 0,
            shared_memory_in_use=self.shared_memory[1] if is_there else 0,
        )

    def __repr__(self) -> str:
        return (
            f"<Node {self.address}: {self.workers} workers, {self.items} items done "
            f"in {self.seconds:.1f} s, {self.count} chunks there>"
        )


class Piece:
    """Chunks that are sent together to one node."""

    __slots__ = (
        "future", "has_ended", "is_recalled", "node", "number", "parts", "sent", "size"
    )  # fmt: skip

    def __init__(self, number: int, node: Node, parts: list[Part]) -> None:
        self.number = number
        self.node = node
        self.parts = {part.number: part for part in parts}
        self.future: Any = None
        self.has_ended = False  # had its dask task ended at the last check?
        self.is_recalled = False  # was it recalled once?
        self.sent = time.monotonic()
        self.size = sum(part.size for part in parts)


class Upload:
    """A large callable that the arbiter keeps for the nodes as long as calls use it."""

    __slots__ = ("data", "is_there", "number")

    def __init__(self, number: str, data: bytes) -> None:
        self.number = number
        self.data = data
        self.is_there = False  # has it arrived? Set in the client's event loop.


class Helper:
    """A thread that unpickles results of calls with callbacks, and runs the callbacks."""

    def __init__(self) -> None:
        self.calls: queue.SimpleQueue[Callable[[], Any] | None] = queue.SimpleQueue()
        self.thread: threading.Thread | None = None
        self.lock = threading.Lock()

    def call(self, func: Callable[[], Any]) -> None:
        with self.lock:
            if self.thread is None:
                self.thread = threading.Thread(target=self._run, name="cpool-helper", daemon=True)
                self.thread.start()
        self.calls.put(func)

    def _run(self) -> None:
        while (func := self.calls.get()) is not None:
            func()
            del func

    def stop(self) -> None:
        self.calls.put(None)

    def is_current(self) -> bool:
        """Is this its thread?"""
        return self.thread is threading.current_thread()

    def join(self, timeout: float | None) -> bool:
        """Has the thread ended, or is it the present one?"""
        if self.thread is None or self.is_current():
            return True
        self.thread.join(timeout)
        return not self.thread.is_alive()


def _first_of(part: Part) -> int:
    """The number of its first item in the call; -1 for the item of an `apply`."""
    job = part.job
    if job.mode == worker.APPLY:
        return -1
    return part.start if job.total is not None else part.start * (job.chunk or 1)


def _index_of(part: Part) -> int | None:
    """The number of the item in its call, for errors; None for `apply` and for several items."""
    return _first_of(part) if part.count == 1 and part.job.mode != worker.APPLY else None


def _name_of(part: Part) -> str:
    """How messages name a chunk, as in those of `cpool.Pool`."""
    call: str = part.job.options["call"]
    first = _first_of(part)
    if first < 0:
        return call
    if part.count == 1:
        return f"item {first} of {call}"
    return f"items {first} to {first + part.count - 1} of {call}"


class Keeper:
    """See the module's docstring. `end(is_connected)` ends the pool's parts in the cluster."""

    def __init__(self, pool: str, client: Client, end: Callable[[bool], None]) -> None:
        self.pool = pool
        self.client = client
        self.end_cluster = end
        self.events: queue.SimpleQueue[tuple[str, tuple[Any, ...]]] = queue.SimpleQueue()
        self.helper = Helper()
        self.ends = Ends(self.helper, self.check_process)
        self.ended = threading.Event()
        self.numbers: Iterator[int] = itertools.count()  # of chunks
        self.pieces: dict[int, Piece] = {}
        self.piece_numbers = itertools.count()
        self.nodes: dict[str, Node] = {}
        self.jobs: dict[int, Job] = {}  # calls that have not ended, by number
        self.changed: OrderedDict[Job, None] = OrderedDict()  # calls that may have ended
        self.feeding: OrderedDict[Job, None] = OrderedDict()  # calls that have more items to pull
        self.waiting = Waiting()  # calls that have chunks to send
        self.keyed = Keyed(self.waiting)
        self.ready = 0  # number of chunks to send, without those of calls with keys
        self.cancels: dict[bool, dict[str, list[int]]] = {}  # chunks to cancel, by kill= and node
        self.places: dict[int, Node] = {}  # the node for calls with a key, by the key's number
        self.cache: dict[int, Any] = {}
        self.uploads: dict[str, Upload] = {}
        self.users: dict[str, int] = {}  # how many calls use a callable
        # For requests about callables: one is dropped and sent again in the order of the calls.
        self.in_order = asyncio.Lock()
        self.stale: list[int] = []  # numbers of pieces that the arbiter may drop
        # Pieces whose begin the arbiter was asked to forbid, where no answer came.
        self.unanswered: list[tuple[Piece, Callable[[bool], None]]] = []
        self.revoked: list[Piece] = []  # forbidden to begin, dask task not ended
        self.ending: list[Piece] = []  # pieces with all results, whose dask tasks have not ended
        self.ending_bytes = 0  # of these pieces, in the scheduler
        self.most_ending = _MOST_ENDING
        self.tally = Tally()
        self.failures = 0
        self.next_look = 0.0
        self.latency = 0.0  # mean round-trip time of a piece, in seconds, without its work
        self.spread = 0.0  # mean deviation of these seconds
        self.expected: list[tuple[int, threading.Event]] = []
        self.is_closing = False
        self.is_joined = False
        self.is_ending = False
        self.lost: BaseException | None = None
        self.thread = threading.Thread(target=self._run, name="cpool-keeper", daemon=True)
        self.process = os.getpid()

    def is_copy(self) -> bool:
        """Is this a copy of the process, which has no keeper?"""
        return os.getpid() != self.process

    def check_process(self) -> None:
        """`ValueError` in a copy of the process: waits would not end."""
        if self.is_copy():
            failures.raise_foreign()

    # ---- messages ----

    def tell(self, what: str, *args: Any) -> None:
        """Send the keeper a message. [any thread]"""
        self.events.put((what, args))

    def submit(self, job: Job) -> None:
        """Begin a call. `ValueError` if the pool has ended. [any thread]"""
        self.tell("submit", job)
        if self.ended.is_set():
            self._refuse_late()
        if job.is_refused:
            raise ValueError("Pool not running")

    def _refuse_late(self) -> None:
        """Refuse the calls that came while the pool ended. [any thread, once `ended` is set]"""
        with contextlib.suppress(queue.Empty):
            while True:
                what, args = self.events.get_nowait()
                if what == "submit":
                    self._refuse(args[0], ValueError("Pool not running"))

    def _refuse(self, job: Job, error: BaseException) -> None:
        job.is_over = True
        job.is_refused = isinstance(error, ValueError)
        job.result.fail(error)
        if job.feeder is not None:
            job.feeder.stop()

    def hear(self, event: tuple[float, Any]) -> None:
        """Receive a message of the arbiter. [the client's event loop]"""
        message = remote.opened(event[1])
        if message is not event[1]:
            event[1].data = None  # dask keeps the last thousand messages
        if isinstance(message, Frames):
            self.tell("results", message)
        else:
            op = message.pop("op")
            self.tell(op, *message.values())

    def _run(self) -> None:
        while not self.ended.is_set():
            is_looking = bool(self.jobs or self.ending)
            if is_looking and time.monotonic() >= self.next_look:
                self.next_look = time.monotonic() + _LOOK
                self._guarded(self._look)
            try:
                what, args = self.events.get(timeout=_LOOK if is_looking else None)
            except queue.Empty:
                continue
            while True:
                self._guarded(self._take_in, what, args)
                del what, args
                try:
                    what, args = self.events.get_nowait()
                except queue.Empty:
                    break
            if not self.ended.is_set():
                for act in self._hand_out, self._end_jobs, self._tell_cancels:
                    self._guarded(act)
        self._refuse_late()

    def _take_in(self, what: str, args: tuple[Any, ...]) -> None:
        getattr(self, f"_on_{what}")(*args)

    def _guarded(self, act: Callable[..., None], *args: Any) -> None:
        try:
            act(*args)
        except Exception as exc:
            # A bug of the pool, or out of memory: fail all calls rather than hang.
            logger.exception("cpool: the pool on the cluster failed")
            self._fail_all(exc)

    # ---- the program's messages ----

    def _on_submit(self, job: Job) -> None:
        if self.lost is not None:
            self._refuse(job, self.lost)
            return
        if self.is_ending:
            self._refuse(job, ValueError("Pool not running"))
            return
        self.jobs[job.result._job] = job
        self.tally.submitted += len(job.ready)  # the item of an apply()
        if job.ready:
            self._add_ready(job, len(job.ready))
        if not job.is_fed:  # False here if the iterable's iter() failed
            self.feeding[job] = None
        self.changed[job] = None
        self.users[job.callable] = self.users.get(job.callable, 0) + 1

    def _on_fed(self, job: Job, made: list[Any]) -> None:
        if job.is_over:
            return
        for part in made:
            if job.is_over:
                break  # a chunk before this one ended it, with fail_fast
            job.asked -= 1
            job.made += 1
            if isinstance(part, Part):
                self.tally.submitted += part.count
                job.pulled += part.count
                job.bytes += part.size
                job.ready.append(part)
                self._add_ready(job, 1)
            else:
                start, count, error = part
                job.pulled += count
                self.tally.submitted += count
                self.tally.failed_here += count
                self._deliver(job, Arrived(start, count, worker.FAILURE, [], error))

    def _on_fed_up(self, job: Job, length: int, error: BaseException | None) -> None:
        """The iterable has ended, or has raised an exception."""
        job.asked = 0
        job.is_fed = True
        self.feeding.pop(job, None)
        self.changed[job] = None
        if job.is_over:
            return
        if job.total is None:
            if error is not None:
                job.last = length, error  # raised after the results that come before it
                length += 1
            job.result.set_length(length)
        elif error is not None:
            self._fail(job, error)
        elif length != job.total:
            more = "more" if length > job.total else "fewer"
            text = f"the iterable gave {more} items than its length, {job.total}"
            self._fail(job, ValueError(text))

    def _on_read(self, job: Job) -> None:
        job.read += 1

    def _on_cancel(self, result: Any, kill: bool) -> None:
        """The program has cancelled a call or closed its iterator; its result is already marked."""
        job = self.jobs.get(result._job)
        if job is not None and not job.is_over:
            self._withdraw(job, kill)
            self._leave(job)

    def _withdraw(self, job: Job, kill: bool) -> None:
        """Tell the nodes to drop the chunks of a call; `kill`: also those that are running."""
        cancels = self.cancels.setdefault(kill, {})
        for number, part in job.flying.items():
            cancels.setdefault(part.node, []).append(number)

    def _tell_cancels(self) -> None:
        """Send the cancellations to the nodes, those of many calls in one message."""
        for kill, chunks in self.cancels.items():
            if chunks:
                self._tell_arbiter("cpool_cancel", chunks=chunks, kill=kill)
        self.cancels.clear()

    def _on_expect(self, count: int, enough: threading.Event) -> None:
        self.expected.append((count, enough))
        self._count_nodes()

    def _count_nodes(self) -> None:
        for waiting in list(self.expected):
            if len(self.nodes) >= waiting[0]:
                self.expected.remove(waiting)
                waiting[1].set()

    def _on_tally(self, answer: Callable[[ClusterStatistics], None]) -> None:
        answer(self.statistics())

    def statistics(self) -> ClusterStatistics:
        """The counted statistics. [the keeper's thread; any thread once the pool ends]"""
        return self.tally.statistics(list(self.nodes.values()))

    def _on_close(self) -> None:
        self.is_closing = True

    def _on_join(self) -> None:
        self.is_joined = True

    def _end_unread(self) -> None:
        """join() waits: end the input of calls whose buffers (`buffersize`) nobody reads."""
        for job in list(self.feeding):
            is_full = job.limit is not None and job.made - job.read >= job.limit
            if not is_full or job.asked or job.ready or job.flying:
                job.was_full = -1
            elif job.was_full != job.read:
                job.was_full = job.read
            else:
                assert job.feeder is not None
                job.feeder.stop()
                is_whole = job.pulled == job.length
                self._on_fed_up(job, job.made, None if is_whole else failures.not_read())

    def _on_terminate(self) -> None:
        self._fail_all(failures.terminated())
        self._end()

    # ---- the cluster's messages ----

    def _on_ready(self, address: str, life: str, refused: Any, pid: int, workers: int) -> None:
        if refused is None:
            self.nodes[address] = Node(address, life, pid, workers)
            self._count_nodes()
            return
        why = refused if isinstance(refused, str) else say(refused)
        warnings.warn(f"node {address} is not used: {why}", RuntimeWarning, stacklevel=2)

    def _on_lost(self, address: str, begun: list[int]) -> None:
        """A node has left. Pieces that it has not begun run on other nodes."""
        gone = self.nodes.pop(address, None)
        if gone is not None:
            self.tally.leave(gone)
            self._cut(gone)
        # Not gone.pieces: a node that was refused meanwhile has left the table, with pieces.
        for piece in [each for each in self.pieces.values() if each.node.address == address]:
            self._give_up(piece, piece.number in begun, None)

    def _on_kept(self, address: str, number: int, key: int) -> None:
        """A node has large results. Fetch them there, or have them sent through the scheduler."""
        piece = self.pieces.get(number)
        node = self.nodes.get(address) if piece is None else piece.node

        async def take() -> None:
            frames = node and await self._direct(node, "cpool_take", key=key)
            if frames is None:
                await self._ask("cpool_relay", node=address, key=key)
            else:
                self.tell("results", frames)

        self._in_loop(take, piece)

    def _on_results(self, frames: Frames) -> None:
        parts = iter(frames.parts)
        _, number, brief, stayed, heads = pickle.loads(next(parts))
        piece = self.pieces.get(number)
        if piece is not None:
            if frames.nbytes >= remote.APART:
                self._reach(piece.node)
            piece.node.restarts, *piece.node.shared_memory = brief
            piece.node.received += frames.nbytes
        for chunk, kind, took, attempts, count in heads:
            data = list(itertools.islice(parts, count))
            if piece is None or (part := piece.parts.pop(chunk, None)) is None:
                continue
            node = piece.node
            self._take_off(node, part)
            node.seconds += took
            node.items += part.count
            node.chunks += 1
            node.retried += attempts * part.count
            if kind == worker.VALUE:
                part.job.speed.add(took, part.count)
                if part.job.speed.fresh:
                    self.waiting.measured(part.job.speed)
            if part.job.is_over:
                continue  # its items were counted as cancelled
            if kind == worker.VALUE:
                node.done += part.count
            elif kind == remote.LOST:
                node.lost += part.count
            else:
                node.failed += part.count
            self._deliver(part.job, self._outcome(part, node, kind, data))
        if piece is not None and not piece.parts:
            self.failures = 0
            late = max(0.0, time.monotonic() - piece.sent - stayed) - self.latency
            self.latency += late * 0.2
            self.spread += (abs(late) - self.spread) * 0.2
            if piece.future is not None:
                self._keep_until_over(piece)
            self._drop(piece)

    def _keep_until_over(self, piece: Piece) -> None:
        """Keep a piece until its dask task ends: the dashboard shows no task that is released
        before."""
        self.ending.append(piece)
        self.ending_bytes += piece.size
        if len(self.ending) >= self.most_ending or self.ending_bytes > _MOST_ENDING_BYTES:
            self._forget_ended()
            self.most_ending = max(_MOST_ENDING, 2 * len(self.ending))

    def _forget_ended(self) -> None:
        self.ending = [
            piece
            for piece in self.ending
            if not piece.future.done() and self.nodes.get(piece.node.address) is piece.node
        ]
        self.ending_bytes = sum(piece.size for piece in self.ending)

    def _outcome(self, part: Part, node: Node, kind: int, data: list[Any]) -> Arrived:
        if kind == remote.LOST:
            cls, text, pid, exitcode, told = loads(data[0])
            job = part.job
            ran = f"Pool.apply_async({worker.__name__}.run_chunk)"
            text = text.replace(ran, _name_of(part))
            first, *stack = text.split("\n", 1)
            text = "\n".join([f"{first} (on node {node.address})", *stack])
            error: BaseException = cls(text, pid, exitcode)
            error.__dict__.update(told, node=node.address, function=job.name, index=_index_of(part))
            return Arrived(part.start, part.count, worker.FAILURE, [], error)
        if kind == remote.BROKEN:
            error = failures.broken(failures.unpack_error(memoryview(data[0])))
            return Arrived(part.start, part.count, worker.FAILURE, [], error, True)
        return Arrived(part.start, part.count, kind, data)

    def _task_ended(self, piece: Piece, future: Any) -> None:
        """The dask task of a piece ended some time ago, but not all of its results have arrived."""
        piece.future = None
        error = future.exception() if future.status == "error" else None
        self._revoke(piece, partial(self._was_refused, piece, error))

    def _was_refused(self, piece: Piece, error: BaseException | None, is_free: bool) -> None:
        if self.pieces.get(piece.number) is not piece:
            return
        if error is None:
            # The pool on the node has ended: do not use the node until it reports that it is ready.
            if self.nodes.get(piece.node.address) is piece.node:
                del self.nodes[piece.node.address]
                self.tally.leave(piece.node)
            for other in list(piece.node.pieces.values()):
                if other is not piece:
                    self._revoke(other, partial(self._other_ended, other))
        else:
            self.failures += 1
            is_free = is_free and self.failures <= _MOST_FAILURES
        self._give_up(piece, not is_free, error)

    def _other_ended(self, piece: Piece, is_free: bool) -> None:
        if self.pieces.get(piece.number) is piece and is_free:
            self._give_up(piece, False, None)

    def _recall(self) -> None:
        """Recall a piece that waits on a busy node, if another node has nothing to do."""
        nodes = [node for node in self.nodes.values() if node.workers > 0]
        if all(node.count > 0 for node in nodes) or self.waiting.levels:
            return
        for node in nodes:
            waiting = [
                piece
                for piece in [*node.pieces.values()][1:]
                if piece.future is not None
                and not piece.is_recalled
                and all(part.job.key is None for part in piece.parts.values())
            ]
            if waiting and time.monotonic() - waiting[-1].sent > max(_LOOK / 2, 4 * self.latency):
                waiting[-1].is_recalled = True
                self._revoke(waiting[-1], partial(self._other_ended, waiting[-1]))

    def _on_revoked(self, piece: Piece, then: Callable[[bool], None], is_free: bool | None) -> None:
        if is_free is not None:
            then(is_free)
        elif self._is_connected():
            self.unanswered.append((piece, then))  # only this message's connection broke
        else:
            self._lose_scheduler()

    def _revoke(self, piece: Piece, then: Callable[[bool], None]) -> None:
        """Ask the arbiter to forbid a piece to begin. Calls then(True) if it has not begun."""

        async def ask() -> None:
            is_free = None
            try:
                is_free = await self.client.scheduler.cpool_revoke(
                    pool=self.pool, piece=piece.number
                )
            finally:
                self.tell("revoked", piece, then, is_free)

        self.client.loop.add_callback(ask)

    def _give_up(self, piece: Piece, has_begun: bool, error: BaseException | None) -> None:
        """The node of a piece is lost, or its task failed: run its chunks elsewhere, or fail
        them."""
        node = piece.node
        again: list[Part] = []
        for part in piece.parts.values():
            self._take_off(node, part)
            if part.job.is_over:
                continue
            part.attempts += has_begun
            if not has_begun or part.attempts <= part.job.retries:
                node.retried += has_begun * part.count
                again.append(part)
                continue
            node.lost += part.count
            failure: BaseException
            if error is None:
                failure = NodeLostError(
                    f"node {node.address} (process {node.pid}) left the cluster while it ran "
                    f"{_name_of(part)}; the task may have run in part. With retries=1 it would "
                    "run again on another node",
                    node.pid,
                    None,
                    _index_of(part),
                    part.job.name,
                    node.address,
                )
            else:
                failure = PoolError(f"node {node.address} could not run the task: {error!r}")
                failure.__cause__ = error
            self._deliver(part.job, Arrived(part.start, part.count, worker.FAILURE, [], failure))
        for part in reversed(again):
            part.job.ready.appendleft(part)
            self._add_ready(part.job, 1)
        if not has_begun and piece.future is not None and node.address in self.nodes:
            self.revoked.append(piece)  # its dask task may still ask whether it may begin
        self._drop(piece)

    # ---- calls ----

    def _deliver(self, job: Job, outcome: Arrived) -> None:
        if job.fail_fast and (outcome.error is not None or outcome.kind != worker.VALUE):
            self._end_job(job, outcome)
        else:
            job.result.arrive(outcome)

    def _fail(self, job: Job, error: BaseException) -> None:
        self._end_job(job, Arrived.failure(error))

    def _end_job(self, job: Job, failure: Arrived) -> None:
        """End a call: withdraw chunks that have not begun, and do not wait for running ones."""
        job.result.end(failure)
        self._withdraw(job, False)
        self._leave(job)

    def _leave(self, job: Job) -> None:
        if not job.is_over:
            left = (*job.ready, *job.flying.values())
            self.tally.cancelled += sum(part.count for part in left)
        job.is_over = True
        job.is_fed = True
        if job.key is None:
            self.ready -= len(job.ready)
        job.ready.clear()
        (self.waiting if job.key is None else self.keyed).remove(job)
        self.feeding.pop(job, None)
        self.changed[job] = None
        if job.feeder is not None:
            job.feeder.stop()

    def _fail_all(self, error: BaseException) -> None:
        for job in list(self.jobs.values()):
            self._leave(job)
        for result in list(self.cache.values()):
            result.abandon(error)

    def _end_jobs(self) -> None:
        while self.changed:
            job, _ = self.changed.popitem(last=False)
            number = job.result._job
            if number in self.jobs and (job.is_over or job.has_ended()):
                if job.last is not None and not job.is_over:
                    place, error = job.last
                    self._deliver(job, Arrived.failure(error, place))
                del self.jobs[number]
                self._leave(job)
                self.cache.pop(number, None) if job.total is None else None
                self._forget_callable(job)
        if self.is_closing and not self.jobs:
            self._end()

    def _forget_callable(self, job: Job) -> None:
        number = job.callable
        self.users[number] -= 1
        if self.users[number] == 0:
            del self.users[number]
            if self.uploads.pop(number, None) is not None:

                async def drop() -> None:
                    async with self.in_order:
                        await self._ask("cpool_drop", keys=[number], pieces=[])

                self._in_loop(drop)

    # ---- handing out ----

    def _add_ready(self, job: Job, chunks: int) -> None:
        """A call has this many more chunks to send."""
        if job.key is None:
            self.ready += chunks
            self.waiting.add(job)
        else:
            self.keyed.add(job)

    def _hand_out(self) -> None:
        nodes = [node for node in self.nodes.values() if node.workers > 0]
        if not nodes or not (self.feeding or self.waiting.levels):
            return
        workers = sum(node.workers for node in nodes)
        self._ask_feeders(nodes, workers)
        for is_extra in (False, True):
            sent = bool(self.waiting.levels)
            while sent:
                sent = False
                # Rounded, since sums of floats are not exact: if all chunks of all nodes are of
                # unknown duration, an idle node must come first.
                nodes.sort(key=lambda node: (round(node.outstanding / node.workers, 6), node.count))
                ready = self.ready
                for node in nodes:
                    most = math.ceil(ready * node.workers / workers)
                    parts = self._choose(node, len(nodes), most, is_extra)
                    if parts:
                        self._send(node, parts)
                        sent = True

    def _room(self, job: Job, node: Node, length: int, nodes: int, is_extra: bool) -> int:
        if is_extra:
            # A call whose nodes are filled by other calls gets a share of each node at once.
            return max(0, node.workers - max(node.extra, len(job.flying)))
        if node.bytes >= _MOST_THERE and node.count > node.workers:
            return 0
        return plan.room(
            job.speed,
            length,
            node.outstanding,
            node.count,
            node.workers,
            nodes,
            self.latency + 2 * self.spread,
        )

    def _place(self, key: int) -> Node:
        """The node for the calls of a key."""
        node = self.places.get(key)
        if node is None or self.nodes.get(node.address) is not node:
            nodes = [node for node in self.nodes.values() if node.workers > 0]
            node = min(nodes, key=lambda node: node.keys / node.workers)
            node.keys += 1
            self.places[key] = node
        return node

    def _put_on(self, node: Node, part: Part, seconds: float, is_extra: bool) -> None:
        """Assign the chunk to the node. A chunk with a key waits for its own worker: it takes no
        room."""
        job = part.job
        job.flying[part.number] = part
        part.seconds = seconds
        part.is_extra = is_extra
        part.node = node.address
        node.bytes += part.size
        if job.key is not None:
            return
        node.extra += is_extra
        node.count += 1
        node.outstanding += seconds

    def _take_off(self, node: Node, part: Part) -> None:
        """The node no longer has the chunk."""
        del part.job.flying[part.number]
        self.changed[part.job] = None
        node.bytes -= part.size
        if part.job.key is not None:
            self.keyed.leave(part.job)
            return
        node.count -= 1
        node.outstanding = node.outstanding - part.seconds if node.count else 0.0
        node.extra -= part.is_extra

    def _choose(self, node: Node, nodes: int, most: int, is_extra: bool) -> list[Part]:
        """Take chunks for one piece for this node; calls take turns."""
        parts: list[Part] = []
        size = 0
        seconds = 0.0
        longest = plan.piece_seconds(nodes, node.workers) * node.workers
        is_full = False
        for level in self.waiting.by_priority():
            served: list[Job] = []
            for job in level.in_turn():
                if job.key is not None:
                    if self._place(job.key) is not node:
                        continue
                    left = 1
                else:
                    left = min(self._room(job, node, job.ready[0].count, nodes, is_extra), most)
                    if left <= 0:
                        # Except for extra shares, the room is the same for all calls of a queue.
                        if not is_extra or most <= 0 or node.extra >= node.workers:
                            assert job.line is not None
                            level.closed.append(job.line)
                        continue
                each = job.speed.seconds
                taken = len(parts)
                while left > 0 and job.ready:
                    part = job.ready[0]
                    took = 0.0 if each is None else each * part.count
                    is_full = bool(parts) and (
                        size + part.size > _MOST_BYTES
                        or seconds + took > longest
                        or len(parts) >= plan.MOST
                    )
                    if is_full:
                        break
                    job.ready.popleft()
                    self._put_on(node, part, took, is_extra)
                    parts.append(part)
                    size += part.size
                    seconds += took
                    left -= 1
                    if job.key is None:
                        most -= 1
                        self.ready -= 1
                if len(parts) > taken:
                    served.append(job)
                if is_full:
                    break
            for job in served:
                self.waiting.again(job)  # calls take turns: the next piece begins with another call
            if is_full or level.measured or level.fresh:
                break  # not yet: calls of lower priority
        return parts

    def _ask_feeders(self, nodes: list[Node], workers: int) -> None:
        for job in self.feeding:
            assert job.feeder is not None
            left = None if job.total is None else job.total - job.taken
            if left is not None and left <= 0:
                continue
            length = job.chunk
            if length is None:
                assert left is not None
                least = min(node.workers for node in nodes)
                length = plan.chunk_length(job.speed, left, least, workers, len(nodes))
            wanted = sum(self._room(job, node, length, len(nodes), False) for node in nodes)
            if job.speed.seconds is None:
                known = len(job.flying) + len(job.ready) + job.asked
                wanted = min(wanted, max(0, plan.FIRST_IN_ALL - known))
            # Make some before there is room: when room comes, a call of higher priority must have
            # chunks.
            wanted = max(wanted, min(node.workers for node in nodes))
            # And enough for a whole piece for each node, so that pieces are not too short.
            wanted += sum(
                plan.in_piece(job.speed, length, node.workers, len(nodes)) for node in nodes
            )
            if job.bytes:
                most = len(nodes) * _MOST_THERE * job.made // job.bytes
                wanted = min(wanted, max(most, workers))
            wanted -= len(job.ready) + job.asked
            if left is not None:
                wanted = min(wanted, -(-left // length))
            if job.limit is not None:
                wanted = min(wanted, job.limit - (job.made + job.asked - job.read))
            if wanted > 0:
                job.asked += wanted
                job.taken += wanted * length
                job.feeder.ask(wanted, length)

    def _send(self, node: Node, parts: list[Part]) -> None:
        piece = Piece(next(self.piece_numbers), node, parts)
        callables: dict[str, bytes | None] = {}
        uploads: dict[str, Upload] = {}
        for part in parts:
            job = part.job
            if len(job.pickled) < _INLINE:
                callables[job.callable] = job.pickled
                continue
            callables[job.callable] = None
            node.known.add(job.callable)
            upload = self.uploads.get(job.callable)
            if upload is None:
                upload = self.uploads[job.callable] = Upload(job.callable, job.pickled)
                node.sent += len(job.pickled)
            if not upload.is_there:
                uploads[job.callable] = upload
        stale = [number for number in node.known if number not in self.users]
        node.known.difference_update(stale)
        chunks = [
            remote.Chunk(
                part.number,
                part.job.callable,
                part.job.mode,
                part.job.options,
                _first_of(part),
                part.data,
            )
            for part in parts
        ]
        frames = Frames(remote.pack_piece(chunks, callables, stale))
        node.sent += frames.nbytes
        self.pieces[piece.number] = node.pieces[piece.number] = piece
        name = parts[0].job.name
        if not uploads and frames.nbytes < remote.APART:
            try:
                self._submit(piece, frames, name)
            except Exception as exc:  # the client is closed
                self._on_broken(exc, piece)
            return

        async def send() -> None:
            # The piece comes after its callables, also those that an earlier piece sends.
            async with self.in_order:
                for upload in uploads.values():
                    if not upload.is_there:
                        data = to_serialize(Frames([upload.data]))
                        await self._ask("cpool_put", key=upload.number, data=data)
                        upload.is_there = True
            inline: Frames | None = frames
            if frames.nbytes >= remote.APART:
                inline = None
                data = to_serialize(frames)
                if not await self._direct(node, "cpool_give", piece=piece.number, data=data):
                    if self.pieces.get(piece.number) is not piece:
                        return  # the node was lost meanwhile
                    await self._ask("cpool_put", key=str(piece.number), data=data)
            self._submit(piece, inline, name)

        if frames.nbytes >= remote.APART:
            self._reach(node)
        self._in_loop(send, piece)

    # ---- between the program and a node, without the scheduler ----

    def _reach(self, node: Node) -> None:
        """Find out whether the program can reach the node. Until then nothing is sent directly."""
        if node.is_direct is not None:
            return
        node.is_direct = False
        if node.address.startswith("inproc"):
            return  # in this process: the scheduler passes objects on

        async def ask() -> None:
            found: bool | None = False
            try:
                found = bool(await asyncio.wait_for(self._call(node, "cpool_reach"), _REACH))
            except TimeoutError:
                found = None  # it is busy, or behind a firewall: ask again
            except Exception as exc:
                logger.info("cpool: node %s cannot be reached directly: %r", node.address, exc)
            node.is_direct = found

        self._in_loop(ask)

    async def _call(self, node: Node, what: str, **kwds: Any) -> Any:
        """A request to a node. [the client's event loop]"""
        pool = self.client.rpc
        comm = await pool.connect(node.address)
        node.comms.add(comm)
        try:
            if self.nodes.get(node.address) is not node:
                raise OSError(f"node {node.address} has left the cluster")
            answer = await send_recv(
                comm, op=what, pool=self.pool, address=node.address, life=node.life, **kwds
            )
            if isinstance(answer, Frames):
                with contextlib.suppress(OSError):  # then the node sends them again
                    await comm.write(remote.TAKEN)
            return answer
        except BaseException:
            comm.abort()  # an answer may be on its way
            raise
        finally:
            node.comms.discard(comm)
            pool.reuse(node.address, comm)

    async def _direct(self, node: Node, what: str, **kwds: Any) -> Any:
        """A request to a node. None if it cannot be reached, or refuses."""
        if not node.is_direct:
            return None
        try:
            return await self._call(node, what, **kwds)
        except Exception as exc:
            logger.info("cpool: node %s was not reached directly: %r", node.address, exc)
            node.is_direct = None
            return None

    def _cut(self, node: Node) -> None:
        """End the requests to a node that was lost: if it is frozen, it may never answer."""

        def cut() -> None:
            for comm in list(node.comms):
                comm.abort()
            self.client.rpc.remove(node.address)

        if node.is_direct is not None:
            self.client.loop.add_callback(cut)

    def _submit(self, piece: Piece, frames: Frames | None, name: str) -> None:
        """Submit the piece as a dask task for this node only, named after the function."""
        key = f"{name}-{self.pool}", piece.number  # dask groups by the name, and by name and pool
        # dask never drops a span, and would make a new one whenever no task is left. So each pool
        # has one, which the arbiter trims.
        with dask.annotate(span={"name": ("cpool",), "ids": (self.pool,)}):
            future = self.client.submit(
                remote.run_piece,
                self.pool,
                piece.node.address,
                piece.node.life,
                key,
                piece.number,
                frames,
                plan.piece_seconds(len(self.nodes), piece.node.workers),
                bool(piece.node.is_direct),
                key=key,
                workers=[piece.node.address],
                allow_other_workers=False,
                retries=0,
                pure=False,
            )
        piece.future = future

    def _drop(self, piece: Piece) -> None:
        """All chunks of a piece have an outcome."""
        self.pieces.pop(piece.number, None)
        piece.node.pieces.pop(piece.number, None)
        if piece in self.revoked:
            return
        self.stale.append(piece.number)
        if len(self.stale) >= _MOST_STALE:
            self._tell_arbiter(
                "cpool_drop", keys=[str(number) for number in self.stale], pieces=self.stale
            )
            self.stale = []

    def _in_loop(self, work: Callable[[], Any], piece: Piece | None = None) -> None:
        """Run a coroutine in the client's event loop, which sends this piece if there is one."""

        async def run() -> None:
            try:
                await work()
            except Exception as exc:
                self.tell("broken", exc, piece)

        self.client.loop.add_callback(run)

    async def _ask(self, what: str, **kwds: Any) -> Any:
        return await remote.ask_arbiter(
            self.client, self._is_connected, what, pool=self.pool, **kwds
        )

    def _tell_arbiter(self, what: str, **kwds: Any) -> None:
        self._in_loop(partial(self._ask, what, **kwds))

    # ---- the end ----

    def _is_connected(self) -> bool:
        return bool(self.client.status == "running")

    def _look(self) -> None:
        if not self._is_connected():
            self._lose_scheduler()
            return
        for piece in list(self.pieces.values()):
            future = piece.future
            if future is None or not future.done():
                continue
            if piece.has_ended:
                self._task_ended(piece, future)
            piece.has_ended = True
        for piece in list(self.revoked):
            if piece.future.done() or piece.node.address not in self.nodes:
                self.revoked.remove(piece)
                self._drop(piece)
        again, self.unanswered = self.unanswered, []
        for piece, then in again:
            self._revoke(piece, then)
        self._forget_ended()
        self._recall()
        if self.is_joined:
            self._end_unread()
            self._end_jobs()

    def _on_broken(self, error: Exception, piece: Piece | None) -> None:
        """A request to the scheduler has failed. If it was to send a piece, its items fail."""
        if self._is_connected() and isinstance(error, OSError):
            time.sleep(0.05)  # the client may notice the lost connection a moment later
        if not self._is_connected():
            self._lose_scheduler()
        elif piece is None:
            # The arbiter keeps some data until the pool ends, or cancelled chunks run.
            logger.warning("cpool: a message did not reach the scheduler: %r", error)
        elif self.pieces.get(piece.number) is piece:
            for part in piece.parts.values():
                self._take_off(piece.node, part)
                if not part.job.is_over:
                    self.tally.failed_here += part.count
                    self._deliver(part.job, self._unsent(part, error))
            self._drop(piece)

    def _unsent(self, part: Part, error: Exception) -> Arrived:
        what = f"a message for {_name_of(part)}"
        failure = PoolError(f"{what} did not reach the scheduler: {error!r}")
        failure.__cause__ = error
        return Arrived(part.start, part.count, worker.FAILURE, [], failure)

    def _lose_scheduler(self) -> None:
        if self.lost is None:
            self.lost = SchedulerLostError(
                "the connection to the scheduler was lost: all pending calls have failed, and this"
                " pool can run no more; tasks that had begun may go on in the cluster"
            )
        self._fail_all(self.lost)

    def _end(self) -> None:
        if self.ended.is_set():
            return
        self.is_ending = True
        self.helper.stop()
        for piece in (*self.pieces.values(), *self.ending, *self.revoked):
            piece.future = None
        self.pieces.clear()
        self.ending = self.revoked = []
        try:
            self.end_cluster(self.lost is None and self._is_connected())
        finally:
            self.ended.set()
