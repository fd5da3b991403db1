"""Serial mode: a pool on a cluster without a cluster, for debuggers, profilers and coverage."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from .. import pool as cpool
from .._base.stdlib import TYPE_CHECKING
from .._engine.configured import ConfiguredPool
from .._engine.options import CallOptions, Unpack
from .parameters import refuse_worker
from .pool import Pool
from .statistics import ClusterStatistics, of_serial

if TYPE_CHECKING:
    from typing import Any

    from .keeper import Keeper, Node

__all__ = ["SerialPool"]

# Methods of the serial pool on this machine.
_ITS_OWN = """
    apply apply_async map map_async starmap starmap_async imap imap_unordered istarmap
    istarmap_unordered share close terminate join dump
""".split()


class SerialPool(Pool):
    """What `cpool.distributed.Pool(serial=True)` makes: it delegates to a serial `cpool.Pool`."""

    __module__ = "cpool.distributed"

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
        **asked: Any,
    ) -> None:
        self._local = cpool.Pool(
            processes, initializer, initargs, maxtasksperchild, serial=serial, **asked
        )
        self._on_exit = asked.get("on_exit", "terminate")

    @property
    def _state(self) -> Any:  # type: ignore[override]
        return self._local._state

    def _check_running(self) -> Keeper:
        self._local._check_running()
        return self._keeper  # type: ignore[return-value]

    @property
    def nodes(self) -> list[Node]:
        return []

    def wait_for_nodes(self, count: int, timeout: float | None = None) -> None:
        """Return at once: a serial pool needs no nodes."""

    def statistics(self) -> ClusterStatistics:
        return of_serial(self._local.statistics())

    def options(self, **asked: Unpack[CallOptions]) -> Any:
        refuse_worker(asked)
        self._local.options(**asked)  # checks the options
        return ConfiguredPool(self, asked)


def _of_local(name: str) -> Callable[..., Any]:
    def method(self: SerialPool, *args: Any, **kwds: Any) -> Any:
        refuse_worker(kwds)
        return getattr(self._local, name)(*args, **kwds)

    method.__name__, method.__doc__ = name, getattr(Pool, name).__doc__
    return method


for _name in _ITS_OWN:
    setattr(SerialPool, _name, _of_local(_name))

Pool._serial_class = SerialPool
