"""For every test: a deadline, the end of its pools, and a check for leaks."""

from __future__ import annotations

import faulthandler
import gc
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import dump
import engine
import hypothesis
import hypothesis.strategies as st
import in_parts
import pytest
import scripts
import tasks
from gates import Diary, Gate
from leftovers import children, native_threads, open_files, settled, threads
from programs_server import Server
from watchdog import Watchdog

hypothesis.settings.register_profile(
    "cpool",
    deadline=None,
    derandomize=True,
    database=None,
    max_examples=40,
    suppress_health_check=list(hypothesis.HealthCheck),  # a busy machine is slow
)
hypothesis.settings.load_profile("cpool")

LIMIT = 2 * engine.DEADLINE  # seconds for a test

FAILED = pytest.StashKey[bool]()
WATCHDOG = pytest.StashKey[Watchdog]()


def pytest_cmdline_main(config: pytest.Config) -> int | None:
    """Without any argument, in the top folder, the whole suite runs, and in parts."""
    is_whole = config.args_source is pytest.Config.ArgsSource.TESTPATHS
    return in_parts.main([]) if is_whole and not config.invocation_params.args else None


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "better: what cpool does on purpose otherwise than multiprocessing.pool"
    )
    # os.fork() warns from 3.12 on when threads run, such as the threads of the shared pool.
    config.addinivalue_line(
        "filterwarnings", "ignore:This process .* is multi-threaded:DeprecationWarning"
    )
    # A shell that starts the suite in the background makes it, and every program that a test
    # starts, ignore Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    capture: Any = config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():  # what it prints is to be seen
        config.stash[WATCHDOG] = Watchdog()
    if hasattr(os, "pidfd_open"):
        scripts.SERVER = Server(scripts.environment(), tempfile.gettempdir())


def pytest_unconfigure(config: pytest.Config) -> None:
    config.stash[WATCHDOG].close()
    if scripts.SERVER:
        scripts.SERVER.close()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(LIMIT, method="signal"))
    if engine.STDLIB:
        better = [item for item in items if item.get_closest_marker("better")]
        config.hook.pytest_deselected(items=better)
        items[:] = [item for item in items if item not in better]


def pytest_collection_finish() -> None:
    """Let hypothesis create its tables of all characters, which take a slow build ten seconds, and
    its source of randomness, which hypothesis takes for garbage when out of sight.

    Then freeze all objects: no collection in a test looks at objects from before the tests.
    """
    hypothesis.find(st.text(), lambda _: True)
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """The second deadline: a test that does not react to the first one's signal ends the run."""
    marker = item.get_closest_marker("timeout")
    limit = float(marker.args[0]) if marker and marker.args else LIMIT
    watchdog = item.config.stash[WATCHDOG]
    # A failed test may take as long to be cleared away.
    watchdog.expect(limit + 3 * LIMIT, item.nodeid)
    try:
        return (yield)
    finally:
        watchdog.expect(0)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        item.stash[FAILED] = True
    return report


def has_failed(request: pytest.FixtureRequest) -> bool:
    return bool(request.node.stash.get(FAILED, False))


def put_away(pool: Any, failed: bool = False) -> None:
    """End a pool. After a failure use force, since the pool may hang."""
    if not failed:
        pool.terminate()
        pool.join()
        return
    for worker in list(pool._pool):
        if getattr(worker, "pid", None) is not None and worker.exitcode is None:
            os.kill(worker.pid, signal.SIGKILL)

    def end() -> None:
        pool.terminate()
        pool.join()

    thread = threading.Thread(target=end, daemon=True)
    thread.start()
    thread.join(2)


# Pools


class Shared:
    """The pool that the tests of a module share. A failure replaces the pool."""

    def __init__(self) -> None:
        self.pool: Any = None

    def get(self) -> Any:
        if self.pool is None:
            self.pool = engine.Pool(2)
            # Start everything that the pool starts on demand, before a test looks.
            self.pool.apply_async(tasks.add, (1, 2), callback=id).get(engine.DEADLINE)
            assert self.pool.map(tasks.square, range(4), 1) == [0, 1, 4, 9]
        return self.pool

    def drop(self, failed: bool) -> None:
        pool, self.pool = self.pool, None
        if pool is not None:
            put_away(pool, failed)


@pytest.fixture(scope="module")
def shared() -> Iterator[Shared]:
    holder = Shared()
    yield holder
    holder.drop(failed=False)


@pytest.fixture
def pool(shared: Shared, request: pytest.FixtureRequest) -> Iterator[Any]:
    """A running pool of two workers, for tests that leave the pool as it was."""
    yield shared.get()
    if has_failed(request):
        shared.drop(failed=True)


@pytest.fixture
def make_pool(request: pytest.FixtureRequest) -> Iterator[Callable[..., Any]]:
    """Makes pools for one test: make_pool(2), make_pool(1, initializer, ...)."""
    pools: list[Any] = []

    def make(*args: Any, cls: Any = engine.Pool, **kwds: Any) -> Any:
        pools.append(cls(*args, **kwds))
        return pools[-1]

    yield make
    while pools:
        put_away(pools.pop(), has_failed(request))


# Helpers


@pytest.fixture
def make_gate(tmp_path: Path) -> Iterator[Callable[[], Gate]]:
    gates: list[Gate] = []

    def make() -> Gate:
        folder = tmp_path / f"gate{len(gates)}"
        folder.mkdir()
        gates.append(Gate(folder))
        return gates[-1]

    yield make
    for gate in gates:
        gate.close()


@pytest.fixture
def gate(make_gate: Callable[[], Gate]) -> Iterator[Gate]:
    """A gate that is open when the test's pools are ended."""
    gate = make_gate()
    yield gate
    gate.open()


@pytest.fixture
def diary(tmp_path: Path) -> Diary:
    return Diary(tmp_path / "diary")


@pytest.fixture
def warned() -> Iterator[list[str]]:
    """The texts of the warnings. pytest's own record would keep a warning's source alive."""
    texts: list[str] = []

    def show(message: Any, category: type[Warning], *_: Any) -> None:
        texts.append(f"{category.__name__}: {message}")

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
        warnings.showwarning = show  # type: ignore[assignment]
        yield texts


@pytest.fixture(autouse=True)
def start_method() -> Iterator[None]:
    """Restore the start method: asking for multiprocessing's default fixes it for the process."""
    method = multiprocessing.get_start_method(allow_none=True)
    yield
    multiprocessing.set_start_method(method, force=True)


# Leaks


@pytest.fixture(autouse=True)
def nothing_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """Check that the test leaves no process, thread or descriptor behind."""
    if "pool" in request.fixturenames:
        request.getfixturevalue("pool")  # exists before and after the test
    before = children(), threads(), open_files()
    yield
    if has_failed(request):
        for child in children() - before[0]:
            child.kill()
            child.join(2)
        return
    extra = [
        settled(look, was)
        for look, was in zip((children, threads, open_files), before, strict=True)
    ]
    for child in extra[0]:
        child.kill()
        child.join(2)
    if extra[1]:
        faulthandler.dump_traceback(sys.__stderr__)
        pid = os.getpid()
        print(dump.state(pid), dump.stacks(pid), sep="\n", file=sys.__stderr__)
    assert extra == [set(), set(), set()], (
        f"left behind: processes, threads (known to Python: {native_threads()}), descriptors"
    )


@pytest.fixture
def in_threads() -> Callable[..., list[Any]]:
    """in_threads(work, items): work(item) at once, each in its own thread; the results in order."""

    def run(work: Callable[[Any], Any], items: Any) -> list[Any]:
        outcomes: dict[int, Any] = {}
        errors: list[BaseException] = []

        def call(index: int, item: Any) -> None:
            try:
                outcomes[index] = work(item)
            except BaseException as error:
                errors.append(error)

        started = [
            threading.Thread(target=call, args=pair, daemon=True) for pair in enumerate(items)
        ]
        for thread in started:
            thread.start()
        end = time.monotonic() + 1.5 * engine.DEADLINE
        for thread in started:
            thread.join(max(0.0, end - time.monotonic()))
            assert not thread.is_alive(), "a thread never came back"
        if errors:
            raise errors[0]
        return [outcomes[index] for index in range(len(started))]

    return run
