"""The files that describe a release agree with each other and with the package."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
NAME = "cpool-mp"


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def only(pattern: str, name: str) -> str:
    """What the pattern's group matches in a file, once."""
    found: list[str] = re.findall(pattern, text_of(name), re.MULTILINE)
    assert len(found) == 1, (name, pattern, found)
    return found[0]


def project() -> dict[str, Any]:
    return tomllib.loads(text_of("pyproject.toml"))


def test_the_version_is_the_same_everywhere() -> None:
    version = only(r'^__version__ = "(.+)"$', "cpool/__init__.py")
    assert only(r"^version: (.+)$", "CITATION.cff") == version
    assert only(r'^  version: "(.+)"$', "conda/recipe.yaml") == version
    newest = re.search(
        r"^## (\S+) \((unreleased|\d{4}-\d\d-\d\d)\)$", text_of("CHANGELOG.md"), re.M
    )
    assert newest is not None and newest[1] == version


def test_the_name_is_the_same_everywhere() -> None:
    """The name cpool is another project's on PyPI: nothing may tell users to install that."""
    assert project()["project"]["name"] == NAME
    assert only(r"^  name: (.+)$", "conda/recipe.yaml") == NAME
    assert f"https://pypi.org/project/{NAME}/" in text_of(".github/workflows/release.yml")
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("cpool/**/*.py")]
    wrong = re.compile(r"pip install [^\n]*?(?<![\w/.-])cpool(?![\w-])")
    shown = [str(page) for page in pages if wrong.search(page.read_text(encoding="utf-8"))]
    assert len(pages) > 50 and shown == []


def test_the_recipe_needs_what_the_package_needs() -> None:
    recipe = text_of("conda/recipe.yaml")
    needed = {*project()["project"]["dependencies"], *project()["build-system"]["requires"]}
    listed = set(re.findall(r"^    - (\S+(?: \S+)?)$", recipe, re.MULTILINE))
    assert {name.replace(">", " >") for name in needed} <= listed


def test_every_version_of_python_has_a_wheel() -> None:
    """The classifiers, the wheels and the CI's matrix name the same versions."""
    known = project()
    shown = " ".join(known["project"]["classifiers"])
    versions = re.findall(r"Python :: 3\.(\d+)", shown)
    assert known["tool"]["cibuildwheel"]["build"].split()[0] == f"cp31[1-{versions[-1][-1]}]-*"
    assert versions == [str(minor) for minor in range(11, int(versions[-1]) + 1)]
    tested = only(r"^        python: \[(.*)\]$", ".github/workflows/ci.yml")
    assert [f'"3.{minor}"' for minor in versions] == tested.split(", ")[: len(versions)]
