"""Start methods: the default context of a pool, and the Popen class of each method.

On Linux a pool forks unless the program chose a start method, whatever the interpreter's default.
From 3.14 on the default is another method. Anything that asks multiprocessing for the default (a
Queue, a ThreadPool) fixes it, and leaves multiprocessing in the same state as `set_start_method()`
does. To tell the two apart, this module finds out whether `set_start_method()` has run.
"""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable
from multiprocessing import context
from multiprocessing.process import BaseProcess
from types import CodeType

from .._base.stdlib import TYPE_CHECKING
from .popen import ForkPopen, Popen

if TYPE_CHECKING:
    from typing import Any

    from .._core import Worker
    from .child import Place
    from .surroundings import Surroundings


def default_context() -> Any:
    """The context of a pool without `context=`: fork on Linux, unless the program chose another."""
    if sys.platform == "linux" and not _is_chosen():
        return multiprocessing.get_context("fork")
    return multiprocessing.get_context()


def _is_chosen() -> bool:
    """Has the program chosen a method? A child process keeps the method that started it."""
    method = multiprocessing.get_start_method(allow_none=True)
    if method is None:
        return False
    return (
        method != multiprocessing.get_all_start_methods()[0]
        or multiprocessing.parent_process() is not None
        or _may_have_run(context.DefaultContext.set_start_method)
    )


def _may_have_run(function: Any) -> bool:
    """False if the function has certainly not run in this process.

    CPython 3.13 and later replace a function's first instruction when the function first runs,
    under a tracer too. Returns True where the interpreter does not do so (tested on this function
    itself), or does so for some threads only (without the GIL).
    """
    code = getattr(function, "__code__", None)
    if code is None or "t" in sys.abiflags:
        return True
    return _is_new(_may_have_run.__code__) or not _is_new(code)


def _is_new(code: CodeType) -> bool:
    """Is the first instruction still the compiled one?"""
    now: bytes = getattr(code, "_co_code_adaptive", code.co_code)
    return now[0] == code.co_code[0]


def popen_factory(
    worker: Worker,
    method: str,
    around: Surroundings,
    is_first: bool,
    place: Place,
    environment: dict[str, str | None] | None,
    imports_main: bool = True,
) -> Callable[[BaseProcess], Popen]:
    """A function to set as `_Popen` of the worker's Process object, which calls it in start().

    `environment`: the environment variables that the worker sets (None deletes one); with spawn and
    forkserver it sets them before any import. `is_first`: no worker of the pool was ever ready, so
    that a failed start may mean that no start can succeed. `place`: its CPUs and thread limit,
    which with spawn and forkserver it needs before any import. `imports_main`: with spawn and
    forkserver, does the worker import the main module of this process?
    """
    if method == "fork":
        return lambda process: ForkPopen(process, worker, around)
    from .launchers import POPENS  # lazily: few programs need the launchers

    return lambda process: POPENS[method](
        process, worker, is_first, place, environment, imports_main
    )
