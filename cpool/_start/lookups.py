"""What a forked worker looks up, so that it is looked up before the fork.

CPython has a cache of the attributes of types that it has looked up. A lookup that is new writes to
the cache and to the reference counts of what it compares, and so a forked worker would copy two or
three pages for each. The worker looks up what it finds in the parent's cache without writing.
"""

from __future__ import annotations

import _weakrefset
import contextvars
import io
import random
import threading
import weakref
from collections import deque
from functools import cache
from multiprocessing import context, process, util
from types import CodeType, ModuleType

from .. import _core
from .._base import current
from .._base.stdlib import TYPE_CHECKING
from . import child, surroundings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any


def _codes(owner: Any, names: str) -> Iterator[CodeType]:
    """The code objects of functions of a module or a class, as far as this version has them."""
    for name in names.split():
        function = getattr(owner, name, None)
        function = getattr(function, "fget", function)  # of a property
        found = [getattr(function, "__code__", None)]
        for code in found:
            if code is not None:
                yield code
                found += [const for const in code.co_consts if isinstance(const, CodeType)]


# Classes that not every version has.
_Guard: Any = getattr(_weakrefset, "_IterationGuard", weakref.WeakSet)
_Parent: Any = getattr(process, "_ParentProcess", process.BaseProcess)

# Every class of objects that a forked worker uses, and the functions of which the worker looks up
# the names in that class.
_AFTER_FORK = (threading, "_after_fork")
_LOCKS = (threading.Thread, "_reset_internal_locks _stop _set_native_id _after_fork")
_EVENT = (threading.Event, "_at_fork_reinit")
_CONDITION = (threading.Condition, "_at_fork_reinit")
_SET = (weakref.WeakSet, "update __iter__ _commit_removals")
_GUARD = (_Guard, "__init__ __enter__ __exit__")
_SEED = (random.Random, "seed")
_PROCESS = (process.BaseProcess, "_bootstrap _after_fork run")
_PARENT = (_Parent, "__init__")
_UTIL = (
    util,
    "_run_after_forkers _exit_function _run_finalizers _flush_std_streams info debug",
)
_SHUTDOWN = (threading, "_shutdown main_thread")
_ITEMS = (weakref.WeakValueDictionary, "items _commit_removals")
_CHILD = (child, "run_forked main _tell_stack _close_stdin")
_SETUP = (child.Setup, "runs_nothing")
_AROUND = (surroundings.Surroundings, "run")
_CONTEXT = (context, "_force_start_method")

_USES: tuple[tuple[Any, tuple[tuple[Any, str], ...]], ...] = (
    (
        ModuleType,
        (
            _AFTER_FORK,
            _SEED,
            _PROCESS,
            _PARENT,
            _UTIL,
            _SHUTDOWN,
            _CHILD,
            _AROUND,
        ),
    ),
    (type(threading.main_thread()), (_AFTER_FORK, _LOCKS, _SHUTDOWN)),
    (threading.Event, (_LOCKS, _EVENT)),
    (threading.Condition, (_EVENT, _CONDITION)),
    (type(threading.Lock()), (_LOCKS, _CONDITION, _SHUTDOWN)),
    (type(threading.RLock()), (_AFTER_FORK,)),
    (weakref.WeakSet, (_AFTER_FORK, _SET, _GUARD)),
    (_Guard, (_SET, _GUARD)),
    (weakref.WeakValueDictionary, (_UTIL, _ITEMS)),
    (random.Random, (_SEED,)),
    (context.ForkProcess, (_PROCESS, _CHILD)),
    (_Parent, (_PARENT,)),
    (child.Fork, (_CHILD,)),
    (child.Setup, (_CHILD, _SETUP)),
    (_core.Worker, (_CHILD,)),
    (surroundings.Surroundings, (_CHILD, _AROUND)),
    (contextvars.Context, (_AROUND,)),
    (current.CurrentWorker, ((current, "set_process"),)),
    (dict, (_AFTER_FORK, _PROCESS, _UTIL, _ITEMS, _CHILD)),
    (set, (_AFTER_FORK, _SET, _GUARD)),
    (context.DefaultContext, (_CONTEXT,)),
    (list, (_UTIL, _ITEMS)),
    (deque, (_UTIL,)),
    (io.TextIOWrapper, (_CHILD, _UTIL)),
)

# The interpreter itself looks these up in any class.
_IMPLIED = ("__init__", "__new__", "__setattr__", "__getattribute__", "__dict__")


@cache
def table() -> tuple[tuple[type, tuple[str, ...]], ...]:
    """The classes and the names, for `_core._prepare_forks()`."""
    return tuple(
        (
            kind,
            tuple(
                {
                    name
                    for owner, functions in uses
                    for code in _codes(owner, functions)
                    for name in code.co_names
                }.union(_IMPLIED)
            ),
        )
        for kind, uses in _USES
    )
