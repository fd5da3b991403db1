"""Every system call of the extension fails once: right results or a clear error, and never a hang.

    python tests/faults/run.py                        the sweep, of everything
    python tests/faults/run.py --call writev --where worker --error EAGAIN
    python tests/faults/run.py ... --only 17          the 17th call alone, with what it prints

Each case is a copy of this process that makes a pool, works with it in all ways and ends it, while
the N-th call of one kind fails, in the copy ("parent") or in any of its workers ("worker"). N goes
up until the call is no longer reached. Each call of the pool's comes to the right result or to an
error that says what happened; nothing is left behind; and it ends. A line for each case that is
wrong, and for those where more than one call failed; ends with 1 where one was wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import errno
import faulthandler
import functools
import gc
import io
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

import dump  # noqa: E402
from engine import PORTABLE, Pool, errors, pool_module  # noqa: E402
from leftovers import children, open_files, threads  # noqa: E402

numpy: Any
try:
    import numpy  # before the forks
except ImportError:
    numpy = None

LIMIT = float(os.environ.get("CPOOL_TEST_DEADLINE", "30"))  # seconds for a case
# Faults that are no error of the system: one byte is read or written; an empty file is opened; the
# call works, but a signal arrives.
SPECIAL = {"SHORT": -1, "OTHER": -2, "SIGNAL": -3}
UNKNOWN = 255  # the exit code that a worker of ours has if the program reaped it

# The calls, and how each of them can fail.
ERRORS: dict[str, list[str]] = {
    "pipe2": ["EMFILE", "ENOMEM"],
    "eventfd": ["EMFILE", "ENOMEM"],
    "epoll_create1": ["EMFILE", "ENOMEM"],
    "epoll_ctl": ["ENOMEM", "ENOSPC"],
    "epoll_wait": ["EINTR"],
    "memfd_create": ["EMFILE", "ENOMEM"],
    "ftruncate": ["ENOMEM", "ENOSPC"],
    "fstat": ["ENOMEM"],
    "mmap": ["ENOMEM"],
    "madvise": ["ENOMEM", "EAGAIN"],
    "fallocate": ["EINTR", "ENOMEM", "EOPNOTSUPP"],
    "lseek": ["EINVAL"],
    "pwrite": ["EINTR", "SHORT", "ENOSPC"],
    "fork": ["EAGAIN", "ENOMEM", "SIGNAL"],
    "pidfd_open": ["EMFILE", "ENOMEM", "ENOSYS"],
    "fcntl": ["ENOMEM", "EINTR"],
    "pthread_create": ["EAGAIN"],
    "waitid": ["EINTR", "ECHILD"],
    "waitpid": ["EINTR", "ECHILD"],
    "poll": ["EINTR", "ENOMEM"],
    "read": ["EINTR", "EAGAIN", "SHORT", "ENOMEM"],
    "write": ["EINTR", "EAGAIN"],
    "writev": ["EINTR", "EAGAIN", "SHORT", "ENOMEM"],
    "pwritev2": ["EINTR", "EAGAIN", "SHORT", "ENOMEM", "EOPNOTSUPP"],
    "open": ["OTHER", "EMFILE", "ENOMEM", "EINTR"],
    "opendir": ["EMFILE", "ENOMEM"],
    "malloc": ["ENOMEM"],
    "calloc": ["ENOMEM"],
    "realloc": ["ENOMEM"],
}
# What threading and open() say where they have no memory.
THREADING = "can't start new thread", "can't allocate lock", "can't allocate read lock"
# What a worker says that cannot open a shared object; the reason follows.
UNREADABLE = "this worker cannot read what the pool has written once for all workers: "
# Bytes of a large body. More than a pipe holds, so that a body without a file in memory comes in
# parts; a megabyte would take no other calls, only more page faults, in each of hundreds of cases.
SIZE = 300_000
SPARSE = 1, 2, 5, 12
LATE = {"open": (48,)}  # workers open shared objects then
# A worker may say why it ends. These say more than that.
NOISE = "Exception ignored", "SystemError", "Fatal Python error", "AssertionError"

# Tasks


def count(number: int) -> Iterator[int]:
    yield from range(number)


def answer(x: int) -> int:
    return 3 * x + 1


def length_of(shared: Any) -> int:
    return len(shared)


def large(sent: bytes) -> bytes:
    return sent[::-1]


def make_array(x: int) -> Any:
    array = errors.empty(SIZE // 4, "i4")
    array[:] = x
    return array


def change(array: Any) -> Any:
    array += 1
    return array


def double(array: Any) -> Any:
    return array * 2


def fail(x: int) -> int:
    raise ValueError(x)


def start_and_hold() -> None:
    """A task that starts a process and then runs out of time."""
    if os.fork() == 0:
        signal.pause()
    signal.pause()


def meet(arrivals: int, door: int) -> int:
    """Arrive, and wait until the door is opened: a byte for each task."""
    os.write(arrivals, b"!")
    os.read(door, 1)
    return os.getpid()


def is_clear(error: BaseException, fault: str = "") -> bool:
    """Is this an error that a call may raise for the fault, as it says what happened?"""
    if isinstance(error, Interrupted):
        return fault == "SIGNAL"
    if isinstance(error, pool_module.MaybeEncodingError):
        return "MemoryError" in error.exc
    return isinstance(error, (OSError, MemoryError, errors.PoolError)) or (
        isinstance(error, RuntimeError)
        and (
            str(error) in THREADING
            or (
                str(error).startswith(UNREADABLE)
                and ("Stale" not in str(error) or fault == "OTHER")
            )
        )
    )


# The program


class Wrong(Exception):
    pass


class Interrupted(Exception):
    """What the program's handler of SIGUSR2 raises."""


class Program:
    """A pool's life. Each step is one call; those that ended in a clear error are listed."""

    def __init__(self, method: str, many: bool, fault: str) -> None:
        self.method = method
        self.fault = fault
        # Of a process that the program reaped the exit code is unknown.
        self.of_killed = (-9, UNKNOWN) if fault == "ECHILD" else (-9,)
        self.many = many  # more than one call fails
        self.failed: list[str] = []
        self.killed: set[int] = set()
        self.is_in_step = False
        for number in (signal.SIGUSR2, signal.SIGALRM):
            signal.signal(number, self.interrupt)

    def interrupt(self, number: int, frame: Any) -> None:
        names = {each.f_globals.get("__name__") for each, _ in traceback.walk_stack(frame)}
        if names & {"logging", "multiprocessing.util"}:
            # In a fork hook, where the exception would be lost, as after os.fork(), or in a
            # Finalize that is half made: a bit later.
            signal.setitimer(signal.ITIMER_REAL, 1e-3)
        elif self.is_in_step:
            self.is_in_step = False
            raise Interrupted

    def make(self) -> Any:
        if self.method == "threads":
            return pool_module.ThreadPool(2)
        # A limit that never strikes: workers and the parent read how much memory they have.
        options: dict[str, Any] = {"memory_limit": None if PORTABLE else "1TB"}
        method = self.method
        if method == "elastic":
            method = "fork"
            options.update(min_processes=1, idle_timeout=0.002)
        if method == "seen":
            method = "fork"
            options.update(forward_logs=True)
        return Pool(2, context=multiprocessing.get_context(method), **options)

    def step(self, name: str, call: Callable[[], Any], right: Any) -> Any:
        try:
            self.is_in_step = True
            try:
                value = call()
            finally:
                self.is_in_step = False
        except errors.WorkerLostError as error:
            if error.pid in self.killed and error.exitcode in self.of_killed:
                return None
            # Workers end of our hand, or because they cannot go on: 1.
            if error.exitcode not in (1, -9):
                raise Wrong(f"{name}: a worker crashed: {error}") from error
            self.failed.append(f"{name}: {error!r}")
        except Exception as error:
            if not is_clear(error, self.fault):
                raise
            self.failed.append(f"{name}: {error!r:.300}")
        else:
            if right is not None and value != right:
                raise Wrong(f"{name} gave {value!r:.100}")
            return value

    def run(self) -> None:
        if self.method == "starts":
            self.start_many()
            return
        pool = self.step("constructor", self.make, None)
        if pool is None and not self.many:
            pool = self.make()  # there was one fault: now it works
        if pool is None:
            return
        try:
            if self.method in ("seen", "threads"):
                self.see(pool)
            if self.method != "seen":
                self.work(pool)
        finally:
            pool.close()
        if self.step("join", functools.partial(pool.join, timeout=LIMIT), None) is None:
            pool.join(timeout=LIMIT)
        self.step("statistics at the end", lambda: self.statistics(pool).pending, 0)

    def again(self, name: str, call: Callable[[], Any]) -> Any:
        """A step that works the second time, since there was one fault."""
        before = len(self.failed)
        value = self.step(name, call, None)
        return value if len(self.failed) == before else call()

    def start_many(self) -> None:
        """Workers that are forked one right after the other, for all that starts several."""
        numbers = list(range(40))
        answers = [answer(x) for x in numbers]
        context = multiprocessing.get_context("fork")
        pool = self.again("constructor", lambda: Pool(5, context=context))
        with contextlib.closing(pool):
            self.step("map", lambda: pool.map(answer, numbers, 1), answers)
            self.again("resize", lambda: pool.resize(9))
            self.check_workers(pool, 9)
            self.step("map in nine", lambda: pool.map(answer, numbers, 1), answers)
        self.again("join", functools.partial(pool.join, timeout=LIMIT))
        pipes = *os.pipe(), *os.pipe()  # before the workers, which inherit them
        try:
            make = functools.partial(Pool, 5, context=context, min_processes=1)
            pool = self.again("elastic", make)
            with contextlib.closing(pool):
                self.grow(pool, 5, *pipes)
                self.check_workers(pool, 5)
            self.again("join elastic", functools.partial(pool.join, timeout=LIMIT))
        finally:
            for fd in pipes:
                os.close(fd)
        executor = errors.ProcessPoolExecutor(4, mp_context=context)
        try:
            self.again("submit", lambda: executor.submit(answer, 1).result(LIMIT))
            self.step("executor.map", lambda: list(executor.map(answer, numbers)), answers)
        finally:
            executor.shutdown()

    def check_workers(self, pool: Any, number: int) -> None:
        # Workers that a pool starts together may run tasks before they are listed.
        end = time.monotonic() + LIMIT / 2
        while True:
            pids = {worker.pid for worker in list(pool._pool)}
            known = {child.pid for child in children()}
            if len(pids) == number and pids <= known:
                return
            if time.monotonic() > end:
                raise Wrong(f"workers {pids}, not {number} of the children {known}")
            time.sleep(0.002)

    def grow(self, pool: Any, number: int, *pipes: int) -> None:
        """Have so many tasks run at once: the pool has as many workers then."""
        arrivals, arrive, enter, door = pipes
        items = [(arrive, enter)] * number
        found = self.again("starmap_async", lambda: pool.starmap_async(meet, items, 1))
        for _ in range(number):
            if not select_one(arrivals, time.monotonic() + LIMIT / 2):
                raise Wrong("the pool did not grow")
            os.read(arrivals, 1)
        os.write(door, bytes(number))
        self.again("growth", lambda: found.get(LIMIT))

    def see(self, pool: Any) -> None:
        """Each of these allocates what it shows. A trace that could not begin is off."""
        step = self.step
        trace = errors.trace(os.devnull)
        step("the trace begins", trace.start, None)
        step("apply", lambda: pool.apply(answer, (1,)), 4)
        result = step("apply_async", lambda: pool.apply_async(time.sleep, (0.01,)), None)
        step("dump", lambda: self.dump(pool), True)
        step("statistics", lambda: self.statistics(pool), None)
        if result is not None:
            step("the task", lambda: result.get(LIMIT), None)
        step("the trace ends", trace.stop, None)
        trace.stop()
        step("a second trace", lambda: self.trace(pool), True)

    def dump(self, pool: Any) -> bool:
        text = io.StringIO()
        pool.dump(text)
        return text.getvalue().startswith("cpool: pool of 2 ")

    def statistics(self, pool: Any) -> Any:
        """Check that no item is counted twice or lost, whatever fails."""
        found = pool.statistics()
        over = found.done + found.failed + found.lost + found.cancelled
        if found.pending < 0 or found.submitted != over + found.pending:
            raise Wrong(f"the statistics do not add up: {found}")
        if found.shared_memory_in_use > found.shared_memory:
            raise Wrong(f"more memory is in use than there is: {found}")
        return found

    def trace(self, pool: Any) -> bool:
        with errors.trace(os.devnull):
            return bool(pool.apply(answer, (1,)) == 4)

    def work(self, pool: Any) -> None:
        step = self.step
        numbers = list(range(40))
        answers = [answer(x) for x in numbers]
        body = bytes(range(256)) * (SIZE // 256)
        step("apply", lambda: pool.apply(answer, (1,)), 4)
        step("map", lambda: pool.map(answer, numbers, 1), answers)
        step("map in chunks", lambda: pool.map(answer, numbers), answers)
        step("imap", lambda: list(pool.imap(answer, iter(numbers))), answers)
        step(
            "imap_unordered", lambda: sorted(pool.imap_unordered(answer, iter(numbers), 3)), answers
        )
        step("a failure", lambda: self.failure(pool), True)
        step("a large body", lambda: pool.apply(large, (body,)), body[::-1])
        step("large bodies", lambda: pool.map(large, [body] * 3, 1), [body[::-1]] * 3)
        step("a callback", lambda: self.callback(pool), True)
        step("a large callback", lambda: self.callback(pool, body), True)
        step("many calls", lambda: self.calls(pool), True)
        if self.method != "threads":
            self.kill(pool)
            step("after a death", lambda: pool.map(answer, numbers, 1), answers)
            step("callback after a death", lambda: self.callback(pool), True)
            step("a limit of time", lambda: self.limit(pool), True)
            step("after the limit", lambda: pool.map(answer, numbers, 1), answers)
        step("a stream", lambda: list(pool.stream(count, (200,), buffersize=8)), list(range(200)))
        step("flatmap", lambda: list(pool.flatmap(count, [3, 0, 2])), [0, 1, 2, 0, 1])
        step("a dropped stream", lambda: next(pool.stream(count, (1000,))), 0)
        step("in one worker", lambda: pool.apply(answer, (3,), worker=1), answer(3))
        step("broadcast", lambda: set(pool.broadcast(answer, (4,))), {answer(4)})
        step("a shared object", lambda: self.share(pool, body), True)
        if numpy is not None:
            step("arrays without a copy", lambda: self.arrays(pool), True)
            step("small arrays", lambda: self.small_arrays(pool), True)
        step("a dropped iterator", lambda: next(pool.imap(answer, iter(numbers))), 1)
        step("apply at last", lambda: pool.apply(answer, (2,)), 7)

    def failure(self, pool: Any) -> bool:
        try:
            pool.apply(fail, (3,))
        except ValueError as error:
            return error.args == (3,)
        return False

    def share(self, pool: Any, body: bytes) -> bool:
        """Alone, within another, and in all workers."""
        with pool.share(body) as inner, pool.share([inner, 1]) as outer:
            found = pool.map(length_of, [inner, outer] * 3, 1) + pool.broadcast(length_of, (inner,))
            assert inner.obj == body
        return bool(found == [len(body), 2] * 3 + [len(body)] * (len(found) - 6))

    def arrays(self, pool: Any) -> bool:
        """Built in shared memory, and changed in place; one is kept meanwhile."""
        kept = pool.apply(make_array, (7,))
        built = pool.map(make_array, [1, 2, 3], 1)
        changed = pool.apply(change, (built[2],))
        found = [int(array[0]) for array in [kept, *built, changed] if (array == array[0]).all()]
        return found == [7, 1, 2, 4 if changed is built[2] else 3, 4]  # threads change it itself

    def small_arrays(self, pool: Any) -> bool:
        """Copied when they arrive. Those of a worker that is new take its first block."""
        arrays = [numpy.full(2000, x) for x in range(6)]
        found = pool.map(double, arrays, 1)
        return all((array == 2 * x).all() for x, array in enumerate(found))

    def limit(self, pool: Any) -> bool:
        """The tree of the task is killed; what a fault hides from the look at it stays."""
        try:
            pool.apply(start_and_hold, task_timeout=0.01)
        except errors.TaskTimeoutError:
            return True
        return False

    def callback(self, pool: Any, body: bytes = b"a") -> bool:
        """A call whose result is only seen by its callback."""
        told: list[Any] = []
        event = threading.Event()

        def tell(value: Any) -> None:
            told.append(value)
            event.set()

        result = pool.apply_async(large, (body,), callback=tell, error_callback=tell)
        if not event.wait(LIMIT / 2):
            raise Wrong("no callback came")
        if isinstance(told[0], BaseException):
            raise told[0]
        return bool(told == [body[::-1]] == [result.get(LIMIT)])

    def calls(self, pool: Any) -> bool:
        results = [pool.apply_async(answer, (x,)) for x in range(100)]
        failure = None
        for x, result in enumerate(results):
            try:
                assert result.get(LIMIT) == answer(x)
            except (OSError, MemoryError, errors.PoolError) as error:
                failure = error
        if failure is not None:
            raise failure
        return True

    def kill(self, pool: Any) -> None:
        workers = list(pool._workers)
        if workers:
            self.killed.add(workers[0].pid)
            workers[0].kill()


def life(method: str, many: bool, fault: str) -> list[str]:
    """Run one program, in a forked copy of this process; return the steps that raised errors."""
    before = open_files(), threads(), children()
    program = Program(method, many, fault)
    program.run()
    end = time.monotonic() + LIMIT / 2
    while True:
        gc.collect()
        left = [
            str(thing)
            for look, was in zip((open_files, threads, children), before, strict=True)
            for thing in look() - was
        ]
        if not left:
            return program.failed
        if time.monotonic() > end:
            raise Wrong(f"left behind: {left}")
        time.sleep(0.002)


# Cases


class Case(NamedTuple):
    method: str
    call: str
    where: str
    error: str
    number: int  # 0: none fails
    times: int = 1

    def __str__(self) -> str:
        return (
            f"--method {self.method} --call {self.call} --where {self.where}"
            f" --error {self.error} --times {self.times} --only {self.number}"
        )


Counts = dict[tuple[str, str], int]  # by call, and where: in the parent or in a worker


class Outcome(NamedTuple):
    problem: str  # "" where all went well
    failed: list[str]  # steps that came to a clear error
    output: str
    counts: Counts
    was_hit: bool


def build(folder: Path) -> dict[str, str]:
    """Build the library; the environment of a program that has it loaded."""
    library = folder / "inject.so"
    preloaded = os.environ.get("LD_PRELOAD", "")
    command = [*os.environ.get("CC", "cc").split(), "-std=c11", "-D_GNU_SOURCE", "-O1", "-g"]
    command += ["-Wall", "-Wextra", "-Werror", "-fPIC", "-shared", "-fvisibility=hidden"]
    if "asan" in preloaded:
        command += ["-DWITHOUT_MALLOC"]  # a sanitizer has its own
    command += ["-o", str(library), str(HERE / "inject.c"), "-ldl", "-lpthread"]
    env = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    subprocess.run(command, check=True, env=env)
    return {"CPOOL_FAULTS": str(library), "LD_PRELOAD": f"{library} {preloaded}".strip()}


def load() -> Any:
    loaded = ctypes.CDLL(os.environ["CPOOL_FAULTS"])
    loaded.fault_arm.argtypes = [
        ctypes.c_char_p,
        ctypes.c_int,
        ctypes.c_ulonglong,
        ctypes.c_ulonglong,
        ctypes.c_int,
    ]
    loaded.fault_count.argtypes = [ctypes.c_char_p, ctypes.c_int]
    loaded.fault_count.restype = ctypes.c_ulonglong
    return loaded


def run(faults: Any, case: Case) -> Outcome:
    number = SPECIAL.get(case.error) or getattr(errno, case.error)
    in_worker = case.where == "worker"
    if faults.fault_arm(case.call.encode(), in_worker, case.number, case.times, number) != 0:
        raise SystemExit(f"{case.call}: no such call, or no extension")
    with tempfile.TemporaryFile("w+", errors="replace") as output:
        pid = os.fork()
        if pid == 0:
            child(faults, case, output.fileno())
        problem = wait(pid, LIMIT)
        output.seek(0)
        text = output.read()
    kill_all(pid)
    failed = [line[8:] for line in text.splitlines() if line.startswith("failed: ")]
    if not problem and any(word in text for word in NOISE):
        problem = "noise"
    counts = {
        (call, where): faults.fault_count(call.encode(), where == "worker")
        for call in ERRORS
        for where in ("parent", "worker")
    }
    return Outcome(problem, failed, text, counts, faults.fault_count(b"hits", 0) > 0)


def child(faults: Any, case: Case, output: int) -> None:
    code = 1
    try:
        os.setpgid(0, 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        faulthandler.enable()
        faults.fault_begin()
        failed = life(case.method, case.times > 1, case.error)
        faults.fault_end()
        for text in failed:
            print(f"failed: {text}", flush=True)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def wait(pid: int, seconds: float, output: Any = None) -> str:
    """How a copy ended, or "" if it ended well. A copy that writes nothing for so many seconds
    counts as hanging."""
    fd = os.pidfd_open(pid)
    size = 0
    try:
        while not select_one(fd, time.monotonic() + seconds):
            if output is not None and (now := os.fstat(output.fileno()).st_size) > size:
                size = now
                continue
            print(dump.state(pid), dump.stacks(pid), sep="\n", file=sys.stderr)
            for worker in multiprocessing_children(pid):
                print(
                    f"child {worker}",
                    dump.state(worker),
                    dump.stacks(worker),
                    sep="\n",
                    file=sys.stderr,
                )
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return "hang"
    finally:
        os.close(fd)
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    return "" if code == 0 else f"crash ({signal.Signals(-code).name})" if code < 0 else "wrong"


def select_one(fd: int, end: float) -> bool:
    import select

    return bool(select.select([fd], [], [], max(0.0, end - time.monotonic()))[0])


def multiprocessing_children(pid: int) -> list[int]:
    with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{pid}/children") as file:
        return [int(word) for word in file.read().split()]
    return []


def kill_all(group: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def counts_without_fault(faults: Any, method: str, folder: Path | None) -> Counts:
    """How often each call is made where none fails, from the folder or from a life of its own."""
    known = folder / f"{method}.json" if folder is not None else None
    if known is not None and known.exists():
        return {(call, where): n for call, where, n in json.loads(known.read_text())}
    base = run(faults, Case(method, "read", "parent", "EINTR", 0))
    if base.problem or base.failed:
        raise SystemExit(f"without a fault: {base.problem} {base.failed}\n{base.output}")
    if known is not None:
        known.write_text(json.dumps([[*key, n] for key, n in base.counts.items()]))
    return base.counts


def sweep(faults: Any, args: argparse.Namespace) -> Iterator[tuple[Case, Outcome]]:
    for method in args.method.split(","):
        counts = counts_without_fault(faults, method, args.counts)
        for call, names in ERRORS.items():
            if args.call and call not in args.call.split(","):
                continue
            for where in args.where.split(","):
                if args.sparse:
                    yield from some(faults, Case(method, call, where, "", 0), names, counts)
                    continue
                for error in names:
                    if args.error and error not in args.error.split(","):
                        continue
                    yield from numbers(faults, args, Case(method, call, where, error, 0), counts)


def some(
    faults: Any, case: Case, names: list[str], counts: Counts
) -> Iterator[tuple[Case, Outcome]]:
    """The first calls of a kind and some later ones, with each of its errors in turn."""
    if counts[case.call, case.where] == 0:
        return
    for at, number in enumerate(SPARSE + LATE.get(case.call, ())):
        one = case._replace(number=number, error=names[at % len(names)])
        yield one, run(faults, one)


def numbers(
    faults: Any, args: argparse.Namespace, case: Case, counts: Counts
) -> Iterator[tuple[Case, Outcome]]:
    if counts[case.call, case.where] == 0:
        return
    if args.only:
        one = case._replace(number=args.only, times=args.times)
        yield one, run(faults, one)
        return
    number, missed = 1, 0
    while missed < 3 and number <= args.most:
        one = case._replace(number=number, times=args.times)
        outcome = run(faults, one)
        missed = 0 if outcome.was_hit else missed + 1
        yield one, outcome
        # Far out calls are much alike.
        number += 1 if number < args.dense else max(1, number // 10)


def main() -> int:
    parser = argparse.ArgumentParser(description="Make each system call of the core fail once.")
    parser.add_argument(
        "--method",
        default="fork",
        help="of fork, starts, elastic, seen, spawn, forkserver, threads",
    )
    parser.add_argument("--call", default="", help="these alone, such as read,write")
    parser.add_argument("--where", default="parent,worker")
    parser.add_argument("--error", default="", help="these alone, such as EINTR,SHORT")
    parser.add_argument("--only", type=int, default=0, help="one number alone")
    parser.add_argument("--times", type=int, default=1, help="how many calls in a row fail")
    parser.add_argument("--sparse", action="store_true", help="a few numbers only")
    parser.add_argument("--dense", type=int, default=60, help="every number up to this one")
    parser.add_argument("--most", type=int, default=2000, help="no number beyond")
    parser.add_argument(
        "--counts",
        type=Path,
        help="a folder for the number of each call without a fault, for many runs to share",
    )
    parser.add_argument("--verbose", action="store_true")
    args = parser.parse_args()
    if "CPOOL_FAULTS" not in os.environ:
        with tempfile.TemporaryDirectory() as folder:
            env = {**os.environ, **build(Path(folder))}
            return subprocess.run([sys.executable, *sys.argv], env=env, check=False).returncode
    warnings.simplefilter("ignore", DeprecationWarning)
    warnings.simplefilter("ignore", ResourceWarning)
    faults = load()
    # A collection in a case, or in a worker of one, would copy the pages of all these objects.
    gc.collect()
    gc.freeze()
    cases = wrong = 0
    for case, outcome in sweep(faults, args):
        cases += 1
        many = len(outcome.failed) > 1
        if outcome.problem or many or args.verbose or args.only:
            print(f"{outcome.problem or ('many' if many else 'fine')}: {case}", flush=True)
            print("    " + "\n    ".join(outcome.failed), flush=True)
        if args.only or outcome.problem:
            lines = [line[:300] for line in outcome.output.splitlines()[-40:]]
            print("    " + "\n    ".join(lines), flush=True)
        wrong += bool(outcome.problem)
    print(f"{cases} cases, {wrong} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
