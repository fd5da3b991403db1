"""The programs of deadlocks.py, on which the standard library's executor hangs or breaks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import deadlocks
import pytest
import scripts

pytestmark = pytest.mark.better


@pytest.mark.parametrize("name", deadlocks.CASES)
def test_a_program_ends_as_it_should(name: str, tmp_path: Path) -> None:
    case = deadlocks.CASES[name]
    script = scripts.write(tmp_path, deadlocks.HEAD + case.program)
    done: Any = scripts.run(
        "-m", "cpool", "--executors", script, cwd=tmp_path, seconds=4 * scripts.engine.DEADLINE
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == case.expected, done.stderr


def test_the_documentation_lists_them() -> None:
    text = (scripts.ROOT / "docs" / "compatibility.md").read_text(encoding="utf-8")
    for case in deadlocks.CASES.values():
        assert f"| {case.what} | {case.issue or '-'} | {case.stdlib} |" in text
