"""Profilers, debuggers and coverage see workers. The commands are those of docs/howto/tools.md."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest
from engine import DEADLINE, Pool
from gates import eventually
from pages import ROOT, programs

pytestmark = pytest.mark.better

PAGE = "docs/howto/tools.md"
needs_remote_exec = pytest.mark.skipif(
    not hasattr(sys, "remote_exec") or not sys.is_remote_debug_enabled(),
    reason="needs Python 3.14 with remote debugging",
)


def needs(module: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(
        importlib.util.find_spec(module) is None, reason=f"{module} is not installed"
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the program of the page."""
    (program,) = (program for program in programs() if program.page == PAGE)
    (tmp_path / "script.py").write_text(program.source, encoding="utf-8")
    return tmp_path


def commands(*starts: str) -> list[list[str]]:
    """The commands of the page that start like this; each has to be there."""
    lines = [line.strip() for line in (ROOT / PAGE).read_text(encoding="utf-8").splitlines()]
    return [shlex.split(next(line for line in lines if line.startswith(start))) for start in starts]


def run(folder: Path, command: list[str], *more: str, told: str = "") -> str:
    """What the command prints, with this interpreter and its tools; it has to succeed."""
    bin_folder = Path(sys.executable).parent
    command = [sys.executable if word == "python" else word for word in command]
    if (bin_folder / command[0]).exists():
        command[0] = str(bin_folder / command[0])
    done = subprocess.run(
        [*command, *more],
        cwd=folder,
        input=told,
        capture_output=True,
        text=True,
        timeout=3 * DEADLINE,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.skipif(
    not (Path(sys.executable).parent / "py-spy").exists(), reason="py-spy is not installed"
)
def test_py_spy(folder: Path) -> None:
    (record,) = commands("py-spy record")
    record[record.index("profile.svg")] = "profile.txt"
    record[2:2] = ["--format", "raw"]
    found = ""
    try:
        run(folder, record, "0.5")
        found = (folder / "profile.txt").read_text(encoding="utf-8")
    except AssertionError as exc:
        if "Permission" in str(exc):
            pytest.skip("py-spy may not look into processes here")
        raise
    processes = {
        pid
        for line in found.splitlines()
        if "simulate" in line
        for pid in re.findall(r"process (\d+)", line)
    }
    assert len(processes) == 3  # the parent, of which the workers are children


@needs("memray")
def test_memray(folder: Path) -> None:
    record, stats = commands("python -m memray run", "python -m memray stats")
    run(folder, record)
    files = sorted(folder.glob("memory.bin.*"))
    assert len(files) == 2
    assert "simulate:" in run(folder, [*stats[:-1], files[1].name])


@needs("coverage")
def test_coverage(folder: Path) -> None:
    text = (ROOT / PAGE).read_text(encoding="utf-8")
    settings = re.search(r"^    \[run\]\n(?:    .+\n)+", text, re.MULTILINE)
    assert settings is not None
    (folder / ".coveragerc").write_text(
        re.sub("^    ", "", settings[0], flags=re.MULTILINE), encoding="utf-8"
    )
    record, combine, report = commands("coverage run", "coverage combine", "coverage report")
    run(folder, record)
    run(folder, combine)
    lines = run(folder, report, "--include", "script.py").splitlines()
    (found,) = [line for line in lines if line.startswith("script.py")]
    assert "100%" in found


@needs("profiling")
@pytest.mark.timeout(6 * DEADLINE)
def test_the_sampling_profiler(folder: Path) -> None:
    (record,) = commands("python -m profiling.sampling")
    run(folder, record, "1.5")
    found = [path.read_text(encoding="utf-8") for path in folder.glob("collapsed_*.txt")]
    assert len(found) == 3
    assert sum("simulate" in text for text in found) == 2


@needs_remote_exec
def test_code_runs_in_a_worker_that_waits_for_work(tmp_path: Path) -> None:
    told = tmp_path / "told.txt"
    script = tmp_path / "look.py"
    script.write_text(
        f"import os\nwith open({str(tmp_path / 'new.txt')!r}, 'w') as file:\n"
        f"    file.write(str(os.getpid()))\nos.rename(file.name, {str(told)!r})\n",
        encoding="utf-8",
    )
    with Pool(1) as pool:
        pid = pool.apply(os.getpid)
        sys.remote_exec(pid, str(script))  # type: ignore[attr-defined]
        eventually(told.exists)
        assert told.read_text(encoding="utf-8") == str(pid)
        assert pool.apply(abs, (-3,)) == 3


def count_up(path: str) -> int:
    """Until the file is there."""
    rounds = 0
    while not os.path.exists(path):
        rounds += 1
        time.sleep(0.01)
    return rounds


@needs_remote_exec
def test_pdb_attaches_to_a_task_that_runs(tmp_path: Path) -> None:
    (attach,) = commands("python -m pdb -p")
    path = tmp_path / "end"
    with Pool(1) as pool:
        pid = pool.apply(os.getpid)
        result = pool.apply_async(count_up, (str(path),))
        told = run(tmp_path, [*attach[:-1], str(pid)], told="p 'rounds:', rounds\nquit\n")
        assert "rounds:" in told
        assert f"{Path(__file__).name}(" in told
        path.touch()
        assert result.get(DEADLINE) >= 0
