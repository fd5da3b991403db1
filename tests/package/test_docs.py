"""The tests that the documents name exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
FAILURES = TESTS.parent / "docs" / "failures.md"

NAMED = re.compile(r"`(test_\w+\.(?:py|c))::(\w+)`")


def rows() -> list[str]:
    """The rows of the tables, without the header rows."""
    lines = FAILURES.read_text(encoding="utf-8").splitlines()
    return [
        line for line in lines if line.startswith("| ") and not line.startswith("| What happens")
    ]


def defines(file: str, name: str) -> bool:
    c = file.endswith(".c")
    wanted = rf"^TEST\({name}\)$" if c else rf"^def {name}\("
    return any(
        re.search(wanted, path.read_text(encoding="utf-8"), re.MULTILINE)
        for path in TESTS.glob(f"*/{file}")
    )


def missing(row: str) -> list[str]:
    """The tests of a row that do not exist. A row without any test is wrong as well."""
    tests = row.rstrip("| ").rpartition("| ")[2]
    found = NAMED.findall(tests)
    if not found or NAMED.sub("", tests).strip(" ,"):
        return [tests]
    return [f"{file}::{name}" for file, name in found if not defines(file, name)]


def test_every_failure_has_tests_that_exist() -> None:
    assert len(rows()) > 60
    assert [text for row in rows() for text in missing(row)] == []


@pytest.mark.parametrize(
    "row",
    [
        "| a | b | c |  |",
        "| a | b | c | test_docs.py |",
        "| a | b | c | `test_docs.py::test_that_is_not_there` |",
        "| a | b | c | `test_docs.py::missing` and others |",
        "| a | b | c | `test_no_such_file.py::test_anything` |",
        "| a | b | c | `test_death.c::death_of_nobody` |",
        "| a | b | c | `test_death.c::death_in_a_task`, `test_death.c::death_of_nobody` |",
    ],
)
def test_a_row_without_its_test_is_found(row: str) -> None:
    assert missing(row) != []


def test_every_file_with_tests_of_failures_is_named() -> None:
    """Each of these files tests failures that users can see, so the tables must name it."""
    text = FAILURES.read_text(encoding="utf-8")
    named = {file for file, _ in NAMED.findall(text)}
    assert named >= {
        "test_at_fork_hooks.py",
        "test_deaths.py",
        "test_ends.py",
        "test_exit.py",
        "test_failures.py",
        "test_fork_copies.py",
        "test_interrupted.py",
        "test_leaks.py",
        "test_limits.py",
        "test_misbehaving_callbacks.py",
        "test_misbehaving_tasks.py",
        "test_signals.py",
        "test_soak.py",
        "test_unretrieved.py",
    }
