"""Run the suite as several processes of pytest, one after another.

    python tests/in_parts.py [PYTEST OPTION ...]

A fork takes longer the larger the process is, and pytest grows with each test that it has
collected: under AddressSanitizer a fork of a process with all tests takes 9 ms, with those of one
folder 5.5 ms. With the path of a test, that test alone is run.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent

# Large folders. All others are one part.
ALONE = "control", "job", "pool", "value"


def parts() -> list[list[str]]:
    folders = sorted({path.parent.name for path in TESTS.glob("*/test_*.py")})
    others = [name for name in folders if name not in ALONE]
    return [*([name] for name in ALONE), others]


def main(options: list[str]) -> int:
    # -P: the installed package is tested, not the one in the working directory.
    command = [sys.executable, "-P", "-m", "pytest", *options]
    if any(not option.startswith("-") for option in options):
        return subprocess.call(command)
    codes = []
    for names in parts():
        paths = [str(TESTS / name) for name in names]
        code = subprocess.call([*command, *paths])
        codes.append(0 if code == pytest.ExitCode.NO_TESTS_COLLECTED else code)
    return max(codes)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
