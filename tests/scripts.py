"""Programs in a fresh interpreter, for what happens only once in a process, or at its exit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import engine
from gates import all_gone
from programs_server import Server

TESTS = Path(__file__).parent
ROOT = TESTS.parent

# Warnings are errors in programs too, except those that the stdlib's pool gives as well: of a pool
# that is not closed, and from 3.12 on of os.fork() while threads run.
WARNINGS = ",".join(
    [
        "error",
        "ignore::ResourceWarning",
        "ignore:This process (pid=:DeprecationWarning",
    ]
)


SECONDS = 1.5 * engine.DEADLINE  # for a program, whose own waits take no longer than the deadline

SERVER: Server | None = None  # set while the suite runs


def environment(**changes: str) -> dict[str, str]:
    """An environment in which a program finds the tests' helpers and the package under test."""
    places = [str(TESTS)]
    if not engine.STDLIB:
        places.append(str(Path(engine.errors.__file__).parent.parent))
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(places),
        "PYTHONUNBUFFERED": "",
        "PYTHONWARNINGS": WARNINGS,
        **changes,
    }
    return {name: value for name, value in env.items() if value}


def start(
    *argv: str | Path, env: dict[str, str] | None = None, fresh: bool = False, **options: Any
) -> Any:
    """Start python with these arguments, its output captured as text.

    fresh: start an interpreter, as for a program that looks at what an interpreter has loaded.
    """
    # Not here: `python -m` would find the sources and not the installed package.
    options.setdefault("cwd", tempfile.gettempdir())
    words, settings = [*map(str, argv)], environment(**(env or {}))
    if SERVER and not fresh and options.keys() == {"cwd"} and isinstance(argv[0], Path):
        changes = SERVER.changes(settings)
        if changes is not None:
            return SERVER.start(words, str(options["cwd"]), changes)
    options.setdefault("stdin", subprocess.DEVNULL)
    return subprocess.Popen(
        [sys.executable, *words],
        env=settings,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # its own process group, for signals as from a terminal
        **options,
    )


def line(process: Any) -> str:
    """The next line that a started program prints. Fails if the program ends before, and says how.

    Read byte by byte: finish() would miss what readline() has read ahead.
    """
    found = b""
    while not found.endswith(b"\n"):
        byte = os.read(process.stdout.fileno(), 1)
        if not byte:
            done = finish(process)
            raise AssertionError(
                f"the program ended ({done.returncode}) after {found!r}:\n{done.stderr}"
            )
        found += byte
    return found.decode()


def finish(process: Any, seconds: float = SECONDS) -> subprocess.CompletedProcess[str]:
    """Wait for a started program. The program and its workers must end in time."""
    with process:
        try:
            # The pipes end when the last process that holds them ends, workers included.
            out, err = process.communicate(timeout=seconds)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def run(
    *argv: str | Path, seconds: float = SECONDS, **options: Any
) -> subprocess.CompletedProcess[str]:
    return finish(start(*argv, **options), seconds)


def write(folder: Path, source: str) -> Path:
    """Write a program to a file, so that spawn can import it again."""
    path = folder / "program.py"
    path.write_text(source, encoding="utf-8")
    return path


def gate_folder(folder: Path) -> str:
    """Make a folder for the gate of a program: the program calls Gate() with the path."""
    path = folder / "gate"
    path.mkdir()
    return str(path)


def press_ctrl_c(process: Any) -> None:
    """Send SIGINT as a terminal does: to the program and all its workers at once."""
    os.killpg(process.pid, signal.SIGINT)


def kill(process: Any, pids: list[int], resume: bool = False) -> None:
    """Kill a program; its workers, with these process ids, must end.

    With resume the workers are stopped, and get SIGCONT after the kill.
    """
    os.kill(process.pid, signal.SIGKILL)
    if resume:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
    all_gone(pids)
    finish(process)


def run_source(folder: Path, source: str, *args: str, **options: Any) -> Any:
    """Run a program given as text."""
    return run(write(folder, source), *args, **options)


def output(folder: Path, source: str, *args: str, **options: Any) -> list[str]:
    """The lines that a program prints. The program must succeed and print no error."""
    done = run_source(folder, source, *args, **options)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    lines: list[str] = done.stdout.splitlines()
    return lines
