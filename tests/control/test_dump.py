"""`pool.dump()`, `cpool.dump_on_signal()` and the stack in `TaskTimeoutError`."""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
import pickle
import re
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import engine
import pytest
from engine import DEADLINE, Pool
from gates import Gate, eventually

pytestmark = pytest.mark.better

cpool = engine.errors
errors = engine.errors
ThreadPool = engine.pool_module.ThreadPool


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have dump() wait longer: on a busy machine a worker may need more time for its stack."""
    monkeypatch.setattr("cpool._engine.dump._PATIENCE_S", DEADLINE / 2)


def dumped(pool: Any) -> str:
    file = io.StringIO()
    pool.dump(file)
    return file.getvalue()


def sleep_in_a_call(x: Any = None) -> None:
    time.sleep(1000)


def compute(x: Any = None) -> None:
    while True:
        pass


def compute_in_c(x: Any = None) -> int:
    return int(pow(3, 10**9, 10**400_000))


def wait_for_a_lock(x: Any = None) -> None:
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()


def stop_itself(x: Any = None) -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def block_the_signal(x: Any = None) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGURG])
    time.sleep(1000)


PLACES = [
    sleep_in_a_call,
    compute,
    compute_in_c,
    wait_for_a_lock,
    pytest.param(stop_itself, marks=pytest.mark.skipif(engine.PORTABLE, reason="needs /proc")),
]


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


@pytest.mark.parametrize("func", PLACES)
def test_a_worker_shows_its_item_and_its_stack(func: Callable[[Any], Any]) -> None:
    with Pool(1) as pool:
        pool.map_async(func, range(3), chunksize=1)
        pid = pool._pool[0].pid
        name = re.escape(f"{__name__}.{func.__name__}")
        shown = rf"worker 0 \(pid {pid}\) runs item 0 of {name}, for \d+\.\d{{3}} s"
        if func is stop_itself:
            eventually(lambda: state_of(pid) == "T")
        text = eventually(lambda: ", line " in (found := dumped(pool)) and found)
        head, where, *stack = text.splitlines()
        assert head == "cpool: pool of 1 processes, 1 call under way, 2 tasks queued" or (
            head.startswith("cpool: pool of 1 processes, 1 call under way, ")
        )
        assert re.match(shown, where), text
        assert any(line.endswith(f" in {func.__name__}") for line in stack), text
        assert all(line.startswith(f'  File "{__file__}"') for line in stack), text
        if func is stop_itself:
            assert where.endswith("; it is stopped")
            eventually(lambda: state_of(pid) == "T")  # as it was before


def stop_and_return(x: int) -> int:
    os.kill(os.getpid(), signal.SIGSTOP)
    return x


@pytest.mark.skipif(engine.PORTABLE, reason="needs /proc")
@pytest.mark.parametrize("is_idle", [True, False])
def test_a_stopped_worker_goes_on_when_it_is_continued_after_a_dump(is_idle: bool) -> None:
    """It does not stop itself again later, when nobody would continue it."""
    with Pool(1) as pool:
        pid = pool._pool[0].pid
        for x in range(20):
            if is_idle:
                assert pool.apply(abs, (x,)) == x
                os.kill(pid, signal.SIGSTOP)
            else:
                result = pool.apply_async(stop_and_return, (x,))
            eventually(lambda: state_of(pid) == "T")
            assert "it is stopped" in dumped(pool)
            os.kill(pid, signal.SIGCONT)
            if not is_idle:
                assert result.get(DEADLINE) == x


def test_idle_workers_and_chunks(gate: Gate) -> None:
    with Pool(2) as pool:
        pool.map_async(gate.hold, range(4), chunksize=4)
        gate.arrived()
        text = eventually(lambda: " waits for tasks\n" in (found := dumped(pool)) and found)
    assert text.count(" waits for tasks") == 1
    assert "runs item 0 (of items 0 to 3) of gates._task_side.hold, for " in text


def test_a_call_has_no_item(gate: Gate) -> None:
    with Pool(1) as pool:
        pool.apply_async(gate.hold)
        gate.arrived()
        assert "runs a call of gates._task_side.hold, for " in dumped(pool)


def test_a_worker_that_is_in_its_initializer() -> None:
    with Pool(1, initializer=sleep_in_a_call) as pool:
        text = eventually(lambda: " in sleep_in_a_call" in (found := dumped(pool)) and found)
        assert " starts\n" in text


def test_a_worker_that_cannot_be_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cpool._engine.dump._PATIENCE_S", 0.05)
    with Pool(1) as pool:
        pool.apply_async(block_the_signal)
        began = time.monotonic()
        shown = "runs a call of test_dump.block_the_signal, for"
        text = eventually(
            lambda: shown in (found := dumped(pool)) and "did not report" in found and found
        )
        assert text.endswith("  (it did not report its stack in time)\n")
        assert time.monotonic() - began < DEADLINE


def test_threads(gate: Gate) -> None:
    with ThreadPool(2) as pool:
        pool.apply_async(gate.hold)
        gate.arrived()
        text = eventually(lambda: " waits for tasks\n" in (found := dumped(pool)) and found)
    assert "runs a task, for " in text
    assert f"{os.sep}gates.py" in text
    assert f"{os.sep}threads.py" not in text.replace("threading.py", "")


def test_a_task_goes_on_as_if_nothing_had_happened() -> None:
    with Pool(1) as pool:
        result = pool.map_async(sum, [range(10**5)] * 20, chunksize=10)
        while not result.ready():
            dumped(pool)
        assert result.get() == [sum(range(10**5))] * 20
        assert pool.map(time.sleep, [0.05] * 2) == [None] * 2


def test_a_pool_that_has_ended_and_one_that_is_a_copy() -> None:
    pool = Pool(1)
    pool.close()
    pool.join()
    assert dumped(pool).splitlines() == [
        "cpool: pool of 1 processes, 0 calls under way, 0 tasks queued"
    ]
    pid = os.fork()
    if pid == 0:
        try:
            pool.dump()
        except ValueError:
            os._exit(7)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7


# ---- on a signal ----


def test_dump_on_signal(gate: Gate) -> None:
    before = signal.getsignal(signal.SIGUSR1)
    called: list[int] = []
    file = io.StringIO()
    signal.signal(signal.SIGUSR1, lambda number, frame: called.append(number))
    try:
        cpool.dump_on_signal(signal.SIGUSR1, file)
        with Pool(1) as pool, ThreadPool(1) as other:
            result = pool.apply_async(gate.hold, (3,))
            gate.arrived()

            def send() -> None:
                os.kill(os.getpid(), signal.SIGUSR1)
                eventually(lambda: called)
                gate.open()

            sender = threading.Thread(target=send)
            sender.start()
            assert result.get(DEADLINE) == 3  # the main thread waits for the pool meanwhile
            sender.join()
            assert other.apply(abs, (-1,)) == 1
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert called == [signal.SIGUSR1]
    assert "cpool: pool of 1 processes, 1 call under way" in file.getvalue()
    assert "runs a call of gates._task_side.hold, for " in file.getvalue()
    assert "cpool: pool of 1 threads, 0 calls under way" in file.getvalue()


class Reentrant:
    """A file that is being written to, as sys.stderr is where a signal interrupts a print()."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def write(self, text: str) -> None:
        raise RuntimeError("reentrant call inside <_io.BufferedWriter name='<stderr>'>")

    def fileno(self) -> int:
        return self.fd


def test_dump_on_signal_while_the_file_is_written_to(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGUSR1)
    path = tmp_path / "dumped"
    try:
        with Pool(1) as pool, path.open("wb") as file:
            cpool.dump_on_signal(signal.SIGUSR1, Reentrant(file.fileno()))
            signal.raise_signal(signal.SIGUSR1)
            assert pool.apply(abs, (-1,)) == 1
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert "cpool: pool of 1 processes, 0 calls under way" in path.read_text()


def test_dump_on_signal_into_a_file_that_fails() -> None:
    before = signal.getsignal(signal.SIGUSR1)
    closed = io.StringIO()
    closed.close()
    try:
        with Pool(1) as pool:
            cpool.dump_on_signal(signal.SIGUSR1, closed)
            signal.raise_signal(signal.SIGUSR1)  # what it interrupts knows nothing of the file
            assert pool.apply(abs, (-1,)) == 1
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_dump_on_signal_is_for_the_main_thread() -> None:
    raised: list[BaseException] = []

    def ask() -> None:
        try:
            cpool.dump_on_signal(signal.SIGUSR1)
        except ValueError as exc:
            raised.append(exc)

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    assert len(raised) == 1


def test_serial_pools_and_pools_of_the_stdlib(gate: Gate) -> None:
    with Pool(1, serial=True) as pool:
        assert pool.apply(dumped_in_a_task, (pool,)).startswith("cpool: serial pool, 1 call")

    class Replaced(Pool):  # type: ignore[misc]
        def _repopulate_pool(self) -> None:
            super()._repopulate_pool()

    with Replaced(1) as pool, pytest.raises(ValueError, match="needs a pool that runs on cpool's"):
        pool.dump()


def dumped_in_a_task(pool: Any) -> str:
    return dumped(pool)


def handle_the_signal(number: int, frame: Any) -> None:
    HANDLED.append(number)


HANDLED: list[int] = []


def handled_after_a_wait(gate: Gate) -> list[int]:
    gate.hold()
    return HANDLED


def test_a_handler_that_the_program_had_before_is_called_too(gate: Gate) -> None:
    before = signal.signal(signal.SIGURG, handle_the_signal)
    try:
        with Pool(1) as pool:
            result = pool.apply_async(handled_after_a_wait, (gate,))
            gate.arrived()
            assert " in handled_after_a_wait" in dumped(pool)
            gate.open()
            assert set(result.get(DEADLINE)) == {signal.SIGURG}
    finally:
        signal.signal(signal.SIGURG, before)


def close_and_open_another(gate: Gate, path: str) -> None:
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if "cpool-stack" in os.readlink(f"/proc/self/fd/{name}"):
                fd = os.open(path, os.O_RDWR)
                os.dup2(fd, int(name))
                os.close(fd)
    gate.hold()


def test_a_task_may_close_all_descriptors(gate: Gate, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("precious")
    with Pool(1) as pool:
        result = pool.apply_async(close_and_open_another, (gate, str(path)))
        gate.arrived()
        assert "(it did not report its stack in time)" in dumped(pool)
        gate.open()
        result.get(DEADLINE)
    assert path.read_text() == "precious"


def dump_within(gate: Gate, other: Gate) -> str:
    with Pool(1) as pool:
        result = pool.apply_async(gate.hold)
        text = eventually(lambda: " in hold" in (found := dumped(pool)) and found)
        other.hold()
        result.get(DEADLINE)
    return str(text)


def test_pools_within_pools(make_gate: Callable[[], Gate]) -> None:
    inner, outer = make_gate(), make_gate()
    with Pool(1, daemon=False) as pool:
        result = pool.apply_async(dump_within, (inner, outer))
        outer.arrived()
        assert " in dump_within" in dumped(pool)
        outer.open()
        inner.open()
        text = result.get(DEADLINE)
    assert "gates.py" in text
    assert "test_dump.py" not in text  # nothing of the worker that has made the pool


@pytest.mark.parametrize("method", engine.START_METHODS)
def test_each_start_method(gate: Gate, method: str) -> None:
    with Pool(1, context=multiprocessing.get_context(method)) as pool:
        pool.apply_async(gate.hold)
        gate.arrived()
        assert " in hold\n" in dumped(pool)


# ---- of what runs out of time ----


@pytest.mark.parametrize("func", PLACES)
@pytest.mark.parametrize("grace", [None, 0.05])
def test_the_error_of_a_task_that_ran_out_of_time_says_where(
    func: Callable[[Any], Any], grace: float | None
) -> None:
    with Pool(1) as pool:

        def fail() -> Any:
            with pytest.raises(errors.TaskTimeoutError) as caught:
                pool.map(func, range(1), task_timeout=0.2, grace=grace)
            return caught.value if caught.value.stack else None  # a busy machine had no time

        error = eventually(fail)
        assert pool.apply(abs, (-1,)) == 1
    assert error.stack.splitlines()[-1].endswith(f" in {func.__name__}")
    assert "\nit was here (most recent call first):\n" in str(error)
    assert str(error).endswith(f" in {func.__name__}")
    assert pickle.loads(pickle.dumps(error)).stack == error.stack


def deep(n: int) -> None:
    if n == 0:
        time.sleep(1000)
    deep(n - 1)


def test_only_the_innermost_lines_are_in_the_message() -> None:
    with Pool(1) as pool:

        def fail() -> Any:
            with pytest.raises(errors.TaskTimeoutError) as caught:
                pool.apply(deep, (30,), task_timeout=0.5)
            return caught.value if len(caught.value.stack.splitlines()) >= 31 else None

        error = eventually(fail)
    assert len(error.stack.splitlines()) == 31
    assert str(error).endswith("\n  ...")
    assert str(error).count(" in deep") == 10


def test_a_worker_that_does_not_tell_is_killed_all_the_same() -> None:
    with Pool(1) as pool:
        began = time.monotonic()
        with pytest.raises(errors.TaskTimeoutError) as caught:
            pool.apply(block_the_signal, task_timeout=0.2)
        assert time.monotonic() - began < DEADLINE
        error: Any = caught.value
        assert error.stack == ""
        assert "most recent" not in str(error)
