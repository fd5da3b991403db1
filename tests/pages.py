"""The programs on the pages of the documentation, and what they print.

A fenced block of `python` is a complete program. A block of `text` right behind it is what the
program prints; `...` there stands for any text. Nothing on a page is a part of a program.

    python tests/pages.py FOLDER    write each program to a file there, for type checkers
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])

# Programs on these pages need a cluster, so tests/package/test_pages.py does not run them.
OF_CLUSTER = ("docs/cluster", "docs/howto/beyond-one-machine.md")

BLOCK = re.compile(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", re.DOTALL | re.MULTILINE)


@dataclass
class Program:
    page: str
    line: int
    source: str
    output: str | None

    @property
    def name(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def needs_cluster(self) -> bool:
        return self.page.startswith(OF_CLUSTER) or "cpool.distributed" in self.source


def programs() -> Iterator[Program]:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for block in BLOCK.finditer(text):
            line = text.count("\n", 0, block.start()) + 1
            yield Program(page.relative_to(ROOT).as_posix(), line, block[1], block[2])


def write(folder: Path) -> None:
    """Each program as a file of its own, which may have no name in common with another."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.py"):
        old.unlink()
    for program in programs():
        # Packages of clusters are not installed; mypy's configuration names them.
        head = "# pyright: reportMissingImports=false\n" if program.needs_cluster else ""
        name = re.sub(r"\W", "_", program.name.removeprefix("docs/").replace(".md", ""))
        (folder / f"page_{name}.py").write_text(head + program.source, encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
