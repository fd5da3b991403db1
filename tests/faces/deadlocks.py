"""Programs on which concurrent.futures' ProcessPoolExecutor hangs or breaks, and cpool's does not.

    python tests/faces/deadlocks.py [PYTHON...]

runs each with the standard library's executor, in each of these interpreters, and prints the
outcome: the source of the table in docs/compatibility.md.
"""

from __future__ import annotations

import contextlib
import glob
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

SECONDS = 10  # a program whose threads sleep for so long hangs


class Case(NamedTuple):
    """A program, which prints `expected` if it works."""

    issue: str  # in the tracker of CPython; "" if none is known
    what: str
    stdlib: str  # what became of it with the standard library's, by version; see main()
    program: str
    expected: str


HEAD = """\
import multiprocessing, os, signal, threading, time
from concurrent.futures import ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool

def outcome(future):
    try:
        return future.result()
    except BaseException as error:
        return type(error).__name__

class Refuses:
    def __reduce__(self):
        raise ZeroDivisionError

GO = __file__ + ".go"

def held(path):
    while not os.path.exists(path):
        time.sleep(0.01)

def go():
    open(GO, "w").close()

"""

CASES = {
    "worker_is_replaced_at_its_limit": Case(
        "115634",
        "workers are replaced after `max_tasks_per_child` calls while more calls wait",
        "hangs: 3.11.7, 3.12.1, 3.13.0, 3.13.5; right: 3.14.10, 3.15.2",
        """
if __name__ == "__main__":
    with ProcessPoolExecutor(1, max_tasks_per_child=2) as executor:
        futures = [executor.submit(pow, i, 2) for i in range(10)]
        print(sum(future.result() for future in futures))
""",
        "285",
    ),
    "executor_is_collected_with_calls_left": Case(
        "152967",
        "the executor is collected while calls wait for a worker that is to be replaced",
        "hangs: 3.11.7, 3.12.1, 3.13.0, 3.13.5; breaks: 3.14.10, 3.15.2",
        """
def futures_of_a_lost_executor():
    executor = ProcessPoolExecutor(1, max_tasks_per_child=1)
    return [executor.submit(pow, i, 2) for i in range(4)]

if __name__ == "__main__":
    print([outcome(future) for future in futures_of_a_lost_executor()])
""",
        "[0, 1, 4, 9]",
    ),
    "shutdown_without_waiting_and_a_limit": Case(
        "119592",
        "`shutdown(wait=False)` while calls wait for a worker that is to be replaced",
        "hangs: 3.11.7, 3.12.1, 3.13.0, 3.13.5; right: 3.14.10, 3.15.2",
        """
if __name__ == "__main__":
    executor = ProcessPoolExecutor(2, max_tasks_per_child=1)
    futures = [executor.submit(pow, i, 2) for i in range(6)]
    executor.shutdown(wait=False)
    print([outcome(future) for future in futures])
""",
        "[0, 1, 4, 9, 16, 25]",
    ),
    "shutdown_without_waiting_and_a_failed_call": Case(
        "132969",
        "`shutdown(wait=False)` after a call has failed, while workers are replaced",
        "hangs: 3.11.7; right: 3.12.1, 3.13.0",
        """
def answer(x, fails):
    if fails:
        raise ValueError
    return x

if __name__ == "__main__":
    executor = ProcessPoolExecutor(4, max_tasks_per_child=1)
    futures = [executor.submit(answer, x, x == 1) for x in range(3)]
    print(outcome(futures[0]), outcome(futures[1]))
    executor.shutdown(wait=False)
    print(outcome(futures[2]))
""",
        "0 ValueError\n2",
    ),
    "worker_dies_while_large_arguments_are_sent": Case(
        "94777",
        "a worker dies while large arguments are written to the pipe of calls",
        "breaks: all; according to the tracker it hangs up to July 2023",
        """
def work(i, data):
    if i == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return len(data)

if __name__ == "__main__":
    data = bytes(20_000_000)
    with ProcessPoolExecutor(2) as executor:
        futures = [executor.submit(work, i, data) for i in range(8)]
        print([isinstance(future.exception(), BrokenProcessPool) for future in futures].count(True))
""",
        "1",
    ),
    "many_calls_while_a_callback_runs": Case(
        "105829, 109917",
        "a callback runs while so many calls are submitted that the wake-up pipe is full",
        "hangs: all",
        """
if __name__ == "__main__":
    begun, submitted = threading.Event(), threading.Event()
    with ProcessPoolExecutor(2) as executor:
        first = executor.submit(held, GO)
        first.add_done_callback(lambda _: (begun.set(), submitted.wait()))
        go()
        begun.wait()
        futures = [executor.submit(abs, i) for i in range(20_000)]
        submitted.set()
        print(sum(future.result() for future in futures))
""",
        "199990000",
    ),
    "calls_that_cannot_be_pickled_are_cancelled": Case(
        "116685",
        "`shutdown(cancel_futures=True)` after a call that cannot be pickled",
        "right: 3.11.7, 3.12.1; hangs: 3.13.0, 3.13.5, 3.14.10, 3.15.2",
        """
if __name__ == "__main__":
    with ProcessPoolExecutor(1) as executor:
        futures = [executor.submit(abs, Refuses()) for _ in range(10)]
        print(outcome(futures[0]))
        executor.shutdown(wait=True, cancel_futures=True)
    print(all(future.done() for future in futures))
""",
        "ZeroDivisionError\nTrue",
    ),
    "callback_of_a_refused_call_submits_during_shutdown": Case(
        "125451",
        "a call cannot be pickled, and its callback uses the executor during `shutdown()`",
        "right: 3.11.7; hangs: all later ones",
        """
if __name__ == "__main__":
    executor = ProcessPoolExecutor(1)
    leaving = threading.Event()

    def again(_):
        leaving.wait()
        time.sleep(0.5)
        try:
            executor.submit(abs, 1)
        except RuntimeError:
            pass

    class RefusesLater:
        def __reduce__(self):
            time.sleep(0.2)
            raise ZeroDivisionError

    threading.Timer(0.3, leaving.set).start()
    future = executor.submit(abs, RefusesLater())
    future.add_done_callback(again)
    executor.shutdown()
    print(outcome(future))
""",
        "ZeroDivisionError",
    ),
    "call_of_a_module_that_is_being_imported": Case(
        "155890",
        "a module uses an executor while it is imported, with a function of its own",
        "hangs: all",
        """
import pathlib, sys

MODULE = '''
from concurrent.futures import ProcessPoolExecutor

def square(x):
    return x * x

with ProcessPoolExecutor(1, mp_context={}) as executor:
    print(executor.submit(square, 3).result())
'''

if __name__ == "__main__":
    context = "__import__('multiprocessing').get_context('fork')"
    pathlib.Path(__file__).with_name("imported.py").write_text(MODULE.format(context))
    import imported
""",
        "9",
    ),
    "shutdown_in_a_signal_handler": Case(
        "121649",
        "a signal handler calls `shutdown()` while the main thread is in `submit()`",
        "hangs: all",
        """
def run():
    try:
        while True:
            executor.submit(abs, 1)
    except RuntimeError:  # it is shut down
        pass

if __name__ == "__main__":
    signal.signal(signal.SIGALRM, lambda *_: executor.shutdown(wait=False))
    ended = 0
    for _ in range(20):
        executor = ProcessPoolExecutor(1)
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        run()
        ended += 1
    print(ended)
""",
        "20",
    ),
    "exit_after_shutdown_without_waiting": Case(
        "83386",
        "the program ends after `shutdown(wait=False)` while a call runs",
        "right: all; according to the tracker it hangs up to 3.8",
        """
if __name__ == "__main__":
    executor = ProcessPoolExecutor(2)
    executor.submit(time.sleep, 0.3)
    executor.shutdown(wait=False)
    print("end")
""",
        "end",
    ),
    "exit_after_a_call_that_cannot_be_pickled": Case(
        "83285",
        "`shutdown(wait=False)` after a call that cannot be pickled",
        "right: all; according to the tracker it hangs up to 3.8",
        """
if __name__ == "__main__":
    executor = ProcessPoolExecutor(1)
    future = executor.submit(abs, Refuses())
    executor.shutdown(wait=False)
    print(outcome(future))
""",
        "ZeroDivisionError",
    ),
    "shutdown_after_a_cancelled_call": Case(
        "94440",
        "`shutdown()` just after the only call was cancelled",
        "right: all; according to the tracker it hangs with 3.11.0b3",
        """
if __name__ == "__main__":
    for _ in range(20):
        executor = ProcessPoolExecutor(1)
        executor.submit(int).result()
        executor.submit(int).cancel()
        executor.shutdown(wait=True)
    print("end")
""",
        "end",
    ),
    "many_executors_one_after_another": Case(
        "90622, 105464",
        "executors are made, used and ended one after the other, while other threads run",
        "right: all; according to the tracker it hangs up to May 2022",
        """
import asyncio

async def main():
    loop = asyncio.get_running_loop()
    context = multiprocessing.get_context("fork")
    total = 0
    for i in range(20):
        with ProcessPoolExecutor(2, mp_context=context) as executor:
            total += await loop.run_in_executor(executor, abs, -i)
    print(total)

if __name__ == "__main__":
    asyncio.run(main())
""",
        "190",
    ),
    "error_that_cannot_be_unpickled": Case(
        "79492, 81389",
        "a call raises an exception that cannot be rebuilt from its pickle",
        "breaks: all",
        """
class Needs(Exception):
    def __init__(self, one, two):
        super().__init__(one)

def fail():
    raise Needs(1, 2)

if __name__ == "__main__":
    with ProcessPoolExecutor(1) as executor:
        failed = executor.submit(fail)
        others = [executor.submit(abs, -i) for i in range(5)]
        print(isinstance(failed.exception(), Exception), [outcome(other) for other in others])
""",
        "True [0, 1, 2, 3, 4]",
    ),
    "workers_are_lost_one_by_one": Case(
        "101267",
        "workers die one after the other: each call has its own error, and later calls run",
        "breaks: all",
        """
if __name__ == "__main__":
    with ProcessPoolExecutor(1) as executor:
        lost = [executor.submit(os._exit, code) for code in (1, 2)]
        errors = [future.exception() for future in lost]
        print(errors[0] is not errors[1], executor.submit(abs, -3).result())
""",
        "True 3",
    ),
    "callback_exits": Case(
        "",
        "a done callback raises SystemExit",
        "hangs: all",
        """
if __name__ == "__main__":
    threading.excepthook = lambda args: None
    with ProcessPoolExecutor(1) as executor:
        executor.submit(held, GO).add_done_callback(lambda _: exit(3))
        go()
        futures = [executor.submit(abs, -i) for i in range(5)]
        print([outcome(future) for future in futures])
""",
        "[0, 1, 2, 3, 4]",
    ),
    "callback_waits_for_another_call": Case(
        "",
        "a done callback waits for the result of another call",
        "hangs: all",
        """
if __name__ == "__main__":
    found = []
    with ProcessPoolExecutor(1) as executor:
        first, second = executor.submit(held, GO), executor.submit(abs, -3)
        first.add_done_callback(lambda _: found.append(second.result()))
        go()
    print(found)
""",
        "[3]",
    ),
    "program_ends_a_future_itself": Case(
        "",
        "the program calls `set_result()` on a future of the executor",
        "hangs: 3.11.7; breaks: all later ones",
        """
if __name__ == "__main__":
    threading.excepthook = lambda args: None
    with ProcessPoolExecutor(1) as executor:
        begun = executor.submit(held, GO)
        future = executor.submit(abs, -1)
        future.set_result(7)
        go()
        rest = [executor.submit(abs, -i) for i in range(5)]
        print(future.result(), [outcome(each) for each in rest])
""",
        "7 [0, 1, 2, 3, 4]",
    ),
    "executor_of_the_parent_in_a_fork": Case(
        "",
        "a forked child submits to the executor of its parent",
        "hangs: all",
        """
if __name__ == "__main__":
    executor = ProcessPoolExecutor(1)
    executor.submit(abs, 1).result()
    pid = os.fork()
    if pid == 0:
        try:
            executor.submit(abs, -2).result()
        except RuntimeError as error:
            print("its parent" in str(error), flush=True)
        os._exit(0)
    os.waitpid(pid, 0)
    print(executor.submit(abs, -3).result())
""",
        "True\n3",
    ),
    "worker_is_killed_between_calls": Case(
        "",
        "an idle worker is killed, for example by the kernel when memory runs out",
        "breaks: all",
        """
if __name__ == "__main__":
    with ProcessPoolExecutor(1) as executor:
        os.kill(executor.submit(os.getpid).result(), signal.SIGKILL)
        time.sleep(0.5)
        print(outcome(executor.submit(abs, -3)))
""",
        "3",
    ),
}


# ---- measuring the standard library's ----


def states_of(group: int) -> set[str]:
    """The states of all threads in a group of processes: R runs or wants to, S sleeps."""
    found = set()
    for path in glob.glob("/proc/[0-9]*/task/*/stat"):
        with contextlib.suppress(OSError), open(path, encoding="utf-8") as file:
            state, _, its_group = file.read().rpartition(")")[2].split()[:3]
            if int(its_group) == group:
                found.add(state)
    return found


def outcome_of(python: str, case: Case, folder: Path) -> str:
    """ "hangs": nothing runs any more; "breaks": it prints something else; "": all is well."""
    path = folder / "program.py"
    path.write_text(HEAD + case.program, encoding="utf-8")
    (folder / "program.py.go").unlink(missing_ok=True)
    process = subprocess.Popen(
        [python, "-W", "ignore", path],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    printed = None
    asleep = 0
    while printed is None and asleep < SECONDS:
        try:
            printed, _ = process.communicate(timeout=1)
        except subprocess.TimeoutExpired:
            asleep = asleep + 1 if states_of(process.pid) <= {"S", "Z"} else 0
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    if printed is None:
        return "hangs"
    return "" if printed.strip() == case.expected else "breaks"


def main(pythons: list[str]) -> None:
    for python in pythons:
        version = subprocess.check_output([python, "-V"], text=True).split()[1]
        for name, case in CASES.items():
            with tempfile.TemporaryDirectory() as folder:
                found = outcome_of(python, case, Path(folder))
            print(f"{version:8} {case.issue:14} {name:50} {found}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:] or [sys.executable])
