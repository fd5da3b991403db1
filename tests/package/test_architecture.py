"""What docs/architecture.md and its drawings say of the source is true. Read from the text."""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

TOP = Path(__file__).parents[2]
PAGE = TOP / "docs" / "architecture.md"

QUOTED = re.compile(r"`([^`\n]+)`")
# As clang-format leaves it: a function's name starts a line, under its return type.
C_FUNCTION = r"^{name}\([^;{{}}]*\)\n\{{\n(.*?)^\}}"
C_OTHER = (
    r"\b(?:struct|enum) {name} \{{|^#define {name}\b|^ +{name}(?: =.*)?,|[ *]{name}(?:\[.*\])?[;,]"
)


def load_drawings() -> ModuleType:
    spec = importlib.util.spec_from_file_location("drawings", TOP / "docs" / "drawings.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["drawings"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


drawings: Any = load_drawings()


@cache
def source_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


@cache
def sources() -> tuple[Path, ...]:
    found = [*TOP.glob("csrc/*/*/*.[ch]"), *TOP.glob("cpool/**/*.py"), *TOP.glob("cpool/*.pyi")]
    assert len(found) > 80
    return tuple(found)


@cache
def definitions(path: Path) -> dict[str, ast.FunctionDef | ast.ClassDef]:
    """What a Python file defines: the first of each name, without overloads."""
    found: dict[str, ast.FunctionDef | ast.ClassDef] = {}
    for node in ast.walk(ast.parse(source_of(path))):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and "overload" not in map(
            ast.unparse, node.decorator_list
        ):
            found.setdefault(node.name, node)
    return found


@cache
def body_of(path: Path, function: str) -> str | None:
    """The body of a function that this file defines, or None."""
    text = source_of(path)
    if function not in text:
        return None  # parsing takes long
    if path.suffix in (".py", ".pyi"):
        node = definitions(path).get(function)
        return "\n".join(map(ast.unparse, node.body)) if node else None
    found = re.search(C_FUNCTION.format(name=function), text, re.MULTILINE | re.DOTALL)
    return found[1] if found else None


def path_of(file: str) -> Path:
    return TOP / (file if file.startswith("cpool/") else f"csrc/{file}")


def calls(caller: Any, function: str) -> bool:
    body = body_of(path_of(caller.file), caller.function)
    return body is not None and re.search(rf"\b{function}\(", body) is not None


def complaints(steps: Any) -> list[str]:
    """What the steps say that the source does not."""
    found: list[str] = []
    before: list[Any] = []
    for step in steps:
        chain: list[Any] = []
        for number, call in enumerate(step.calls):
            del chain[call.depth :]
            if body_of(path_of(call.file), call.function) is None:
                found.append(f"{call.function}() is not in {call.file}")
            if call.depth > 0:
                callers = chain[-1:]
            elif number == 0 and step.entry:
                if re.search(rf"\b{call.function}\b", source_of(TOP / step.entry)) is None:
                    found.append(f"{call.function} is not in {step.entry}")
                callers = []
            else:
                callers = before
            if callers and not any(calls(caller, call.function) for caller in callers):
                found.append(f"{callers[-1].function}() does not call {call.function}()")
            chain.append(call)
            before.append(call)
    return found


def test_the_way_of_a_task_is_that_of_the_source() -> None:
    assert len(drawings.STEPS) == 10
    assert complaints(drawings.STEPS) == []


@pytest.mark.parametrize(
    "tree",
    [
        "cp_no_such_function core/pool/act.c",
        "cp_act_now core/pool/jobs.c",
        """
        cp_act_now      core/pool/act.c
          cp_fd_writev  core/os/fd.c
        """,
        """
        cp_act_now      core/pool/act.c
        hand_out        core/pool/act.c
          py_serve      py/worker/serve.c
        """,
    ],
)
def test_a_wrong_way_is_found(tree: str) -> None:
    assert complaints([drawings.Step("wrong", "parent", tree)])


@pytest.mark.parametrize("name", drawings.DRAWINGS)
def test_drawings_are_up_to_date(name: str) -> None:
    """To draw them again: python docs/drawings.py"""
    kept = (TOP / "docs" / name).read_text(encoding="utf-8")
    assert kept == drawings.DRAWINGS[name](), "run docs/drawings.py"
    assert f"]({name})" in PAGE.read_text(encoding="utf-8")


def test_every_folder_is_in_the_drawing_of_the_layers() -> None:
    for layer in drawings.LAYERS:
        folders = {
            path.parent for path in (TOP / layer.path).rglob("*") if path.suffix in (".c", ".py")
        }
        names = {folder.relative_to(TOP / layer.path).as_posix() for folder in folders} - {"."}
        assert names == set(layer.folders) - {""}, layer.path


def exists(name: str) -> bool:
    """Is there such a file, function, method, structure or field?"""
    if "/" in name or re.search(r"\.(?:c|h|py|md|svg|pyi)$", name):
        roots = [TOP, TOP / "csrc", TOP / "csrc" / "core", TOP / "csrc" / "py"]
        return any((root / name).exists() for root in roots)
    plain = re.sub(r"^(?:struct|enum) ", "", name)
    is_function = plain.endswith("()")
    plain = plain.removesuffix("()").rpartition(".")[2]
    if any(body_of(path, plain) is not None for path in sources()):
        return True
    pattern = C_OTHER.format(name=re.escape(plain))
    return not is_function and any(
        re.search(pattern, source_of(path), re.MULTILINE)
        for path in sources()
        if path.suffix in (".c", ".h")
    )


# Words of the page that are not names of this repository.
FOREIGN = {"Python.h", "multiprocessing.pool", "cp_", "py_", "_take"}


def named_by(text: str) -> list[str]:
    names = [name for name in QUOTED.findall(text) if name not in FOREIGN]
    return [name for name in names if re.fullmatch(r"(?:(?:struct|enum) )?[\w./]+(?:\(\))?", name)]


def test_every_name_of_the_page_exists() -> None:
    names = named_by(PAGE.read_text(encoding="utf-8"))
    assert len(names) > 60
    assert [name for name in names if not exists(name)] == []


@pytest.mark.parametrize(
    "name",
    ["cp_no_such()", "csrc/core/pool/none.c", "struct cp_none", "cp_act_on_all", "pool/none.h"],
)
def test_a_name_that_is_not_there_is_found(name: str) -> None:
    assert named_by(f"see `{name}` there") == [name]
    assert not exists(name)
