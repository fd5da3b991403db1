"""Workers that die at the worst moments. test_failures.py has workers that die in a task."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import re
import signal
import struct
import termios
from pathlib import Path
from typing import Any

import engine
import pytest
import scripts
import tasks
from checks import failure, whole_again
from engine import DEADLINE
from gates import Diary, Gate, all_gone, eventually, gone

pytestmark = pytest.mark.better

errors = engine.errors


# In the middle of writing and reading


def pipes_to_write() -> dict[int, str]:
    """The write ends of pipes in this process, and the pipe of each."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            pipe = os.readlink(f"/proc/self/fd/{name}")
            flags = fcntl.fcntl(int(name), fcntl.F_GETFL)
        except OSError:
            continue  # the descriptor of the listing itself
        if pipe.startswith("pipe:") and flags & os.O_ACCMODE == os.O_WRONLY:
            found[int(name)] = pipe
    return found


def fill(fd: int) -> int:
    """How many bytes are in a pipe."""
    found: int = struct.unpack("i", fcntl.ioctl(fd, termios.FIONREAD, bytes(4)))[0]
    return found


def die_when_it_is_being_read(theirs: set[str], size: int) -> list[bytes]:
    """Return this many bytes, in parts too small for shared memory; die while the parent reads."""
    # The result pipe, and without pidfd another pipe that only signals the worker's end.
    for fd, pipe in pipes_to_write().items():
        if pipe not in theirs:
            # Linux sends this signal after a read.
            fcntl.fcntl(fd, fcntl.F_SETOWN, os.getpid())
            fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGKILL)
            flags = fcntl.fcntl(fd, fcntl.F_GETFL)
            fcntl.fcntl(fd, fcntl.F_SETFL, flags | os.O_ASYNC)
    return [bytes(50_000) for _ in range(size // 50_000)]


def test_a_worker_dies_half_way_through_writing_a_result(make_pool: Any) -> None:
    theirs = set(pipes_to_write().values())
    pool = make_pool(1)
    before = pool.apply_async(tasks.square, (3,))
    before.wait(DEADLINE)
    half = pool.apply_async(die_when_it_is_being_read, (theirs, 100_000_000))
    behind = pool.apply_async(tasks.square, (4,))
    assert type(failure(half)) is errors.WorkerLostError
    assert half._value.exitcode == -signal.SIGKILL
    assert [before.get(0), behind.get(DEADLINE)] == [9, 16]
    whole_again(pool, 1)


def test_a_worker_dies_half_way_through_reading_a_task(make_pool: Any) -> None:
    """The task had not begun: another worker runs the task, and nothing is lost."""
    ours = set(pipes_to_write().values())
    pool = make_pool(1)
    pool.apply(tasks.nothing)
    [worker] = pool._pool
    os.kill(worker.pid, signal.SIGSTOP)
    result = pool.apply_async(tasks.size, ([bytes(50_000) for _ in range(160)],))
    fds = [fd for fd, pipe in pipes_to_write().items() if pipe not in ours]
    eventually(lambda: any(fill(fd) >= 4096 for fd in fds), "nothing is sent")
    worker.kill()
    assert result.get(DEADLINE) == 160
    whole_again(pool, 1)


# All at once


def test_all_workers_die_at_once(make_pool: Any, gate: Gate) -> None:
    """Each loses only the task that it was running (bpo-22393, gh-66587)."""
    pool = make_pool(3)
    held = [pool.apply_async(gate.hold) for _ in range(3)]
    pids = gate.arrived(3)
    rest = pool.map_async(tasks.square, range(50), 1)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    assert sorted(failure(result).pid for result in held) == sorted(pids)
    assert rest.get(DEADLINE) == [x * x for x in range(50)]
    whole_again(pool, 3)


@pytest.mark.timeout(4 * DEADLINE, method="signal")  # the test forks 128 times
def test_many_of_many_workers_die(make_pool: Any) -> None:
    pool = make_pool(64)
    lost = [pool.apply_async(tasks.die) for _ in range(64)]
    assert [type(failure(result)) for result in lost] == [errors.WorkerLostError] * 64
    assert len({result._value.pid for result in lost}) == 64
    whole_again(pool, 64)


# During the start

DIES_WHILE_IT_STARTS = """
import os, signal, sys
from engine import DEADLINE, Pool
from gates import eventually
import tasks

def lives():
    return len(os.listdir(sys.argv[1]))

def cost_a_life():
    for name in os.listdir(sys.argv[1]):
        try:
            os.unlink(os.path.join(sys.argv[1], name))
        except FileNotFoundError:
            continue  # another worker died of this file
        os.kill(os.getpid(), signal.SIGKILL)

def give(count):
    for number in range(count):
        open(os.path.join(sys.argv[1], str(number)), "w").close()

def work():
    assert pool.map_async(tasks.square, range(20), 1).get(DEADLINE) == [x * x for x in range(20)]
    print(lives())

give(3)
os.register_at_fork(after_in_child=cost_a_life)
pool = Pool(2)
work()
give(2)
pool._pool[0].kill()
eventually(lambda: lives() == 0)
work()
pool.terminate()
"""


def test_workers_die_while_starting_and_while_being_replaced(tmp_path: Path) -> None:
    """The replacements die as well, for a while."""
    lives = tmp_path / "lives"
    lives.mkdir()
    assert scripts.output(tmp_path, DIES_WHILE_IT_STARTS, str(lives)) == ["0", "0"]


# In the initializer


def die_once(path: str) -> None:
    if tasks.is_first(path):
        tasks.die()


def test_a_worker_dies_once_in_the_initializer(make_pool: Any, tmp_path: Path) -> None:
    pool = make_pool(2, die_once, (str(tmp_path / "died"),))
    assert pool.map_async(tasks.square, range(20), 1).get(DEADLINE) == [x * x for x in range(20)]
    whole_again(pool, 2)


def noted_exit(diary: Diary) -> None:
    diary.write(os.getpid())
    os._exit(3)


def test_workers_die_in_the_initializer_every_time(make_pool: Any, diary: Diary) -> None:
    """Workers are replaced more and more slowly; then the pool gives up and fails all jobs."""
    pool = make_pool(1, noted_exit, (diary,))
    jobs = [
        pool.apply_async(tasks.nothing),
        pool.map_async(tasks.square, range(5)),
    ]
    for job in jobs:
        error = failure(job)
        assert type(error) is errors.PoolError
        assert re.search(r"no worker can be started", str(error))
    assert 2 <= len(diary.lines()) < 20
    assert type(failure(pool.apply_async(tasks.nothing))) is errors.PoolError
    with pytest.raises(errors.PoolError):
        pool.imap(tasks.square, [1]).next(DEADLINE)
    pool.close()
    pool.join(timeout=DEADLINE)


def hold_first(gate: Gate, path: str) -> None:
    if tasks.is_first(path):
        gate.hold()


def test_a_hanging_initializer_delays_no_other_worker(
    make_pool: Any, gate: Gate, tmp_path: Path
) -> None:
    pool = make_pool(2, hold_first, (gate, str(tmp_path / "held")))
    gate.arrived()
    results = pool.map_async(tasks.square, range(50), 1)
    assert results.get(DEADLINE) == [x * x for x in range(50)]


def hold_first_stubbornly(gate: Gate, path: str) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    hold_first(gate, path)


def hold_first_and_tell(gate: Gate, path: str, diary: Diary) -> None:
    hold_first(gate, path)
    diary.write("ready")


@pytest.mark.parametrize("initializer", [hold_first, hold_first_stubbornly])
@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_hanging_initializer_does_not_keep_the_pool_from_ending(
    make_pool: Any, gate: Gate, tmp_path: Path, initializer: Any, asynchronous: bool
) -> None:
    """Once all work is done, the worker is given some seconds, and then ended."""
    pool = make_pool(2, initializer, (gate, str(tmp_path / "held")))
    [hung] = gate.arrived()
    result = pool.map_async(tasks.square, range(50), 1) if asynchronous else None
    assert pool.map(tasks.square, range(50), 1) == [x * x for x in range(50)]
    pool.close()
    if result is None:
        pool.join(timeout=DEADLINE)
    else:  # a closed pool that nobody joins
        all_gone([hung])
        assert len(result.get(DEADLINE)) == 50
        pool.join(timeout=DEADLINE)
    assert gone(hung)


def test_a_slow_initializer_runs_to_its_end(
    make_pool: Any, gate: Gate, diary: Diary, tmp_path: Path
) -> None:
    """The initializer takes longer than all the work."""
    pool = make_pool(2, hold_first_and_tell, (gate, str(tmp_path / "held"), diary))
    gate.arrived()
    assert pool.map(tasks.square, range(50), 1) == [x * x for x in range(50)]
    pool.close()
    with pytest.raises(multiprocessing.TimeoutError):
        pool.join(timeout=0.2)
    gate.open()
    pool.join(timeout=DEADLINE)
    assert diary.lines() == ["ready"] * 2


def test_terminate_ends_hanging_initializers(make_pool: Any, gate: Gate) -> None:
    pool = make_pool(2, tasks.hold, (gate,))
    result = pool.apply_async(tasks.nothing)
    gate.arrived(2)
    pool.terminate()
    assert type(failure(result)) is errors.PoolTerminated
    pool.join(timeout=DEADLINE)
    assert [worker.exitcode for worker in pool._pool] == [-signal.SIGTERM] * 2


# The output of a crash


@pytest.mark.parametrize(
    ("how", "title"), [("SIGSEGV", "Segmentation fault"), ("SIGABRT", "Aborted")]
)
def test_a_crash_prints_a_traceback(tmp_path: Path, how: str, title: str) -> None:
    done = scripts.run_source(
        tmp_path,
        "from engine import Pool\nimport tasks\n"
        "with Pool(1) as pool:\n"
        f"    pool.apply_async(tasks.die, ('{how}',)).wait()\n",
    )
    assert done.returncode == 0
    assert f"Fatal Python error: {title}\n" in done.stderr
    assert re.search(r'File ".*tasks\.py", line \d+ in die\n', done.stderr)


# A program that reaps


REAPS = """
import os, signal, sys, time
from engine import DEADLINE, Pool, errors
from gates import Gate
import tasks

def start_time(pid):
    with open(f"/proc/{pid}/stat") as stat:
        return int(stat.read().rpartition(")")[2].split()[19])

def take_over(pid, started):
    # Two processes with one number are told apart by their start times, in ticks of a clock.
    ticks = os.sysconf("SC_CLK_TCK")
    while int(time.clock_gettime(time.CLOCK_BOOTTIME) * ticks) <= started + 1:
        time.sleep(0.001)
    # The next child gets the number of the one that was reaped, if we have the right to say so.
    try:
        with open("/proc/sys/kernel/ns_last_pid", "r+") as last:
            before = last.read()
            last.seek(0)
            last.write(str(pid - 1))
            last.flush()
            child = os.fork()
            if child != 0:  # other programs' processes get numbers that nobody has had of late
                last.seek(0)
                last.write(before)
    except OSError:
        return None
    if child == 0:
        signal.pause()
    return child

how = sys.argv[1]
if how == "ignored":
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
with Pool(1) as pool:
    gate = Gate(sys.argv[2])
    # Nobody but the program reaps an idle worker, as long as no thread of the pool runs.
    for busy in [False] if how == "reaped" else [False, True]:
        result = pool.apply_async(gate.hold, (0,)) if busy else None
        pid = gate.arrived(1)[0] if busy else pool.apply(os.getpid)
        started = start_time(pid)
        os.kill(pid, signal.SIGKILL)
        if how == "reaped":
            assert os.waitpid(-1, 0)[0] == pid
        else:
            while os.path.exists(f"/proc/{pid}"):
                time.sleep(0.001)
        stranger = take_over(pid, started)
        if busy:
            try:
                result.get(DEADLINE)
            except errors.WorkerLostError as exc:
                print(exc.exitcode, flush=True)
        print(pool.map(tasks.square, [1, 2, 3], 1), flush=True)
        if stranger is not None:
            os.kill(stranger, 0)  # nobody has killed it
            os.kill(stranger, signal.SIGKILL)
            if how == "reaped":
                assert os.waitpid(stranger, 0)[1] == signal.SIGKILL
pool.join()
"""


@pytest.mark.parametrize("how", ["reaped", "ignored"])
def test_a_dead_worker_whose_pid_is_used_again(tmp_path: Path, how: str) -> None:
    lines = scripts.output(tmp_path, REAPS, how, scripts.gate_folder(tmp_path))
    assert lines == ["[1, 4, 9]", "255", "[1, 4, 9]"][: 1 if how == "reaped" else 3]


def test_a_handler_of_sigchld_reaps_the_workers(make_pool: Any) -> None:
    """It has the first go, as it would fail if the pool had reaped."""
    pool = make_pool(1)
    pids: list[int] = []
    reaped: list[int] = []

    def reap(number: int, frame: object) -> None:
        if len(reaped) < len(pids):  # the signal also tells of processes that stop
            pid, _ = os.waitpid(pids[-1], os.WNOHANG)
            reaped.extend([pid] if pid != 0 else [])

    before = signal.signal(signal.SIGCHLD, reap)
    try:
        for call in [pool.apply, lambda exits, code: pool.starmap(exits, [code])]:
            pids.append(pool.apply(os.getpid))
            with pytest.raises(errors.WorkerLostError) as lost:
                call(os._exit, (3,))
            assert lost.value.exitcode in (3, 255)  # 255: it ran before the pool saw the end
            assert reaped == pids
        pids.append(pool.apply(os.getpid))
        pool.terminate()
        assert reaped == pids
    finally:
        signal.signal(signal.SIGCHLD, before)


def leave_a_copy() -> None:
    """Die, while a process made by C code holds all descriptors."""
    import ctypes

    if ctypes.CDLL(None).fork() == 0:
        ctypes.CDLL(None).usleep(5_000_000)
        os._exit(0)
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_dead_worker_whose_pipes_a_copy_holds_open(make_pool: Any) -> None:
    pool = make_pool(1)
    assert type(failure(pool.apply_async(leave_a_copy))) is errors.WorkerLostError
    whole_again(pool, 1)
