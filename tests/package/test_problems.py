"""Every program in docs/problems.md runs, and prints what stands below it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import scripts

pytestmark = pytest.mark.better

PAGE = scripts.ROOT / "docs" / "problems.md"
PROGRAM = re.compile(
    r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", re.MULTILINE | re.DOTALL
)
HEADING = re.compile(r"^## (.*)", re.MULTILINE)


def programs() -> list[tuple[str, str, str]]:
    """The heading above, the program and its output, which each of them has."""
    text = PAGE.read_text(encoding="utf-8")
    found = []
    for match in PROGRAM.finditer(text):
        headings = HEADING.findall(text, 0, match.start())
        found.append((headings[-1], match[1], match[2]))
    return found


def test_each_problem_has_a_program() -> None:
    shown = {heading for heading, _, _ in programs()}
    assert shown == set(HEADING.findall(PAGE.read_text(encoding="utf-8")))


@pytest.mark.parametrize(("heading", "program", "output"), programs())
def test_the_program_prints_what_the_page_says(
    tmp_path: Path, heading: str, program: str, output: str
) -> None:
    assert output, heading
    script = tmp_path / "program.py"
    script.write_text(program, encoding="utf-8")
    done = scripts.run(script)
    assert (done.stdout, done.stderr) == (output, "")
