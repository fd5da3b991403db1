"""Every program in examples/ runs, and prints what it demonstrates."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from pathlib import Path

import engine
import pytest
import scripts

Run = Callable[..., list[str]]

EXAMPLES = scripts.ROOT / "examples"


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run an example and return its lines. On the stdlib's engine a two-line shim is cpool."""
    env: dict[str, str] = {}
    if engine.STDLIB:
        shim = "import os\nfrom multiprocessing import Pool\ndefault_processes = os.cpu_count\n"
        (tmp_path / "cpool.py").write_text(shim, encoding="utf-8")
        env["PYTHONPATH"] = str(tmp_path)

    def run(name: str | Path, *args: str | Path) -> list[str]:
        done = scripts.run(EXAMPLES / name, *args, env=env, cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
        found: list[str] = done.stdout.splitlines()
        return found

    return run


def values() -> list[float]:
    """The delays in the tutorial's programs, which seed the generator."""
    generator = random.Random(1)
    return [generator.random() / 10 for _ in range(10)]


TASKS = [f"Task {i}, done with {value:.3f}" for i, value in enumerate(values())]
RESULTS = [f"Result {i}: {value * 2:.3f}" for i, value in enumerate(values())]


@pytest.mark.parametrize("name", ["starmap_results.py", "starmap_chunksize.py"])
def test_starmap_with_results(run: Run, name: str) -> None:
    lines = run(name)
    assert sorted(lines[:10]) == TASKS
    assert lines[10:] == RESULTS


def test_starmap_without_results(run: Run) -> None:
    lines = run("starmap_no_return.py")
    assert sorted(lines[:-1]) == TASKS
    assert lines[-1] == "All tasks are done"


def test_starmap_async_with_callbacks(run: Run) -> None:
    lines = run("starmap_async_callbacks.py")
    lines.remove("The main thread is free while the tasks run")  # may be printed late
    callbacks = [f"Callback, {line[0].lower()}{line[1:]}" for line in RESULTS]
    start = lines.index(callbacks[0])
    assert lines[start : start + 10] == callbacks
    assert sorted(lines[:start]) == TASKS
    assert sorted(lines[start + 10 : -1]) == TASKS[:9]
    assert lines[-1] == "Error callback: ValueError: item 9 cannot be done"


def test_map(run: Run) -> None:
    lines = run("map_basic.py")
    assert sorted(lines[:10]) == sorted(f"Task done with {value:.3f}" for value in values())
    assert lines[10:] == [f"Result for {value:.3f}: {value * 2:.3f}" for value in values()]


def test_imap_unordered(run: Run) -> None:
    lines = run("imap_unordered_basic.py")
    assert sorted(lines) == sorted([*TASKS, *RESULTS])
    for task, result in zip(TASKS, RESULTS, strict=True):
        assert lines.index(task) < lines.index(result)


@pytest.mark.better
def test_crawl_with_limits(run: Run) -> None:
    def shown(page: int) -> str:
        if page % 5 == 4:
            return "none within 0.2 s"
        missing = repr(ConnectionError(f"there is no page {page}"))
        return missing if page % 7 == 6 else repr(f"<p>{page}</p>")

    lines = run("crawl_with_limits.py")
    assert lines[:20] == [f"page {page}: {shown(page)}" for page in range(20)]
    assert sorted(lines[20:23]) == [f"fetched <p>{page}</p>" for page in range(3)]
    assert lines[23:] == ["cancelled: 50"]


SMALL = """
import runpy, sys, sysconfig
sysconfig.get_path = lambda name: sys.argv[2]
runpy.run_path(sys.argv[1], run_name="__main__")
"""


def test_word_count(run: Run, tmp_path: Path) -> None:
    """Counts a library of fifty files, so that the counts are known and take no time."""
    library = tmp_path / "library"
    for number in range(50):
        folder = library / ("package" if number % 2 else "site-packages")
        folder.mkdir(parents=True, exist_ok=True)
        text = f"import a_b  # {number} is a Number\n" + "odd = odd\n" * number
        (folder / f"file{number}.py").write_text(text, encoding="utf-8")
    (tmp_path / "small.py").write_text(SMALL, encoding="utf-8")
    lines = run(tmp_path / "small.py", EXAMPLES / "word_count.py", library)
    assert re.fullmatch(r"25 files, 0\.0 MB, \d+ processes", lines[0])
    names = ["serial loop", "multiprocessing.Pool", "cpool.Pool"]
    for name, line in zip(names, lines[1:4], strict=True):
        assert re.fullmatch(rf"{re.escape(name)} +\d+\.\d\d s", line)
    odd = 2 * sum(range(1, 50, 2))
    assert lines[4] == f"The three counts are equal: {odd + 150:,} words, 6 different ones."
    found = [tuple(line.split()) for line in lines[5:]]
    expected = {"odd": odd, "a": 50, "b": 25, "import": 25, "is": 25, "number": 25}
    assert found == [(f"{count:,}", word) for word, count in expected.items()]


def test_no_example_is_forgotten() -> None:
    """A test above names each program of the folder."""
    text = Path(__file__).read_text(encoding="utf-8")
    programs = [path.name for path in EXAMPLES.glob("*.py")]
    assert programs
    assert [name for name in programs if f'"{name}"' not in text] == []


NOTEBOOK = [
    "[Reading(place='Oslo', celsius=-1.0), Reading(place='Cairo', celsius=20.0)]",
    "[Reading(place='OSLO', celsius=30.2), Reading(place='CAIRO', celsius=68.0)]",
    "[False, True]",
    "NoReading: nothing was measured",
]


# The main module of a notebook is in no file, and its cells run one after the other in it.
CELLS = """
import multiprocessing, sys
from pathlib import Path

multiprocessing.set_start_method(sys.argv[1])
_, *cells = Path(sys.argv[2]).read_text(encoding="utf-8").split("\\n# %%")
for cell in cells:
    exec(compile(cell[cell.find(chr(10)) :], "a cell", "exec"))
"""


@pytest.mark.better
def test_notebook(run: Run) -> None:
    pytest.importorskip("cloudpickle")
    assert run("notebook_cells.py") == NOTEBOOK


@pytest.mark.better
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_notebook_by_cells(method: str) -> None:
    pytest.importorskip("cloudpickle")
    path = EXAMPLES / "notebook_cells.py"
    done = scripts.run("-c", CELLS, method, path, seconds=2 * engine.DEADLINE)
    assert (done.stdout.splitlines(), done.stderr) == (NOTEBOOK, "")
