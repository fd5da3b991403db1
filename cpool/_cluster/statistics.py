"""`pool.statistics()` of a pool on a cluster: what has been done, by node."""

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

# Rows of nodes that have left. What earlier ones did stands in one row.
_MOST_GONE = 100

_EARLIER = "earlier nodes"


@dataclass(frozen=True)
class NodeStatistics:
    """What one node has done for the pool. Counts are ints, from when the node became ready."""

    address: str
    """Of the dask worker. "earlier nodes": the sum of those that left before the last hundred."""
    pid: int
    """Process id of the dask worker, on its machine."""
    workers: int
    """Worker processes of the pool there."""
    is_there: bool
    """Is the node in use? False once it has left the cluster."""
    chunks: int
    """Chunks that it has answered."""
    done: int
    """Items whose function returned; with `return_exceptions`, or raised."""
    failed: int
    """Items whose function raised. A chunk that raises has no results: all of its items count."""
    lost: int
    """Items whose worker died or ran out of time, or that went with the node, for good."""
    retried: int
    """Items that ran there, were lost or failed, and ran again: here or on another node."""
    work_seconds: float
    """Time that its workers spent on items, those of cancelled calls included."""
    bytes_sent: int
    """Pickled callables and items that were sent to the node."""
    bytes_received: int
    """Pickled results and exceptions that came from it."""
    restarts: int
    """How often a worker process was replaced, as far as its last message tells."""


_SUMS = (
    "workers chunks done failed lost retried work_seconds bytes_sent bytes_received restarts"
).split()


@dataclass(frozen=True)
class ClusterStatistics:
    """What a pool on a cluster has done until now. `str()` of it is a table of the nodes.

    `submitted` = `done` + `failed` + `lost` + `cancelled` + `pending`, in items. A call of `apply`
    is one item. Items of an iterable that were not read so far are not submitted yet.
    """

    submitted: int
    done: int
    failed: int
    """With those that could not be pickled."""
    lost: int
    cancelled: int
    """Of calls that were cancelled, failed early (`fail_fast`), or were not done at the end."""
    pending: int
    """Waiting, on their way, or running."""
    retried: int
    nodes: tuple[NodeStatistics, ...]
    """Those that were lost or have left come first."""

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


_HEAD = "node pid workers chunks done failed lost again work_s sent received restarts there".split()


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
        "yes" if found.is_there else "no",
    )


def _sum(address: str, nodes: Any) -> NodeStatistics:
    sums: dict[str, Any] = {name: sum(getattr(node, name) for node in nodes) for name in _SUMS}
    return NodeStatistics(address, 0, is_there=False, **sums)


class Tally:
    """What the keeper counts of all calls, and nodes that have left."""

    def __init__(self) -> None:
        self.submitted = 0
        self.failed_here = 0  # items that could not be pickled
        self.cancelled = 0
        self.gone: deque[Node] = deque()
        self.earlier: list[NodeStatistics] = []  # the sum of those that left before these

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
