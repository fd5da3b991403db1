"""CPython's own tests of concurrent.futures, unmodified, with cpool's executors in place.

The tests that are left out are listed with the reason. Those of a CPython without its tests of
concurrent.futures, and of the InterpreterPoolExecutor, are not run.
"""

import importlib.util
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import own_process
import pytest

import cpool

HERE = Path(__file__).parent
PACKAGE = "test.test_concurrent_futures"
MODULES = """
    test_as_completed test_deadlock test_init test_process_pool test_shutdown test_thread_pool
    test_wait
""".split()
GROUP_SECONDS = 240

# Left out: a part of the name of a test, and why.
LEFT_OUT = {
    # One death does not break our executor: the other calls, and those to come, are run.
    "ProcessPoolExecutorTest.test_killed_child": "wants the executor to be broken",
    "ProcessPoolExecutorTest.test_broken_process_pool_traceback": "wants it to be broken",
    # What cannot be unpickled fails its call with the error itself, and breaks nothing.
    "ExecutorDeadlockTest.test_error_at_task_unpickle": "wants the executor to be broken",
    "ExecutorDeadlockTest.test_exit_at_task_unpickle": "wants the executor to be broken",
    "ExecutorDeadlockTest.test_error_during_result_unpickle_in_result_handler": "likewise",
    "ExecutorDeadlockTest.test_exit_during_result_unpickle_in_result_handler": "likewise",
    "ExecutorDeadlockTest.test_exit_during_result_pickle_on_worker": "wants SystemExit itself: "
    "here every result that cannot be pickled is one error, which is a PicklingError",
    # Workers are started for calls that wait; a call that cannot be pickled does not.
    "SpawnProcessPoolExecutorTest.test_saturation": "submits what cannot be pickled",
    "ForkserverProcessPoolExecutorTest.test_saturation": "submits what cannot be pickled",
    "SpawnProcessPoolShutdownTest.test_processes_terminate": "submits what cannot be pickled",
    "ForkserverProcessPoolShutdownTest.test_processes_terminate": "likewise",
    # Parts of the stdlib's engine are replaced by mocks, or are looked into.
    "test_gh105829_should_not_deadlock_if_wakeup_pipe_full": "replaces the manager thread",
    "test_failed_worker_replacement_breaks_pool": "replaces _spawn_worker by a mock",
    "test_force_shutdown_during_max_tasks_worker_exit": "sets _force_shutting_down",
    "test_force_shutdown_workers": "replaces the processes by mocks",
    # The stdlib cannot cancel what is in its queue of calls.
    "ProcessPoolShutdownTest.test_cancel_futures": "wants some calls not to be cancelled",
    # The executor may be collected: its calls run all the same. The stdlib's fail.
    "test_gc_during_max_tasks_worker_exit_gh152967": "wants the calls to fail",
    "test_shutdown_no_wait_max_tasks_gh119592": "wants the calls of a collected one to fail",
    # Needs a second interpreter.
    "InterpreterPool": "cpool has no InterpreterPoolExecutor",
}

# As in test_cpython.py.
START_METHODS = os.environ.get("CPOOL_TEST_START_METHODS", "fork spawn forkserver").split()
OTHER_METHODS = [
    f"ProcessPool{method.capitalize()}"
    for method in ("fork", "spawn", "forkserver")
    if method not in START_METHODS
]


def has_tests():
    try:
        return importlib.util.find_spec(f"{PACKAGE}.util") is not None
    except ModuleNotFoundError:
        return False


def run_module(directory, name):
    """Run a module of tests in its own process; {test: its line} and the output."""
    results = directory / "results.jsonl"
    python_path = os.pathsep.join([str(Path(cpool.__file__).parent.parent), str(HERE)])
    command = [sys.executable, "-X", "faulthandler", "-W", "ignore", HERE / "run_executors.py"]
    return own_process.run(
        [*command, results, f"{PACKAGE}.{name}", "--", *LEFT_OUT, *OTHER_METHODS],
        directory,
        results,
        dict(os.environ, PYTHONPATH=python_path),
        GROUP_SECONDS,
    )


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    if not has_tests():
        pytest.skip("this Python was installed without CPython's tests of concurrent.futures")
    top = tmp_path_factory.mktemp("futures")
    with ThreadPoolExecutor(max_workers=2) as executor:
        futures = {name: executor.submit(run_module, top / name, name) for name in MODULES}
    return {name: future.result() for name, future in futures.items()}


@pytest.mark.timeout(len(MODULES) * GROUP_SECONDS)
@pytest.mark.parametrize("name", MODULES)
def test_executors(outcomes, name):
    lines, printed = outcomes[name]
    wrong = {
        test: f"{line['outcome']}: {line['detail']}"
        for test, line in lines.items()
        if line["outcome"] not in ("passed", "skipped")
    }
    assert not wrong, "\n".join(f"{test} {what}" for test, what in wrong.items()) + "\n" + printed
    assert sum(line["outcome"] == "passed" for line in lines.values()) > 5, printed
    assert "exit code" not in printed, printed
