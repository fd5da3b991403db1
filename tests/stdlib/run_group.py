"""Run the unittest names given and write each test's outcome to a file, one JSON object a line.

    python run_group.py RESULTS NAME...

One line is written when a test starts and another when the test has ended, so that after a hang the
file names the test. Any output comes from the tests and their processes, and is a failure.
"""

import json
import sys
import time
import unittest


class Recorder(unittest.TestResult):
    """Writes outcomes. Of several (a test fails, then its clean-up) the last failure counts."""

    def __init__(self, out):
        super().__init__()
        self.out = out
        self.outcome = None  # of the running test
        self.detail = ""
        self.started = 0.0

    def write(self, test, outcome, detail="", seconds=0.0):
        line = {"test": test.id(), "outcome": outcome, "detail": detail, "seconds": seconds}
        print(json.dumps(line), file=self.out)

    def note(self, test, outcome, detail):
        if self.outcome is None:  # the set-up of a class or module: no test is running
            self.write(test, outcome, detail)
        else:
            self.outcome, self.detail = outcome, detail

    def startTest(self, test):
        super().startTest(test)
        self.outcome, self.detail, self.started = "passed", "", time.monotonic()
        self.write(test, "started")

    def stopTest(self, test):
        super().stopTest(test)
        self.write(test, self.outcome, self.detail, time.monotonic() - self.started)
        self.outcome = None

    def addError(self, test, err):
        self.note(test, "error", self._exc_info_to_string(err, test))

    def addFailure(self, test, err):
        self.note(test, "failed", self._exc_info_to_string(err, test))

    def addSkip(self, test, reason):
        self.note(test, "skipped", reason)

    def addSubTest(self, test, subtest, err):
        if err is not None:
            self.note(test, "failed", self._exc_info_to_string(err, test))


def configure():
    """Set what regrtest sets for the options --timeout and -M and without -v."""
    from test import support

    support.verbose = 0
    # One test queues tasks that sleep for so long. On Python 3.11 and 3.12 its ThreadPool variant
    # sometimes has to wait for a task that a thread has begun.
    support.LONG_TIMEOUT = 20.0
    # From 3.14 on a test of 20 pools is skipped unless this says that there is enough memory.
    support.set_memlimit("2G")
    return support


def main(results, names):
    import multiprocessing.pool

    import cpool.pool

    if multiprocessing.pool is not cpool.pool:
        raise SystemExit("multiprocessing.pool is not cpool's")
    support = configure()
    with open(results, "w", buffering=1, encoding="utf-8") as out:
        unittest.defaultTestLoader.loadTestsFromNames(names).run(Recorder(out))
    if support.environment_altered:
        raise SystemExit("a test left threads or processes behind")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
