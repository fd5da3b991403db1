"""Run CPython's tests of concurrent.futures, unmodified, with cpool's executors in place.

    python run_executors.py RESULTS NAME... [-- LEFT_OUT...]

Writes each test's outcome as run_group.py does. LEFT_OUT: tests that are not run, by a part of
their names.
"""

import sys
import unittest

import run_group


def tests_in(suite, left_out):
    for test in suite:
        if isinstance(test, unittest.TestSuite):
            yield from tests_in(test, left_out)
        elif not any(part in test.id() for part in left_out):
            yield test


def main(results, names, left_out):
    from concurrent import futures

    import cpool

    cpool.install(executors=True)
    if futures.ProcessPoolExecutor is not cpool.ProcessPoolExecutor:
        raise SystemExit("concurrent.futures.ProcessPoolExecutor is not cpool's")
    support = run_group.configure()
    found = unittest.defaultTestLoader.loadTestsFromNames(names)
    tests = unittest.TestSuite(tests_in(found, left_out))
    with open(results, "w", buffering=1, encoding="utf-8") as out:
        tests.run(run_group.Recorder(out))
    if support.environment_altered:
        raise SystemExit("a test left threads or processes behind")


if __name__ == "__main__":
    at = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    main(sys.argv[1], sys.argv[2:at], sys.argv[at + 1 :])
