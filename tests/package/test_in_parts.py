"""The suite in parts: every folder once, and the code of the worst part."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import in_parts
import pytest
from gates import all_gone
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
    monkeypatch.delenv("CPOOL_TEST_AT_ONCE", raising=False)
    left = codes + [0] * (len(in_parts.parts([])) - len(codes))
    monkeypatch.setattr(subprocess, "call", lambda command: left.pop(0))
    assert in_parts.main(["-q"]) == worst
    assert left == []


# A part with an empty folder of its own: it prints its name, talks to other parts, prints its name.
PART = """
rmdir "$PYTEST_DEBUG_TEMPROOT" && mkdir "$PYTEST_DEBUG_TEMPROOT" && : >"$PYTEST_DEBUG_TEMPROOT/mine"
echo begin NAME
TALK
echo end NAME
"""


def part(name: str, talk: str) -> list[str]:
    return ["sh", "-ec", PART.replace("NAME", name).replace("TALK", talk)]


def test_two_parts_run_at_a_time(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The first waits for all others, which come one after another beside it. What each prints is
    in one piece."""
    pipes = {name: tmp_path / name for name in "bcd"}
    for pipe in pipes.values():
        os.mkfifo(pipe)
    first = "".join(f"cat '{pipe}'\n" for pipe in pipes.values()) + "echo end a\nexit 3"
    others = [part(name, f": >'{pipe}'") for name, pipe in pipes.items()]
    assert sorted(in_parts.run([part("a", first), *others], 2)) == [0, 0, 0, 3]
    lines = capfd.readouterr().out.splitlines()
    names = [line[-1] for line in lines[::2]]
    assert names in (list("bcda"), list("bcad"))
    assert lines == [f"{word} {name}" for name in names for word in ("begin", "end")]


def test_a_signal_ends_the_parts_and_shows_their_output(
    capfd: pytest.CaptureFixture[str],
) -> None:
    command = ["sh", "-c", "echo $$; kill -TERM $PPID; exec sleep 1000"]
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended:
        in_parts.run([command] * 3, 1)
    assert ended.value.code == 128 + signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before
    all_gone([int(capfd.readouterr().out)])
