"""`pool.statistics()` of a pool on a cluster: what each node has done."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from .._base.stdlib import TYPE_CHECKING
from .._engine.statistics import _size

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from .._engine.statistics import PoolStatistics
    from .keeper import Node

__all__ = ["ClusterStatistics", "NodeStatistics", "Tally", "of_serial"]

# The most rows for nodes that have left; nodes that left earlier are summed up in one row.
_MOST_GONE = 100

_EARLIER = "earlier nodes"


@dataclass(frozen=True)
class NodeStatistics:
    """What one node has done for the pool. Counts are ints, from when the node became ready."""

    address: str
    """Address of the dask worker; "earlier nodes": the sum of nodes that left before the last
    100."""
    pid: int
    """Process id of the dask worker on its machine."""
    workers: int
    """Number of the pool's worker processes there."""
    is_there: bool
    """Is the node in use? False once it has left the cluster."""
    chunks: int
    """Chunks whose results have arrived."""
    done: int
    """Items whose function call returned; with `return_exceptions`, also those that raised."""
    failed: int
    """Items whose function call raised. If one raises, all items of its chunk count."""
    lost: int
    """Items that failed because their worker died or ran out of time, or the node was lost."""
    retried: int
    """Items that were lost or failed there and were run again, on this or another node."""
    work_seconds: float
    """Seconds that its workers spent on items, including those of cancelled calls."""
    bytes_sent: int
    """Bytes of pickled callables and items that were sent to the node."""
    bytes_received: int
    """Bytes of pickled results and exceptions that arrived from the node."""
    restarts: int
    """How often a worker process was replaced, by the node's last message."""
    shared_memory: int
    """Bytes of shared memory that the pool on the node took when it sent its last message; 0 for a
    node that has left."""
    shared_memory_in_use: int
    """Bytes of it that held arguments and results then. The rest is kept to be used again."""


_SUMS = (
    "workers chunks done failed lost retried work_seconds bytes_sent bytes_received restarts"
    " shared_memory shared_memory_in_use"
).split()


@dataclass(frozen=True)
class ClusterStatistics:
    """What a pool on a cluster has done so far. `str()` of it is a table of the nodes.

    `submitted` = `done` + `failed` + `lost` + `cancelled` + `pending`, in items. A call of `apply`
    is one item. Items that were not pulled from their iterable yet do not count as submitted.
    """

    submitted: int
    done: int
    failed: int
    """Including items and results that could not be pickled."""
    lost: int
    cancelled: int
    """Items of calls that were cancelled, failed early (`fail_fast`), or were cut by the pool's
    end."""
    pending: int
    """Items that wait, are being sent, or run."""
    retried: int
    nodes: tuple[NodeStatistics, ...]
    """Nodes that were lost or have left come first."""

    @property
    def shared_memory(self) -> int:
        """Bytes of shared memory that the pools on all nodes took at their last messages."""
        return sum(node.shared_memory for node in self.nodes)

    @property
    def shared_memory_in_use(self) -> int:
        """Bytes of it that held arguments and results then."""
        return sum(node.shared_memory_in_use for node in self.nodes)

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        here = sum(node.is_there for node in self.nodes)
        yield (
            f"pool on {here} node{'' if here == 1 else 's'}: {self.submitted} items submitted:"
            f" {self.done} done, {self.failed} failed, {self.lost} lost,"
            f" {self.cancelled} cancelled, {self.pending} pending; {self.retried} run again"
        )
        if not self.nodes:
            return
        rows = [_HEAD, *map(_row, self.nodes)]
        workers = sum(node.workers for node in self.nodes if node.is_there)
        rows.append(("all", "", str(workers), *_row(_sum("all", self.nodes))[3:-1], ""))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            yield "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))


_HEAD = (
    "node pid workers chunks done failed lost again work_s sent received restarts"
    " shared in_use there"
).split()


def _row(found: NodeStatistics) -> tuple[str, ...]:
    return (
        found.address,
        str(found.pid or "-"),
        str(found.workers),
        str(found.chunks),
        str(found.done),
        str(found.failed),
        str(found.lost),
        str(found.retried),
        f"{found.work_seconds:.3f}",
        _size(found.bytes_sent),
        _size(found.bytes_received),
        str(found.restarts),
        _size(found.shared_memory),
        _size(found.shared_memory_in_use),
        "yes" if found.is_there else "no",
    )


def _sum(address: str, nodes: Any) -> NodeStatistics:
    sums: dict[str, Any] = {name: sum(getattr(node, name) for node in nodes) for name in _SUMS}
    return NodeStatistics(address, 0, is_there=False, **sums)


class Tally:
    """The keeper's counters of all calls, and the nodes that have left."""

    def __init__(self) -> None:
        self.submitted = 0
        self.failed_here = 0  # items that could not be pickled
        self.cancelled = 0
        self.gone: deque[Node] = deque()
        self.earlier: list[NodeStatistics] = []  # the sum of the nodes that left before these

    def leave(self, node: Node) -> None:
        """A node has left the cluster."""
        self.gone.append(node)
        if len(self.gone) > _MOST_GONE:
            first = self.gone.popleft().statistics(False)
            self.earlier = [_sum(_EARLIER, [*self.earlier, first])]

    def statistics(self, here: list[Node]) -> ClusterStatistics:
        gone = [node.statistics(False) for node in list(self.gone)]
        nodes = (*self.earlier, *gone, *[node.statistics(True) for node in here])
        done = sum(node.done for node in nodes)
        failed = self.failed_here + sum(node.failed for node in nodes)
        lost = sum(node.lost for node in nodes)
        return ClusterStatistics(
            submitted=self.submitted,
            done=done,
            failed=failed,
            lost=lost,
            cancelled=self.cancelled,
            pending=self.submitted - done - failed - lost - self.cancelled,
            retried=sum(node.retried for node in nodes),
            nodes=nodes,
        )


def of_serial(found: PoolStatistics) -> ClusterStatistics:
    """The statistics of a serial pool, which has no nodes."""
    return ClusterStatistics(
        submitted=found.submitted,
        done=found.done,
        failed=found.failed,
        lost=found.lost,
        cancelled=found.cancelled,
        pending=found.pending,
        retried=found.retried,
        nodes=(),
    )
