"""Interrupts, kills and exits of workers that are spawned or forked by a fork server."""

from __future__ import annotations

import multiprocessing
import os
import random
import re
import signal
import time
from pathlib import Path
from typing import Any

import engine
import pytest
import scripts
import tasks
from engine import Pool
from gates import Gate, all_gone, eventually
from misbehaving import ignore_sigterm_and_hold

from cpool import WorkerLostError

pytestmark = pytest.mark.better


@pytest.fixture(params=["spawn", "forkserver"])
def method(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


PREFIX = """
import gc, multiprocessing, os, pickle, signal, sys, time
from engine import DEADLINE, Pool
from gates import Gate, all_gone
from programs import pids, say
import tasks

context = multiprocessing.get_context(sys.argv[1])

def work(gate):
    gate.enter()
    end = time.monotonic() + DEADLINE
    while time.monotonic() < end:
        time.sleep(0.002)
"""


def begin(tmp_path: Path, source: str, method: str) -> Any:
    path = scripts.write(tmp_path, PREFIX + source)
    return scripts.start(path, method, scripts.gate_folder(tmp_path))


def press_ctrl_c(process: Any) -> None:
    """Press Ctrl-C when the program says that it is ready."""
    assert scripts.line(process) == "ready\n"
    scripts.press_ctrl_c(process)


# Ctrl-C

BUSY = """
if __name__ == "__main__":
    gate = Gate(sys.argv[2])
    pool = Pool(2, context=context)
    first = pids(pool)
    result = pool.map_async(work, [gate] * 3, 1)
    gate.arrived(2)
    try:
        say("ready")
        result.get()
    except KeyboardInterrupt:
        say("interrupted")
    say(pool.map(abs, [-1, -2], 1))
    pool.terminate()
    pool.join()
    all_gone(first)
"""


def test_ctrl_c_is_one_exception_and_workers_print_nothing(tmp_path: Path, method: str) -> None:
    process = begin(tmp_path, BUSY, method)
    press_ctrl_c(process)
    done = scripts.finish(process)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "interrupted\n[1, 2]\n"


STARTING = """
if __name__ == "__main__":
    gate = Gate(sys.argv[2])
    os.environ["GATE"] = pickle.dumps(gate).hex()
    multiprocessing.set_forkserver_preload([])
    pool = Pool(2, context=context)
    first = gate.arrived(2)
    try:
        say("ready")
        pool.apply(tasks.nothing)
    except KeyboardInterrupt:
        say("interrupted")
    pool.terminate()
    pool.join()
    all_gone(first)
else:
    pickle.loads(bytes.fromhex(os.environ["GATE"])).hold()
"""


def test_ctrl_c_while_workers_import_the_main_module(tmp_path: Path, method: str) -> None:
    process = begin(tmp_path, STARTING, method)
    press_ctrl_c(process)
    done = scripts.finish(process)
    assert (done.returncode, done.stdout, done.stderr) == (0, "interrupted\n", "")


INTERRUPTED_LAUNCH = """
from multiprocessing import forkserver, resource_tracker, util

def interrupt(module, name, how):
    # Interrupt the call that returns the new pid: the process exists by then.
    real = getattr(module, name)
    def launch(*args):
        setattr(module, name, real)
        made.append(real(*args))
        how()
        return made[0]
    setattr(module, name, launch)

def fail():
    raise KeyboardInterrupt

def press():
    os.kill(os.getpid(), signal.SIGINT)

if __name__ == "__main__":
    resource_tracker.ensure_running()
    if sys.argv[1] == "forkserver":
        forkserver.ensure_running()
    for how in fail, press:
        made = []
        if sys.argv[1] == "forkserver":
            interrupt(forkserver, "read_signed", how)
        else:
            interrupt(util, "spawnv_passfds", how)
        before = set(os.listdir("/dev/fd"))
        try:
            Pool(2, context=context)
        except KeyboardInterrupt:
            say("interrupted")
        all_gone(made)
        gc.collect()
        say(len(made), set(os.listdir("/dev/fd")) - before, multiprocessing.active_children())
    with Pool(1, context=context) as pool:
        say(pool.apply(abs, (-1,)))
"""


def test_an_interrupted_launch_leaves_no_worker(tmp_path: Path, method: str) -> None:
    """Whether or not the pid of the new process is known already."""
    done = scripts.finish(begin(tmp_path, INTERRUPTED_LAUNCH, method))
    assert done.returncode == 0, done.stderr
    assert done.stdout == "interrupted\n1 set() []\n" * 2 + "1\n"


# Kills


def test_kills_at_any_moment(method: str) -> None:
    dice = random.Random(7)
    pool = Pool(2, context=multiprocessing.get_context(method))
    for _ in range(5):
        result = pool.map_async(tasks.square, range(300), 1)
        # A copy: the list is shorter, or empty, while another thread replaces workers.
        victim = dice.choice(eventually(lambda: list(pool._pool)))
        victim.kill()
        try:
            assert result.get(engine.DEADLINE) == [x * x for x in range(300)]
        except WorkerLostError as lost:
            assert lost.exitcode == -signal.SIGKILL
    assert pool.map(tasks.square, range(300), 1) == [x * x for x in range(300)]
    pool.close()
    pool.join()


# Ends


def test_terminate_is_quick_although_workers_do_not_react(method: str, gate: Gate) -> None:
    """One worker is stopped, one ignores SIGTERM, one is idle."""
    pool = Pool(3, context=multiprocessing.get_context(method))
    pool.map_async(ignore_sigterm_and_hold, [gate, gate], 1)
    pids = [worker.pid for worker in pool._pool]
    os.kill(gate.arrived(2)[0], signal.SIGSTOP)
    began = time.monotonic()
    pool.terminate()
    pool.join()
    assert time.monotonic() - began < 0.6 * engine.DEADLINE
    all_gone(pid for pid in pids if pid is not None)


@pytest.mark.parametrize(
    "work",
    ["", "pool.map(tasks.square, range(9))", "pool.map_async(work, [gate] * 9); gate.arrived(2)"],
    ids=["fresh", "idle", "busy"],
)
def test_a_program_may_end_with_an_open_pool(tmp_path: Path, method: str, work: str) -> None:
    source = f"""
if __name__ == "__main__":
    gate = Gate(sys.argv[2])
    pool = Pool(2, context=context)
    say(*pids(pool))
    {work}
"""
    done = scripts.finish(begin(tmp_path, source, method))
    assert (done.returncode, done.stderr) == (0, "")
    all_gone(map(int, done.stdout.split()))


FORKED = """
from programs import exit_code

if __name__ == "__main__":
    gate = Gate(sys.argv[2])
    pool = Pool(2, context=context)
    result = pool.map_async(gate.hold, range(2), 1)
    gate.arrived(2)
    before = pids(pool)
    child = os.fork()
    if child == 0:
        try:
            result.get()
        except ValueError:
            pool.terminate()
            sys.exit(3)
        os._exit(4)
    say(exit_code(child))
    gate.open()
    say(result.get(DEADLINE), pids(pool) == before)
    pool.close()
    pool.join()
    say(*[worker.exitcode for worker in pool._pool])
"""


def test_a_forked_copy_leaves_the_pool_alone(tmp_path: Path, method: str) -> None:
    done = scripts.finish(begin(tmp_path, FORKED, method))
    # Free-threaded 3.13's resource tracker complains in any copy that exits: it is no child there.
    noise = r"Exception ignored in: <function ResourceTracker.__del__.*?\nChildProcessError: .*?\n"
    stderr = re.sub(noise, "", done.stderr, flags=re.DOTALL)
    assert (done.returncode, stderr) == (0, "")
    assert done.stdout == "3\n[0, 1] True\n0 0\n"


ORPHANS = """
def compute(gate):
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals() - {signal.SIGKILL})
    gate.enter()
    while True:
        pass

if __name__ == "__main__":
    gate = Gate(sys.argv[2])
    pool = Pool(2, context=context)
    pool.apply_async(compute, (gate,))
    gate.arrived(1)
    pool.apply(tasks.nothing)
    say(*pids(pool))
    time.sleep(DEADLINE)
"""


def test_no_worker_outlives_a_parent_that_is_killed(tmp_path: Path, method: str) -> None:
    """Neither an idle worker nor a worker that computes with all signals blocked."""
    process = begin(tmp_path, ORPHANS, method)
    pids = [int(word) for word in scripts.line(process).split()]
    assert len(pids) == 2
    scripts.kill(process, pids)


KEPT = """
import multiprocessing, os, sys
from engine import Pool
class Last:
    def __del__(self):
        os.write(1, b"deleted\\n")
def begin(path):
    global file, last
    file, last = open(path, "w"), Last()
def work(text):
    if "file" not in globals():
        begin(sys.argv[1])
    return file.write(text)
if __name__ == "__main__":
    begins = {"task": (), "initializer": (begin, (sys.argv[1],))}[sys.argv[2]]
    with Pool(1, *begins, context=multiprocessing.get_context("spawn")) as pool:
        pool.map(work, ["one ", "two"])
        pool.close()
        pool.join()
    with open(sys.argv[1]) as file:
        print(file.read())
"""


@pytest.mark.parametrize("opened_by", ["task", "initializer"])
def test_a_spawned_worker_deletes_what_its_modules_hold(tmp_path: Path, opened_by: str) -> None:
    """At its exit, as every interpreter does. So the buffer of an open file is written."""
    lines = scripts.output(tmp_path, KEPT, str(tmp_path / "text"), opened_by)
    assert lines == ["deleted", "one two"]


# Workers that cannot start

NO_GUARD = """
import multiprocessing, sys
from engine import Pool
multiprocessing.set_forkserver_preload([])  # or some versions' server imports the program
def work(x):
    return x
pool = Pool(2, context=multiprocessing.get_context(sys.argv[1]))
"""


@pytest.mark.parametrize(
    "call",
    [
        "print(pool.map(work, range(4)))",
        "print(pool.apply(work, (1,)))",
        "print(list(pool.imap(work, range(4))))",
        "print(pool.starmap_async(work, [(1,)]).get(60))",
    ],
)
def test_a_program_without_the_guard_is_told_so_once(
    tmp_path: Path, method: str, call: str
) -> None:
    """By the text of the stdlib, which writes it again and again, and never ends."""
    done = scripts.run_source(tmp_path, NO_GUARD + call, method)
    assert (done.returncode, done.stdout) == (1, "")
    reason = done.stderr.partition("PoolError: ")[2]
    assert reason.startswith("An attempt has been made to start a new process before the\n")
    assert "    if __name__ == '__main__':\n        freeze_support()" in reason
    assert done.stderr.count("An attempt has been made") == 1
    assert done.stderr.count("Traceback") == 1
    assert len(done.stderr.splitlines()) < 40


FAILING = """
import multiprocessing, sys
from engine import Pool
if __name__ == "__main__":
    def beginning():
        pass
    multiprocessing.set_forkserver_preload([])
    initializer = beginning if sys.argv[2] == "unpickling" else None
    pool = Pool(2, initializer, context=multiprocessing.get_context(sys.argv[1]))
    results = [pool.apply_async(abs, (-1,)) for _ in range(3)]
    for result in results:
        try:
            result.get(60)
        except Exception as error:
            print(type(error).__name__, str(error).splitlines()[0])
            print(type(error.__cause__).__name__, "Traceback" in str(error.__cause__))
    pool.close()
    pool.join()
elif sys.argv[2] == "importing":
    raise KeyError("nothing there")
elif sys.argv[2] == "exiting":
    sys.exit("enough")
elif sys.argv[2] == "hooked":
    sys.excepthook = None
    int("many")
"""


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("importing", "KeyError: 'nothing there'"),
        ("exiting", "SystemExit: enough"),
        ("unpickling", "AttributeError: .*'__mp_main__'.*"),
        ("hooked", "ValueError: invalid .*'many'"),
    ],
)
def test_what_keeps_workers_from_starting_is_the_error_of_each_job(
    tmp_path: Path, method: str, how: str, reason: str
) -> None:
    found = scripts.output(tmp_path, FAILING, method, how)
    assert found[1::2] == ["RemoteTraceback True"] * 3
    for line in found[::2]:
        end = r" \(raised in a worker during its start: no worker can be started\)"
        assert re.fullmatch(f"PoolError {reason}{end}", line)


def test_a_fork_server_that_cannot_import_the_program(tmp_path: Path) -> None:
    """From 3.14 on a server imports it first; 3.14 then ends, and its error comes before ours."""
    source = NO_GUARD.replace("set_forkserver_preload([])", "set_forkserver_preload(['__main__'])")
    done = scripts.run_source(tmp_path, source + "pool.map(work, [1])", "forkserver")
    assert done.returncode == 1
    assert done.stderr.count("An attempt has been made") == 1
    first, _, then = done.stderr.partition("An attempt has been made")
    assert "never ready" not in done.stderr
    assert first.count("Traceback") == 1
    assert "PoolError" in first or "cpool: the fork server ended" in then


def test_a_program_that_is_in_no_file(tmp_path: Path, method: str) -> None:
    """From stdin: there is nothing that a worker could import."""
    path = tmp_path / "stdin"
    path.write_text(NO_GUARD + "pool.apply(work, (1,))\n", encoding="utf-8")
    with path.open() as stdin:
        done = scripts.run("-", method, stdin=stdin)
    assert done.returncode == 1
    assert re.match(
        r"PoolError: FileNotFoundError: .*<stdin>", done.stderr.split("cpool.errors.")[-1]
    )


PASSING = """
import multiprocessing, os, sys
from engine import Pool
if __name__ == "__main__":
    multiprocessing.set_forkserver_preload([])
    pool = Pool(1, context=multiprocessing.get_context(sys.argv[1]))
    print(pool.apply(abs, (-1,)))
    pool.close()
    pool.join()
else:
    try:
        os.mkdir(sys.argv[2])
    except FileExistsError:
        pass
    else:
        raise {error}
"""


@pytest.mark.parametrize("error", ["MemoryError", "OSError(24, 'Too many open files')"])
def test_what_may_pass_is_tried_again(tmp_path: Path, method: str, error: str) -> None:
    source = PASSING.replace("{error}", error)
    done = scripts.run_source(tmp_path, source, method, str(tmp_path / "mark"))
    assert (done.returncode, done.stdout) == (0, "1\n")
    assert done.stderr.count("Traceback") == 1
    assert error.split("(")[0] in done.stderr


REPLACED = """
import multiprocessing, os, sys
from engine import Pool
def work(path):
    os.mkdir(path)
    os._exit(1)
if __name__ == "__main__":
    multiprocessing.set_forkserver_preload([])
    pool = Pool(1, context=multiprocessing.get_context(sys.argv[1]))
    try:
        pool.apply(work, (sys.argv[2],))
    except RuntimeError as error:
        print(type(error).__name__)
    print(pool.apply(abs, (-1,)))
    pool.close()
    pool.join()
elif os.path.isdir(sys.argv[2]):
    try:
        os.rmdir(sys.argv[2])
        raise KeyError("once")
    except FileNotFoundError:
        pass
"""


def test_a_pool_that_had_workers_is_not_given_up_at_once(tmp_path: Path, method: str) -> None:
    done = scripts.run_source(tmp_path, REPLACED, method, str(tmp_path / "mark"))
    assert (done.returncode, done.stdout) == (0, "WorkerLostError\n1\n")
    assert done.stderr.count("KeyError: 'once'") == 1
