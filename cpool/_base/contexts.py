"""`propagate_context=`: sends the values of context variables along with a call."""

from __future__ import annotations

import sys
from _pickle import loads
from collections.abc import Callable, Iterable
from contextvars import Context, ContextVar, copy_context
from importlib import import_module
from multiprocessing.reduction import ForkingPickler
from types import ModuleType

from . import failures
from .stdlib import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

__all__ = ["Copied", "InContext", "Variables"]

_DECIMAL = "decimal_context"  # the name of decimal's variable, which is no global of its module
_NUMPYS = "numpy"  # prefix of the names of numpy's own variables, such as its error state

_MISSING: Any = object()


class Iterated:
    """A generator whose steps run in a context."""

    def __init__(self, context: Context, source: Any) -> None:
        self.context = context
        self.iterator: Any = context.run(failures.values_of, source)

    def __iter__(self) -> Iterated:
        return self

    def __next__(self) -> Any:
        return self.context.run(next, self.iterator)

    def close(self) -> None:
        close = getattr(self.iterator, "close", None)
        if close is not None:
            self.context.run(close)


def _run(context: Context, this: Copied | InContext, args: Any, kwds: Any) -> Any:
    made = context.run(this.func, *args, **kwds)
    return Iterated(context, made) if this.yields else made


class Copied:
    """A callable that runs, in any thread, in a copy of the context in which it was wrapped.

    `yields`: the iterable that it returns is iterated in that copy too.
    """

    def __init__(self, func: Callable[..., Any]) -> None:
        self.func = func
        self.context = copy_context()
        self.yields = False

    def __call__(self, *args: Any, **kwds: Any) -> Any:
        # One context cannot be entered by two threads at once.
        return _run(self.context.copy(), self, args, kwds)


class InContext:
    """A callable that runs with these values of context variables, in any process.

    `values` has, for each variable, its module, its name there, and the pickle of its value, or
    None if it has no value. `yields`: the iterable that the callable returns is iterated with these
    values too.
    """

    def __init__(
        self,
        func: Callable[..., Any],
        values: tuple[tuple[str, str, bytes | None], ...],
        yields: bool = False,
    ) -> None:
        self.func = func
        self.values = values
        self.yields = yields

    def __reduce__(self) -> tuple[Any, ...]:
        return InContext, (self.func, self.values, self.yields)

    def __call__(self, *args: Any, **kwds: Any) -> Any:
        return _run(self._make_context(), self, args, kwds)

    def _make_context(self) -> Context:
        found = [(_find(module, name), data) for module, name, data in self.values]
        without = {var for var, data in found if data is None}
        made = copy_context()
        if any(var in made for var in without):
            kept, made = made, Context()
            for var, value in kept.items():
                if var not in without:
                    made.run(var.set, value)
        for var, data in found:
            if data is not None:
                set_it = var.set if isinstance(var, ContextVar) else var
                made.run(set_it, loads(data))
        return made


def _find(module: str, name: str) -> Any:
    """The variable; for decimal's context, the function that sets it."""
    found = import_module(module)
    return found.setcontext if name == _DECIMAL else getattr(found, name)


failures.WRAPPERS.update((Copied, InContext))


class Variables:
    """The variables that a pool sends with its calls; None: all that have a value."""

    def __init__(self, chosen: ContextVar[Any] | Iterable[ContextVar[Any]] | None) -> None:
        if isinstance(chosen, ContextVar):
            chosen = (chosen,)
        self.chosen = None if chosen is None else tuple(chosen)
        for var in self.chosen or ():
            if not isinstance(var, ContextVar):
                raise TypeError(
                    f"propagate_context must be a bool or ContextVars, but {var!r} is neither"
                )
        self._homes: dict[ContextVar[Any], tuple[str, str]] = {}
        if self.chosen is not None:
            for var in self.chosen:
                self._home(var)

    def __call__(self, func: Callable[..., Any]) -> InContext:
        """Wrap func with the current values. `TypeError` or `ValueError` if one cannot be sent."""
        context = copy_context()
        wanted = self.chosen
        if wanted is None:
            wanted = tuple(var for var in context if not var.name.startswith(_NUMPYS))
        return InContext(func, tuple((*self._home(var), _pickled(var, context)) for var in wanted))

    def _home(self, var: ContextVar[Any]) -> tuple[str, str]:
        home = self._homes.get(var)
        if home is None:
            home = self._homes[var] = _home_of(var)
        return home


def _home_of(var: ContextVar[Any]) -> tuple[str, str]:
    """Where a worker finds the variable: its module, and its name there."""
    if var.name == _DECIMAL and "decimal" in sys.modules:
        return "decimal", _DECIMAL
    for module, found in list(sys.modules.items()):
        if isinstance(found, ModuleType):
            for name, value in list(vars(found).items()):
                if value is var:
                    return module, name
    raise ValueError(
        f"the context variable {var.name!r} cannot be sent: it is not a global of a module, and "
        "workers look variables up by module and name"
    )


def _pickled(var: ContextVar[Any], context: Context) -> bytes | None:
    value = context.get(var, _MISSING)
    if value is _MISSING:
        return None
    try:
        return bytes(ForkingPickler.dumps(value))
    except Exception as exc:
        raise TypeError(
            f"the value of the context variable {var.name!r} cannot be sent to a worker: {exc}"
        ) from exc
