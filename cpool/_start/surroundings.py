"""What the code of a thread finds around it, and a forked worker inherits."""

from __future__ import annotations

import sys
from collections.abc import Callable

from .. import _core
from .._base.stdlib import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any


class Surroundings:
    """Context variables, the decimal context and numpy's error state, as they are now.

    A worker is forked by whichever thread notices that one is missing: in the middle of a
    `localcontext()`, or a thread of the pool. Each worker starts with what the thread had that
    made the pool.
    """

    def __init__(self) -> None:
        self._context = _core._copy_context()
        decimal = getattr(sys.modules.get("decimal"), "__dict__", {})
        if "setcontext" in decimal and "getcontext" in decimal:
            # The thread may change its decimal context in place.
            self._context.run(decimal["setcontext"], decimal["getcontext"]().copy())
        # Before numpy 2 the error state belongs to the thread.
        numpy = getattr(sys.modules.get("numpy"), "__dict__", {})
        self._numpy_errors: Any = None
        if "geterrobj" in numpy and "seterrobj" in numpy:
            self._numpy_errors = list(numpy["geterrobj"]())  # seterr() changes that list

    def run(self, func: Callable[..., None], *args: Any) -> None:
        """Call func in a forked worker."""
        if self._numpy_errors is not None:
            sys.modules["numpy"].seterrobj(self._numpy_errors)
        self._context.run(func, *args)
