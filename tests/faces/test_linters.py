"""Formatters and linters that start workers: with cpool's executors and pools they print and write
the same as without.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import scripts
from engine import DEADLINE

pytestmark = pytest.mark.better

# More files than workers, each with something to say and to change. No two are the same.
SOURCE = """\
import sys, os


def first_{n}(a,b ):
    found = {{  'a':a }}
    return  b + {n}
"""
FILES = 5

TOOLS = {
    "black": ["--workers", "2", "tree"],
    "isort": ["--jobs", "2", "--force-single-line-imports", "tree"],
    # Without the checks that compare files: each sees the files of one worker only, whichever those
    # are.
    "pylint": ["-j", "2", "--score", "n", "--disable", "R0801,R0401", "tree"],
    "yapf": ["--parallel", "--in-place", "--recursive", "tree"],
    "flake8": ["-j", "2", "tree"],
}
CHANGE_FILES = {"black", "isort", "yapf"}

# Two processes that print without buffers may write both texts before both line ends.
LINE_END = re.compile(r"\n|(?=Fixing )")
# What --stats prints at the exit, for each pool.
TABLE = re.compile(r"^cpool: pool of 2 processes: 5 items submitted: 5 done.*", re.M | re.S)


def lines(text: str, folder: Path) -> list[str]:
    """The lines in any order, since that depends on which worker is first."""
    return sorted(filter(None, LINE_END.split(text.replace(str(folder), ""))))


def run(tool: str, folder: Path, *prefix: str) -> tuple[Any, str]:
    """Run the tool over new files. Returns all that it has left, and its stderr."""
    tree = folder / "tree"
    tree.mkdir(parents=True)
    for n in range(FILES):
        (tree / f"m{n}.py").write_text(SOURCE.format(n=n))
    env = {
        "PYTHONUNBUFFERED": "1",  # isort loses what a worker has buffered when it terminates it
        "PYTHONWARNINGS": "",  # those of the tools are theirs
        "XDG_CACHE_HOME": str(folder / "cache"),
        "BLACK_CACHE_DIR": str(folder / "cache"),
        "PYLINTHOME": str(folder / "cache"),
    }
    done: Any = scripts.run(
        *prefix, "-m", tool, *TOOLS[tool], env=env, cwd=folder, seconds=4 * DEADLINE
    )
    files = [path.read_text() for path in sorted(tree.glob("*.py"))]
    printed = lines(done.stdout, folder), lines(TABLE.sub("", done.stderr), folder)
    return (done.returncode, *printed, files), done.stderr


@pytest.mark.timeout(10 * DEADLINE, method="signal")  # slow builds take long to import pylint
@pytest.mark.parametrize("tool", TOOLS)
def test_a_tool_does_the_same_with_cpool(tmp_path: Path, tool: str) -> None:
    pytest.importorskip(tool)
    alone, _ = run(tool, tmp_path / "alone")
    here, told = run(tool, tmp_path / "here", "-m", "cpool", "--executors", "--stats")
    assert here == alone
    assert len(TABLE.findall(told)) == 1, f"{tool} has not used a pool of cpool: {told}"
    _, out, err, files = alone
    if tool in CHANGE_FILES:
        assert all(text != SOURCE.format(n=n) for n, text in enumerate(files))
    else:
        assert len(out) > FILES, err
