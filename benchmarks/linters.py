"""Runs formatters and linters with cpool's workers: compares output and time with and without.

    pip install black isort pylint yapf flake8
    python -m benchmarks.linters                   over a copy of the standard library's asyncio
    python -m benchmarks.linters --tree DIR black  over a copy of another tree, some tools

Each tool is run as it is and as `python -m cpool --executors -m TOOL`, with two workers, each time
over a fresh copy of the tree. The exit code, the output (with sorted lines, as the order depends on
timing) and all files must be the same. A third run, with `--stats`, tells whether the tool used a
pool of cpool at all. The exit status is 1 if something differs or no pool was used.
"""

import argparse
import asyncio
import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TOOLS = {
    "black": ["black", "--workers", "2", "--line-length", "60", "tree"],
    "isort": ["isort", "--jobs", "2", "--force-single-line-imports", "tree"],
    # Without the two checks that compare files: they only see the files of one worker, so their
    # output differs from run to run, also without cpool.
    "pylint": ["pylint", "-j", "2", "--score", "n", "--disable", "R0801,R0401", "tree"],
    "yapf": ["yapf", "-p", "-i", "-r", "tree"],
    "flake8": ["flake8", "-j", "2", "tree"],
}

# Two processes that print without buffers may write both texts before both line ends.
LINE_END = re.compile(r"\n|(?=Fixing )")

Outcome = tuple[int, list[str], list[str], dict[str, bytes]]


def run(tool: str, tree: Path, prefix: list[str]) -> tuple[Outcome, float, str]:
    """Run a tool. Returns its outcome, its seconds, and its stderr."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(tree, Path(folder) / "tree", ignore=shutil.ignore_patterns("__pycache__"))
        began = time.perf_counter()
        command = [sys.executable, *prefix, "-m", *TOOLS[tool]]
        # isort loses what its workers have buffered when it terminates them, on any pool.
        env = dict(os.environ, PYTHONUNBUFFERED="1")
        done = subprocess.run(
            command, cwd=folder, env=env, capture_output=True, text=True, check=False
        )
        took = time.perf_counter() - began
        files = {
            str(path.relative_to(folder)): path.read_bytes()
            for path in sorted(Path(folder).rglob("*.py"))
        }
        out, err = (
            sorted(filter(None, LINE_END.split(text.replace(folder, ""))))
            for text in (done.stdout, done.stderr)
        )
        return (done.returncode, out, err, files), took, done.stderr


def compare(tool: str, tree: Path) -> bool:
    there, slow, _ = run(tool, tree, [])
    here, quick, _ = run(tool, tree, ["-m", "cpool", "--executors"])
    *_, table = run(tool, tree, ["-m", "cpool", "--executors", "--stats"])
    used = re.search(r"^cpool: pool of", table, re.MULTILINE) is not None
    what = [
        name
        for name, one, other in zip(
            ("exit code", "output", "errors", "files"), there, here, strict=True
        )
        if one != other
    ]
    print(
        f"{tool:8} {importlib.metadata.version(tool):10}"
        f" {len(there[1]):6} lines  {slow:6.1f} s  {quick:6.1f} s  "
        + (f"other {', '.join(what)}" if what else "the same")
        + ("" if used else ", but no pool was used"),
        flush=True,
    )
    return used and not what


def main() -> int:
    parser = argparse.ArgumentParser(description="Run formatters and linters on cpool.")
    parser.add_argument("--tree", type=Path, default=Path(asyncio.__file__).parent)
    parser.add_argument("tools", nargs="*", default=list(TOOLS), help=", ".join(TOOLS))
    args = parser.parse_args()
    missing = [tool for tool in args.tools if importlib.util.find_spec(tool) is None]
    if missing:
        parser.error(f"not installed: {', '.join(missing)}")
    print(f"{'tool':8} {'version':10} {'printed':>12}  {'alone':>8}  {'cpool':>8}")
    return 0 if all([compare(tool, args.tree) for tool in args.tools]) else 1  # noqa: C419


if __name__ == "__main__":
    sys.exit(main())
