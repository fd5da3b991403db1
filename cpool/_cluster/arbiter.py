"""The arbiter, a plugin of dask's scheduler: it allows each piece to begin, exactly once.

A piece is a group of chunks that is sent to one node. Only the arbiter knows both which nodes the
cluster has and which pieces have begun. So a piece that has not begun when its node is lost can run
on another node, and no piece runs twice, whatever dask does with its dask task.
"""

from __future__ import annotations

import asyncio
import contextlib
import time

from distributed import SchedulerPlugin

from .._base.stdlib import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

    from distributed import Scheduler

__all__ = ["CANCEL", "NAME", "RELAY", "Arbiter", "plugin_name"]

# Change this name when the messages change: one cluster may serve clients with two versions of
# cpool.
NAME = "cpool-arbiter-4"

# The names of the handlers in nodes: for cancellations, and for results that the program could not
# fetch from the node.
CANCEL = "cpool_cancel"
RELAY = "cpool_relay"


def plugin_name(pool: str) -> str:
    """The name of the worker plugin of a pool, which is also the topic of its messages."""
    return f"cpool-{pool}"


class _Pool:
    """What the arbiter knows about one pool."""

    def __init__(self, client: str) -> None:
        self.client = client
        self.nodes: dict[str, str] = {}  # address of each node -> its Node.life
        # Pieces that were allowed to begin: the node of each, and the id of the run that asked.
        self.begun: dict[int, tuple[str, str]] = {}
        self.revoked: set[int] = set()  # pieces that must not begin
        self.data: dict[str, Any] = {}  # large messages for nodes to fetch


class Arbiter(SchedulerPlugin):  # type: ignore[misc]
    """Registered once in a cluster, and used by all its pools."""

    idempotent = True
    name = NAME

    async def start(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self.pools: dict[str, _Pool] = {}
        self.ending: set[asyncio.Task[None]] = set()
        scheduler.handlers.update(
            {
                "cpool_open": self.open_pool,
                "cpool_close": self.close_pool,
                "cpool_ready": self.node_is_ready,
                "cpool_put": self.put,
                "cpool_drop": self.drop,
                "cpool_cancel": self.cancel,
                "cpool_relay": self.relay,
                "cpool_fetch": self.fetch,
                "cpool_begin": self.begin,
                "cpool_done": self.done,
                "cpool_revoke": self.revoke,
            }
        )

    # ---- from the program ----

    def open_pool(self, comm: Any = None, *, pool: str, client: str) -> None:
        self.pools[pool] = _Pool(client)

    def close_pool(self, comm: Any = None, *, pool: str) -> None:
        self.pools.pop(pool, None)

    def put(self, comm: Any = None, *, pool: str, key: str, data: Any) -> bool:
        """Keep a message until nodes have fetched it, as the bytes that arrived."""
        known = self.pools.get(pool)
        if known is not None:
            known.data[key] = data
        return known is not None

    def drop(self, comm: Any = None, *, pool: str, keys: list[str], pieces: list[int]) -> None:
        """Drop messages, and pieces that have ended."""
        known = self.pools.get(pool)
        if known is None:
            return
        for key in keys:
            known.data.pop(key, None)
        for piece in pieces:
            known.begun.pop(piece, None)
            known.revoked.discard(piece)
        self.trim_span(pool)

    def cancel(
        self, comm: Any = None, *, pool: str, chunks: dict[str, list[int]], kill: bool
    ) -> None:
        """Tell nodes that the program no longer wants the results of these chunks."""
        known = self.pools.get(pool)
        for node, numbers in chunks.items():
            if known is not None and node in known.nodes:
                message = {"op": CANCEL, "pool": pool, "numbers": numbers, "kill": kill}
                self.scheduler.worker_send(node, message)

    def relay(self, comm: Any = None, *, pool: str, node: str, key: int) -> None:
        """Have a node send results through the scheduler that the program could not fetch there."""
        known = self.pools.get(pool)
        if known is not None and node in known.nodes:
            self.scheduler.worker_send(node, {"op": RELAY, "pool": pool, "key": key})

    def revoke(self, comm: Any = None, *, pool: str, piece: int) -> bool:
        """Forbid a piece to begin. Returns False if it has begun already."""
        known = self.pools.get(pool)
        if known is None or piece in known.begun:
            return False
        known.revoked.add(piece)
        known.data.pop(str(piece), None)
        return True

    def trim_span(self, pool: str) -> None:
        """Forget what dask keeps about the pieces of a pool that have ended.

        dask adds an entry to its span for each dask task, and each group of tasks that has had
        none for a moment, and never removes them.
        """
        with contextlib.suppress(AttributeError, KeyError, TypeError):  # another version of dask
            span = self.scheduler.extensions["spans"].spans[pool]
            span.groups.intersection_update(self.scheduler.task_groups.values())
            del span._metadata["collections"][1:]

    # ---- from nodes ----

    def node_is_ready(
        self, comm: Any = None, *, pool: str, node: str, life: str, told: dict[str, Any]
    ) -> bool:
        """A node has its workers, or reports why it cannot start any. False: the pool has ended."""
        known = self.pools.get(pool)
        if known is None:
            return False
        if told["refused"] is None:
            if known.nodes.get(node) == life:
                return True  # it asks again, since the answer was lost
            known.nodes[node] = life
        self.tell(pool, {"op": "ready", "node": node, "life": life, **told})
        return True

    def fetch(self, comm: Any = None, *, pool: str, key: str) -> Any:
        known = self.pools.get(pool)
        return None if known is None else known.data.get(key)

    def begin(
        self, comm: Any = None, *, pool: str, piece: int, node: str, life: str, run: str
    ) -> bool:
        """May this node run this piece? True for the first that asks, False for all others.

        `run` is the id of the run that asks: it asks again if its question or the answer was lost.
        """
        known = self.pools.get(pool)
        if (
            known is None
            or known.nodes.get(node) != life
            or known.begun.get(piece, (node, run)) != (node, run)
            or piece in known.revoked
        ):
            return False
        known.begun[piece] = node, run
        known.data.pop(str(piece), None)  # the node has fetched it
        return True

    def done(self, comm: Any = None, *, pool: str, node: str, life: str, data: Any) -> bool:
        """Pass results on to the program. Returns False for a node that was reported as lost."""
        known = self.pools.get(pool)
        if known is None or known.nodes.get(node) != life:
            return False
        self.tell(pool, data)
        return True

    # ---- of the cluster ----

    def remove_worker(self, scheduler: Scheduler, worker: str, **_: Any) -> None:
        for name, pool in self.pools.items():
            if pool.nodes.pop(worker, None) is not None:
                begun = [piece for piece, (node, _) in pool.begun.items() if node == worker]
                self.tell(name, {"op": "lost", "node": worker, "begun": begun})

    def remove_client(self, scheduler: Scheduler, client: str) -> None:
        """End the pools of a program that exited without ending them."""
        for name in [name for name, pool in self.pools.items() if pool.client == client]:
            del self.pools[name]
            task = asyncio.ensure_future(self._end_nodes(plugin_name(name)))
            self.ending.add(task)
            task.add_done_callback(self.ending.discard)

    async def _end_nodes(self, plugin: str) -> None:
        with contextlib.suppress(ValueError, OSError):
            await self.scheduler.unregister_worker_plugin(comm=None, name=plugin)

    def tell(self, pool: str, message: Any) -> None:
        """Send a message to the program, as an event that the scheduler does not store."""
        event = {"op": "event", "topic": plugin_name(pool), "event": (time.time(), message)}
        self.scheduler.client_send(self.pools[pool].client, event)
