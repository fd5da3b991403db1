"""Run the suite as several processes of pytest, one after another.

    python tests/in_parts.py [PYTEST OPTION ...]

Plain `pytest` does the same. A fork takes longer the larger the process is, and pytest grows with
each test that it has collected and run: the tests of workers take twice the processor time in a
process of 330 MB that they take in one of 50 MB. Under AddressSanitizer a fork of a process with
all tests takes 9 ms, with those of one folder 5.5 ms. With the path of a test, that test alone is
run.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent

# Large folders. All others are one part.
ALONE = "control", "job", "pool", "value", "worker"


def parts(options: list[str]) -> list[list[str]]:
    """The folders of each part, without those that an --ignore names: pytest collects a folder that
    it is given, whatever --ignore says."""
    ignored = {Path(option.partition("=")[2]).resolve() for option in options}
    folders = {path.parent for path in TESTS.glob("*/test_*.py")} - ignored
    alone = [[str(TESTS / name)] for name in ALONE if TESTS / name in folders]
    return [*alone, sorted(str(path) for path in folders if path.name not in ALONE)]


def main(options: list[str]) -> int:
    # -P: the installed package is tested, not the one in the working directory.
    command = [sys.executable, "-P", "-m", "pytest", *options]
    if any(not option.startswith("-") for option in options):
        return subprocess.call(command)
    codes = []
    for paths in parts(options):
        code = subprocess.call([*command, *paths])
        # A process that a signal ended has a negative code, which would be less than a success.
        codes.append(0 if code == pytest.ExitCode.NO_TESTS_COLLECTED else abs(code))
    return max(codes)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
