"""The programs on the pages of the documentation run, and print what the pages say.

Those that need a cluster are left out.
"""

from __future__ import annotations

import ast
import doctest
import importlib
import importlib.util
import re
from pathlib import Path

import pages
import pytest
import scripts

import cpool
from cpool._engine import options

pytestmark = pytest.mark.better

LOCAL = [program for program in pages.programs() if not program.needs_cluster]


@pytest.mark.parametrize("program", LOCAL, ids=lambda program: program.name)
def test_a_program_prints_what_the_page_says(program: pages.Program, tmp_path: Path) -> None:
    for package in re.findall(r"^(?:import|from) (numpy|joblib)\b", program.source, re.MULTILINE):
        # Some images in which wheels are tested lack them. Not imported here: numpy starts threads.
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"needs {package}")
    lines = scripts.output(tmp_path, program.source)
    assert program.output is not None, "the page does not say what the program prints"
    shown = "".join(f"{line}\n" for line in lines)
    checker = doctest.OutputChecker()
    assert checker.check_output(program.output, shown, doctest.ELLIPSIS), shown


def test_no_program_is_overlooked() -> None:
    """A fence in another form, such as one that is indented, would not be found."""
    assert len(LOCAL) > 30
    for page in pages.PAGES:
        text = page.read_text(encoding="utf-8")
        found = sum(
            program.page == page.relative_to(pages.ROOT).as_posix() for program in pages.programs()
        )
        assert (
            len(re.findall(r"(?:```|~~~|:::) *\{?.*\b(?:python|py|pycon|code-block)\b", text))
            == found
        ), page


HEADING = re.compile(r"^## (.*)", re.MULTILINE)


def test_each_problem_has_a_program() -> None:
    page = pages.ROOT / "docs" / "problems.md"
    parts = HEADING.split(page.read_text(encoding="utf-8"))[1:]
    problems = dict(zip(parts[::2], parts[1::2], strict=True))
    assert len(problems) > 4
    assert [name for name, text in problems.items() if not pages.BLOCK.search(text)] == []


LINK = re.compile(r"(?<!`)\[[^\]\n]*\]\(([^)\s#]+)(?:#[^)\s]*)?\)")


def test_every_link_to_a_file_leads_somewhere() -> None:
    """Sphinx checks the site; GitHub also shows README.md and the other files at the top."""
    wrong = []
    for page in [*pages.PAGES, *pages.ROOT.glob("*.md")]:
        for target in LINK.findall(page.read_text(encoding="utf-8")):
            if not re.match(r"[a-z]+:", target) and not (page.parent / target).exists():
                wrong.append(f"{page.relative_to(pages.ROOT)}: {target}")
    assert wrong == []


def test_the_picture_of_a_timeline_can_be_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(pages.ROOT / "docs")
    timeline = importlib.import_module("timeline")
    drawing = timeline.draw(timeline.run(tmp_path / "run.json"))
    kept = (pages.ROOT / "docs" / "timeline.svg").read_text(encoding="utf-8")
    for text in "1  an uneven chunk", "2  a dead worker", "3  a starved pool", "parent: main":
        assert text in drawing
        assert text in kept
    assert drawing.count(timeline.LOST) == 2  # the task, and the end of its worker


REFERENCE = pages.ROOT / "docs" / "reference"


def exported(module: str) -> list[str]:
    """The names in `__all__` of a module, which may need packages that are not installed."""
    tree = ast.parse((pages.ROOT / "cpool" / module).read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            names: list[str] = ast.literal_eval(node.value)
            return names
    raise AssertionError(f"{module} has no __all__")


@pytest.mark.parametrize("module", ["__init__", "errors", "pool", "joblib", "distributed"])
def test_every_public_name_is_in_the_reference(module: str) -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in REFERENCE.glob("*.md"))
    prefix = f"cpool.{module}" if module in ("joblib", "distributed") else "cpool"
    shown = set(re.findall(r"^\.\. (?:auto|py:)\w+:: ([\w.]+)", text, re.MULTILINE))
    assert {f"{prefix}.{name}" for name in exported(f"{module}.py")} <= shown


@pytest.mark.parametrize(
    "kind", ["Pool", "ThreadPool", "ProcessPoolExecutor", "ThreadPoolExecutor"]
)
def test_every_public_method_is_in_the_reference(kind: str) -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in REFERENCE.glob("*.md"))
    directive = re.search(rf"^\.\. autoclass:: cpool\.{kind}\n   :members: ((?:.+\n)+)", text, re.M)
    assert directive is not None
    shown = set(re.findall(r"\w+", re.split(r"\n(?!      )", directive[1])[0]))
    own = {name for name in vars(getattr(cpool, kind)) if not name.startswith("_")}
    assert own <= shown


def test_every_option_of_a_call_is_in_the_reference() -> None:
    text = (REFERENCE / "options.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^`(\w+)` \(", text, re.MULTILINE)) == options.NAMES
