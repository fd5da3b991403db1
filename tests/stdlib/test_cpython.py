"""CPython's own tests of multiprocessing.pool, unmodified, with cpool in its place.

The tests run in their own virtual environment, whose interpreters all swap cpool in at startup:
many tests start a fresh `python -I`, which ignores PYTHONPATH and the state of this process. The
tables below say which tests must run and which tests CPython itself skips. A test that goes missing
fails here.
"""

import importlib.util
import os
import subprocess
import sys
import venv
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import own_process
import pytest

import cpool

HERE = Path(__file__).parent
START_METHODS = os.environ.get("CPOOL_TEST_START_METHODS", "fork spawn forkserver").split()
GROUP_SECONDS = 180
# Some tests pass although they had to wait for something they should have ended. Such a wait takes
# longer than this.
SLOW_SECONDS = 15

POOL = """
    test_apply test_async test_async_timeout test_context test_empty_iterable test_enter test_imap
    test_imap_handle_iterable_exception test_imap_unordered
    test_imap_unordered_handle_iterable_exception test_make_pool test_map test_map_async
    test_map_async_callbacks test_map_chunksize test_map_handle_iterable_exception
    test_map_no_failfast test_map_unplicklable test_release_task_refs test_resource_warning
    test_starmap test_starmap_async test_terminate test_traceback test_wrapped_exception
""".split()
NOT_FOR_MANAGERS = """
    test_enter test_imap_handle_iterable_exception test_imap_unordered_handle_iterable_exception
    test_map_handle_iterable_exception test_resource_warning
""".split()
WORKER_ERRORS = ["test_async_error_callback", "test_unpickleable_result"]
WORKER_LIFETIME = """
    test_pool_maxtasksperchild_invalid test_pool_worker_lifetime
    test_pool_worker_lifetime_early_close
    test_worker_finalization_via_atexit_handler_of_multiprocessing
""".split()
MAIN_HANDLING = """
    test_basic_script test_basic_script_no_suffix test_directory test_directory_compiled
    test_ipython_workaround test_module_in_package test_module_in_package_in_zipfile
    test_module_in_subpackage_in_zipfile test_package test_package_compiled test_script_compiled
    test_zipfile test_zipfile_compiled
""".split()
MAIN_HANDLING_CLASS = {
    "fork": "ForkCmdLineTest",
    "spawn": "SpawnCmdLineTest",
    "forkserver": "ForkServerCmdLineTest",
}
OTHERS = """
    cpython_tests.TestPoolNotLeakOnFailure.test_release_unused_processes
    cpython_tests.TestInitializers.test_pool_initializer
    cpython_tests.TestStdinBadfiledescriptor.test_pool_in_process
    cpython_tests.TestSyncManagerTypes.test_pool
    test.test_genericalias.BaseTest.test_subscriptable
""".split()
CIRCULAR_IMPORT = (
    "test.test_importlib.test_threaded_import.ThreadedImportTests"
    ".test_multiprocessing_pool_circular_import"
)
OTHERS_OF_3_13 = """
    cpython_tests.MiscTestCase.test_large_pool
    test.test_logging.ConfigDictTest.test_config_queue_handler_multiprocessing_context
""".split()

GROUPS = ["processes", "manager", "threads", "others"]


def table(class_name, functions, skipped=()):
    return {
        f"{class_name}.{function}": "skipped" if function in skipped else "passed"
        for function in functions
    }


def expected_outcomes(group, method):
    """Return {test: outcome} of a group of tests under a start method, on the running Python."""
    if group == "processes":
        return (
            table("cpython_tests.WithProcessesTestPool", POOL)
            | table("cpython_tests.WithProcessesTestPoolWorkerErrors", WORKER_ERRORS)
            | table("cpython_tests.WithProcessesTestPoolWorkerLifetime", WORKER_LIFETIME)
        )
    if group == "manager":
        return table("cpython_tests.WithManagerTestPool", POOL, NOT_FOR_MANAGERS)
    if group == "threads":
        return table("cpython_tests.WithThreadsTestPool", POOL, ["test_map_unplicklable"])
    main_handling = f"test.test_multiprocessing_main_handling.{MAIN_HANDLING_CLASS[method]}"
    outcomes = table(main_handling, MAIN_HANDLING) | dict.fromkeys(
        [*OTHERS, CIRCULAR_IMPORT], "passed"
    )
    if sys.version_info >= (3, 13):
        outcomes |= dict.fromkeys(OTHERS_OF_3_13, "passed")
        if not hasattr(sys, "gettotalrefcount"):  # the test needs a debug build
            outcomes[OTHERS_OF_3_13[-1]] = "skipped"
    return outcomes


def names_to_run(group, expected):
    """Whole classes where they are about pools, since a later CPython may add tests. Else tests."""
    if group == "others":
        return list(expected)
    return sorted({test.rpartition(".")[0] for test in expected})


def make_swapped_environment(directory):
    """Create an environment whose interpreters swap cpool in at startup; return its Python."""
    venv.create(directory, symlinks=True, with_pip=False)
    python = directory / "bin" / "python"
    where = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    packages = Path(subprocess.check_output(where, text=True).strip())
    package_parent = Path(cpool.__file__).parent.parent
    swap = packages / "cpool-swap.pth"
    swap.write_text(f"{package_parent}\nimport cpool; cpool.install()\n")
    return python


def run_group(python, directory, group, method):
    """Run a group in its own process; return {test: its line} and the output."""
    results = directory / "results.jsonl"
    # CPython's warning about a fork beside the tests' own threads is not about the pool.
    warnings = ["-W", "default", "-W", "ignore:This process (pid=:DeprecationWarning"]
    names = names_to_run(group, expected_outcomes(group, method))
    return own_process.run(
        [python, "-X", "faulthandler", *warnings, HERE / "run_group.py", results, *names],
        directory,
        results,
        dict(os.environ, CPOOL_TEST_START_METHOD=method),
        GROUP_SECONDS,
    )


def has_cpython_tests():
    try:
        return importlib.util.find_spec("test._test_multiprocessing") is not None
    except ModuleNotFoundError:
        return False


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """Run all groups, two at a time: {(group, method): what run_group returned}."""
    if not has_cpython_tests():
        pytest.skip("this Python was installed without CPython's own tests")
    top = tmp_path_factory.mktemp("cpython")
    python = make_swapped_environment(top / "venv")
    with ThreadPoolExecutor(max_workers=2) as executor:
        futures = {
            (group, method): executor.submit(
                run_group, python, top / f"{group}-{method}", group, method
            )
            for method in START_METHODS
            for group in GROUPS
        }
    return {key: future.result() for key, future in futures.items()}


def may_be_slow(test):
    """A thread cannot be ended. From 3.13 on the test's tasks are short if threads run them."""
    terminate = "cpython_tests.WithThreadsTestPool.test_terminate"
    return test == terminate and sys.version_info < (3, 13)


@pytest.mark.timeout(len(START_METHODS) * len(GROUPS) * GROUP_SECONDS)
@pytest.mark.parametrize("method", START_METHODS)
@pytest.mark.parametrize("group", GROUPS)
def test_cpython(outcomes, group, method):
    lines, printed = outcomes[group, method]
    expected = expected_outcomes(group, method)
    wrong = {
        test: f"{line['outcome']}: {line['detail']}"
        for test, line in lines.items()
        if line["outcome"] != expected.get(test, "passed")
    }
    assert not wrong, "\n".join(f"{test} {what}" for test, what in wrong.items()) + "\n" + printed
    assert expected.keys() <= lines.keys(), printed
    assert printed == ""
    slow = {test for test, line in lines.items() if line["seconds"] > SLOW_SECONDS}
    assert {test for test in slow if not may_be_slow(test)} == set()
