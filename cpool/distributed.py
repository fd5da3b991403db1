"""A pool on a dask.distributed cluster. To install: `pip install 'cpool-mp[distributed]'`.

from cpool.distributed import Pool

with Pool("tcp://scheduler:8786") as pool:
    print(pool.map(abs, range(-1000, 1000)))
"""

from __future__ import annotations

try:
    import distributed as _distributed
except ImportError as exc:
    raise ImportError(
        "cpool.distributed needs dask's `distributed`: pip install 'cpool-mp[distributed]'"
    ) from exc


from ._cluster.errors import NodeLostError, SchedulerLostError, VersionMismatchError
from ._cluster.keeper import Node
from ._cluster.pool import Pool
from ._cluster.results import AsyncResult, IMapIterator, IMapUnorderedIterator, MapResult
from ._cluster.serial import SerialPool as _SerialPool
from ._cluster.statistics import ClusterStatistics, NodeStatistics

__all__ = [
    "AsyncResult",
    "ClusterStatistics",
    "IMapIterator",
    "IMapUnorderedIterator",
    "MapResult",
    "Node",
    "NodeLostError",
    "NodeStatistics",
    "Pool",
    "SchedulerLostError",
    "VersionMismatchError",
]

del _distributed, _SerialPool
