"""A module that is loaded again, in a worker or in the parent."""

from __future__ import annotations

import importlib
import pickle
import sys
from pathlib import Path
from typing import Any

import pytest
from engine import DEADLINE

TEXT = """
def answer(x=None): return {0}

class Kind:
    @staticmethod
    def answer(x=None): return {0}
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: Any) -> Any:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "reloaded.py").write_text(TEXT.format(1))
    yield importlib.import_module("reloaded")
    sys.modules.pop("reloaded", None)


def load_again(_: object, how: str, path: str) -> None:
    """With other contents than before."""
    Path(path).write_text(TEXT.format(22))
    if how == "reload":
        importlib.reload(sys.modules["reloaded"])
    elif how == "import":
        del sys.modules["reloaded"]
        importlib.import_module("reloaded")
    else:
        sys.modules["reloaded"].answer = sys.modules["reloaded"].Kind.answer = int  # type: ignore


@pytest.mark.parametrize(("how", "after"), [("reload", 22), ("import", 22), ("replace", 7)])
@pytest.mark.parametrize("which", ["answer", "Kind.answer"])
def test_a_task_loads_the_module_of_the_callable_again(
    make_pool: Any, module: Any, how: str, after: int, which: str
) -> None:
    """The next task calls the new function, as if the name were unpickled for each task."""
    pool = make_pool(1)
    function = module.answer if which == "answer" else module.Kind.answer
    assert pool.map(function, [7, 7], 1) == [1, 1]
    pool.apply(load_again, (0, how, module.__file__))
    assert pool.map(function, [7, 7], 1) == [after] * 2
    assert pool.apply_async(function, (7,)).get(DEADLINE) == after


def test_the_parent_loads_the_module_again(make_pool: Any, module: Any) -> None:
    """The old function does not pickle any more; the new one is called in new workers."""
    pool = make_pool(1)
    old = module.answer
    assert pool.apply(old) == 1
    load_again(0, "reload", module.__file__)
    assert module.answer is not old
    with pytest.raises(pickle.PicklingError):
        pickle.dumps(old)
    assert pool.apply(module.answer) == 1  # in this worker the module is as it was
    assert make_pool(1).apply(module.answer) == 22
