"""The interface between the harness and a peer."""

import importlib
import platform
from collections.abc import Callable
from typing import Any, ClassVar, Protocol

from benchmarks.cases import Work
from benchmarks.work import spin

Results = list[Any]


class Unsupported(Exception):
    """The peer has no such call."""


def only_fork(start: str) -> None:
    if start != "fork":
        raise Unsupported(f"measured with fork only, not with {start}")


class Started(Protocol):
    """An asynchronous map in progress."""

    def ready(self) -> bool: ...

    def get(self) -> Any: ...


class Peer:
    """A pool of worker processes, or of threads.

    Work.call names a method, which takes the work and returns the results. A peer may lack some.
    """

    module: ClassVar[str]
    about: ClassVar[str]
    by_default: ClassVar[bool] = True  # False: only with --against

    def __init__(self, workers: int, start: str) -> None:
        raise NotImplementedError

    @classmethod
    def version(cls) -> str:
        """The version. Raises whatever the import raises, if the peer is missing."""
        module = importlib.import_module(cls.module)
        if module.__file__ is None:
            raise ImportError("there is only a folder of that name")
        if cls.module in ("multiprocessing", "concurrent.futures"):
            return platform.python_version()
        if hasattr(module, "__version__"):
            return str(module.__version__)
        # Imported here: every contender would pay for it, in time and memory.
        metadata = importlib.import_module("importlib.metadata")
        return str(metadata.version(cls.module))

    def run(self, work: Work) -> Results:
        method: Callable[[Work], Results] | None = getattr(self, work.call, None)
        if method is None:
            raise Unsupported(f"no call for {work.call}")
        return method(work)

    def close(self) -> None:
        """Return when the workers have exited."""
        raise NotImplementedError


def compute_until_ready(started: Started) -> Results:
    while not started.ready():
        spin(20_000)  # about 1 ms, without releasing the GIL voluntarily
    return list(started.get())


class StartedItems:
    """One asynchronous call for each item, finished in about the order of submission."""

    def __init__(self, done: list[Callable[[], bool]], results: list[Callable[[], Any]]) -> None:
        self.pending = done
        self.results = results

    def ready(self) -> bool:
        while self.pending and self.pending[-1]():
            self.pending.pop()
        return not self.pending

    def get(self) -> Results:
        return [result() for result in self.results]
