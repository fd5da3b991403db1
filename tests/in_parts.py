"""Run the suite as several processes of pytest, one after another.

    python tests/in_parts.py [PYTEST OPTION ...]

Plain `pytest` does the same. A fork takes longer the larger the process is, and pytest grows with
each test that it has collected and run: the tests of workers take twice the processor time in a
process of 330 MB that they take in one of 50 MB. Under AddressSanitizer a fork of a process with
all tests takes 9 ms, with those of one folder 5.5 ms. With the path of a test, that test alone is
run.

With CPOOL_TEST_AT_ONCE=2 two parts run at a time; the output of each is shown when it has ended.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

TESTS = Path(__file__).resolve().parent

# Large folders. All others are one part. What takes longest comes first, so that parts that run at
# the same time end at about the same time.
ALONE = "pool", "control", "worker", "value", "job"


def parts(options: list[str]) -> list[list[str]]:
    """The folders of each part, without those that an --ignore names: pytest collects a folder that
    it is given, whatever --ignore says."""
    ignored = {Path(option.partition("=")[2]).resolve() for option in options}
    folders = {path.parent for path in TESTS.glob("*/test_*.py")} - ignored
    alone = [[str(TESTS / name)] for name in ALONE if TESTS / name in folders]
    rest = sorted(str(path) for path in folders if path.name not in ALONE)
    return [*alone[:1], rest, *alone[1:]]


class Part:
    """A running part, whose output is kept until it has ended."""

    def __init__(self, command: list[str]) -> None:
        # pytest deletes old folders of its own, and fails if another pytest deletes the same one.
        self.folder = tempfile.mkdtemp()
        self.output: Any = tempfile.TemporaryFile()  # noqa: SIM115
        env = {**os.environ, "PYTEST_DEBUG_TEMPROOT": self.folder}
        self.process = subprocess.Popen(
            command, stdout=self.output, stderr=subprocess.STDOUT, env=env
        )

    def end(self) -> int:
        code = self.process.wait()
        with self.output:
            self.output.seek(0)
            shutil.copyfileobj(self.output, sys.stdout.buffer)
            sys.stdout.flush()
        shutil.rmtree(self.folder, ignore_errors=True)
        return code


def run(commands: list[list[str]], at_once: int) -> list[int]:
    """The codes of the commands, in the order in which they end. SIGTERM ends those that run."""
    running: dict[int, Part] = {}
    codes = []
    stopped: list[int] = []

    def stop(number: int, frame: object) -> None:
        # Raises nothing: a part that has just begun might be lost.
        stopped.append(number)
        for pid in running:
            os.kill(pid, signal.SIGKILL)

    before = signal.signal(signal.SIGTERM, stop)
    waiting = [*commands]
    while running or (waiting and not stopped):
        while waiting and not stopped and len(running) < at_once:
            part = Part(waiting.pop(0))
            running[part.process.pid] = part
            if stopped:
                part.process.kill()
        ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
        assert ended is not None
        codes.append(running.pop(ended.si_pid).end())
    signal.signal(signal.SIGTERM, before)
    if stopped:
        sys.exit(128 + stopped[0])
    return codes


def main(options: list[str]) -> int:
    # -P: the installed package is tested, not the one in the working directory.
    command = [sys.executable, "-P", "-m", "pytest", *options]
    if any(not option.startswith("-") for option in options):
        return subprocess.call(command)
    commands = [[*command, *paths] for paths in parts(options)]
    at_once = int(os.environ.get("CPOOL_TEST_AT_ONCE", "1"))
    codes = run(commands, at_once) if at_once > 1 else [subprocess.call(each) for each in commands]
    # A process that a signal ended has a negative code, which would be less than a success.
    return max(0 if code == pytest.ExitCode.NO_TESTS_COLLECTED else abs(code) for code in codes)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
