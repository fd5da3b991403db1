"""The suite in parts: every folder once, and the code of the worst part."""

from __future__ import annotations

import subprocess

import in_parts
import pytest
from in_parts import TESTS

pytestmark = pytest.mark.better


def folders(*options: str) -> list[str]:
    return sorted(path for paths in in_parts.parts([*options]) for path in paths)


def test_each_folder_is_in_one_part() -> None:
    assert folders("-q") == sorted({str(path.parent) for path in TESTS.glob("*/test_*.py")})


@pytest.mark.parametrize("name", ["value", "task"])
def test_a_folder_that_is_ignored_is_in_none(name: str) -> None:
    without = folders(f"--ignore={TESTS / name}", f"--ignore={TESTS / 'job' / 'test_imap.py'}")
    assert set(folders()) - set(without) == {str(TESTS / name)}


@pytest.mark.parametrize(
    ("codes", "worst"),
    [([0, 0], 0), ([0, 1], 1), ([1, 0], 1), ([5, 0], 0), ([5, 5], 0), ([-6, 0], 6), ([0, -9], 9)],
)
def test_the_code_is_that_of_the_worst_part(
    monkeypatch: pytest.MonkeyPatch, codes: list[int], worst: int
) -> None:
    """5: a part without tests. A negative code: a signal has ended the part."""
    left = codes + [0] * (len(in_parts.parts([])) - len(codes))
    monkeypatch.setattr(subprocess, "call", lambda command: left.pop(0))
    assert in_parts.main(["-q"]) == worst
    assert left == []
