"""One cluster for all tests of this folder: two nodes of one thread each, on this machine.

Nothing of this folder is collected without dask, or with CPOOL_TEST_CLUSTER=0.
"""

from __future__ import annotations

import collections
import contextlib
import importlib.util
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import engine
import pytest
from gates import eventually, gone
from leftovers import children


class Distributed:
    """dask.distributed, imported when a test uses it: then every exception is pickled by tblib."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)  # pytest looks for its own names
        return getattr(importlib.import_module("distributed"), name)


distributed = Distributed()

# Dask is no part of what sanitizers and the portable build are to test.
if importlib.util.find_spec("distributed") is None or os.environ.get("CPOOL_TEST_CLUSTER") == "0":
    collect_ignore_glob = ["test_*.py"]

HERE = Path(__file__).parent


# Of the tests of `cpool.Pool`, so many cases each: a call takes a thousand times as long here.
CASES = int(os.environ.get("CPOOL_TEST_CLUSTER_CASES", "1"))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Run these tests last: dask leaves threads behind, which other tests would count."""
    items.sort(key=lambda item: HERE in item.path.parents)
    cases = collections.Counter[str]()
    left_out = []
    for item in items:
        if item.path.name == "test_same.py" and HERE in item.path.parents:
            name = item.name.partition("[")[0]
            cases[name] += 1
            if cases[name] > CASES:
                left_out.append(item)
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in set(left_out)]


def nodes_of(client: Any) -> list[str]:
    # Not client.scheduler_info(): dask's own timer may just have replaced what that returns by a
    # table without workers.
    return sorted(client.sync(client.scheduler.identity, n_workers=-1)["workers"])


@pytest.fixture(scope="package")
def cluster() -> Iterator[Any]:
    if engine.STDLIB:
        pytest.skip("the stdlib has no pool on a cluster")
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    before = children()
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=":0", host="127.0.0.1"
    ) as made:
        yield made
    assert children() <= before, "the cluster left processes behind"


@pytest.fixture(scope="package")
def client(cluster: Any) -> Iterator[Any]:
    with distributed.Client(cluster, set_as_default=False) as made:
        made.wait_for_workers(2)
        yield made


class Process:
    """A worker process of a node, with the attributes that the tests of `cpool.Pool` use."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def is_alive(self) -> bool:
        return not gone(self.pid)

    def kill(self) -> None:
        """Kill it by a pidfd: its pid may belong to another process by now."""
        with contextlib.suppress(ProcessLookupError):
            fd = os.pidfd_open(self.pid)
            try:
                if not gone(self.pid):
                    signal.pidfd_send_signal(fd, signal.SIGKILL)
            finally:
                os.close(fd)


def worker_pids(name: str) -> list[int]:
    """The worker processes of one pool on this node."""
    from cpool._cluster.node import _nodes

    return [
        process.pid
        for (pool, _), node in _nodes.items()
        if pool == name
        for process in node.pool._pool
    ]


def new_pool(client: Any, *args: Any, **kwds: Any) -> Any:
    from cpool.distributed import Pool

    class WithProcesses(Pool):
        @property
        def _pool(self) -> list[Process]:
            found = client.run(worker_pids, self._keeper.pool, on_error="ignore")
            return [Process(pid) for pids in found.values() for pid in pids]

    return WithProcesses(client, *args, **kwds)


@pytest.fixture(scope="package")
def shared_pool(client: Any) -> Iterator[Any]:
    """One pool of a worker on each of the two nodes."""
    with new_pool(client) as made:
        made.wait_for_nodes(2, engine.DEADLINE)
        yield made


@pytest.fixture
def pool(shared_pool: Any) -> Any:
    return shared_pool


@pytest.fixture
def make_pool(client: Any) -> Iterator[Callable[..., Any]]:
    """Makes pools on one node for one test: make_pool(2), make_pool(1, initializer, ...)."""
    pools: list[Any] = []

    def make(processes: int = 1, *args: Any, cls: Any = None, **kwds: Any) -> Any:
        if cls not in (None, engine.pool_module.Pool):
            pools.append(cls(processes, *args, **kwds))  # a pool of threads
            return pools[-1]
        kwds.setdefault("nodes", nodes_of(client)[:1])
        pools.append(new_pool(client, processes, *args, **kwds))
        return pools[-1]

    yield make
    for each in pools:
        each.terminate()
        each.join(engine.DEADLINE)


@pytest.fixture
def either(make_pool: Callable[..., Any]) -> Any:
    """Two workers, for the tests that ask for a pool of each kind."""
    return make_pool(2)


@pytest.fixture(autouse=True)
def nothing_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """Check that the test leaves no thread of a pool behind. Dask's own threads are ignored."""

    def ours() -> set[threading.Thread]:
        return {thread for thread in threading.enumerate() if thread.name.startswith("cpool-")}

    if "pool" in request.fixturenames:
        # The pool that the tests share has its helper before and after the test.
        shared = request.getfixturevalue("pool")
        shared.apply_async(abs, (-1,), callback=id).get(engine.DEADLINE)
    before = ours()
    yield
    eventually(lambda: ours() <= before, "a thread of a pool was left behind")
