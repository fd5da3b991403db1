"""`progress=`: a tqdm bar, or calls of a function, that show how many items of a call are done.

A thread checks ten times a second how many items are done, which takes some microseconds. It ends
with the job. A blocking call returns after the final count is shown.
"""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Callable, Mapping

from .._base.stdlib import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

    Progress = bool | str | Mapping[str, Any] | Callable[[int, int | None], object] | None
else:
    Progress = object

__all__ = ["Progress", "show"]

_PERIOD = 0.1
_NO_TQDM = (
    "progress={!r} draws its bar with tqdm, which is not installed: pip install tqdm, or give a "
    "function, which is called as progress(done, total)"
)


def check_kind(progress: Progress) -> None:
    """Raise `TypeError` for an invalid `progress=`, `ImportError` if tqdm is needed but missing."""
    if progress is None or isinstance(progress, bool | str | Mapping):
        if progress is not None and progress is not False:
            try:
                import tqdm.auto  # noqa: F401
            except ImportError as exc:
                raise ImportError(_NO_TQDM.format(progress)) from exc
    elif not callable(progress):
        raise TypeError(
            "progress must be True, a description, a dict of tqdm's parameters or a function, not "
            + type(progress).__name__
        )


def check(progress: Progress, total: int | None) -> Any:
    """An object that shows the progress, with `update(done)` and `close()`; None: show nothing.

    Raises what `check_kind()` raises.
    """
    check_kind(progress)
    if progress is None or progress is False:
        return None
    if callable(progress):
        return _Told(progress, total)
    from tqdm.auto import tqdm

    parameters: dict[str, Any] = {"total": total}
    if isinstance(progress, str):
        parameters["desc"] = progress
    elif isinstance(progress, Mapping):
        parameters.update(progress)
    return _Bar(tqdm(**parameters))


class _Told:
    def __init__(self, function: Callable[[int, int | None], object], total: int | None) -> None:
        self.function = function
        self.total = total
        self.last = -1

    def update(self, done: int) -> None:
        if done != self.last:
            self.last = done
            self.function(done, self.total)

    def close(self) -> None:
        pass


class _Bar:
    def __init__(self, bar: Any) -> None:
        self.bar = bar

    def update(self, done: int) -> None:
        self.bar.update(done - self.bar.n)

    def close(self) -> None:
        self.bar.close()


class Reporter:
    """Shows the progress of a job until it is done."""

    def __init__(self, result: Any, shown: Any, keeps: bool) -> None:
        self.over = threading.Event()
        # A strong reference, as the job itself has; but a weak one to an iterator, which ends its
        # job when the program drops it.
        self.result = (lambda: result) if keeps else weakref.ref(result, self.end)
        self.shown = shown
        self.thread = threading.Thread(target=self.run, name="cpool-progress", daemon=True)
        self.thread.start()

    def run(self) -> None:
        most = 0
        try:
            is_over = False
            while not is_over:
                is_over = self.over.wait(_PERIOD)
                result = self.result()
                if result is None:
                    return
                done, ended = result._progress()
                del result
                is_over = is_over or ended
                most = max(most, done)  # never counts down, even if a lost chunk runs again
                self.shown.update(most)
        except ValueError:  # in a forked process, which has a copy of the pool
            return
        except Exception as exc:  # the program's function raised: do not call it again
            _report(exc, self.shown)
        finally:
            self.shown.close()
            del self.result

    def end(self, _: object = None) -> None:
        self.over.set()

    def __enter__(self) -> None:
        pass

    def __exit__(self, *exc_info: object) -> None:
        """The call is over: wait until the final count is shown."""
        self.over.set()
        self.thread.join()


class _Failure:
    """What `sys.unraisablehook` names as the place where the function's exception was raised."""

    def __init__(self, exc: Exception, shown: object) -> None:
        self.exc = exc
        self.function = getattr(shown, "function", shown)

    def __call__(self, _: object) -> None:
        raise self.exc

    def __repr__(self) -> str:
        return f"progress={self.function!r}, which is not called any more"


class _Mark:
    """An object for a weak reference."""


def _report(exc: Exception, shown: object) -> None:
    """Give the exception to `sys.unraisablehook`.

    Only the interpreter can make what that hook takes, and does for the callback of a weak
    reference.
    """
    mark = _Mark()
    ref = weakref.ref(mark, _Failure(exc, shown))
    del mark
    del ref


def show(result: Any, progress: Progress, total: int | None, keeps: bool = True) -> Any:
    """Show the progress of a result's job. Returns a context manager that shows the final count.

    `keeps`: the job has a strong reference to its result, so the thread may have one too.
    """
    shown = check(progress, total)
    return contextlib.nullcontext() if shown is None else Reporter(result, shown, keeps)
