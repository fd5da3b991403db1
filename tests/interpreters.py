"""Subinterpreters, under the module name that the running version of CPython uses."""

from __future__ import annotations

import sys
from typing import Any

module: Any
if sys.version_info >= (3, 13):
    import _interpreters as module
else:
    import _xxsubinterpreters as module


class Interpreter:
    """A subinterpreter. From 3.12 on an isolated one has its own GIL, and must not fork."""

    def __init__(self, isolated: bool) -> None:
        if sys.version_info >= (3, 13):
            self._id = module.create("isolated" if isolated else "legacy")
        else:
            self._id = module.create(isolated=isolated)

    def run(self, source: str) -> None:
        """Run source in its `__main__`. An exception becomes a `RuntimeError` with its text."""
        if sys.version_info >= (3, 13):
            failure = module.exec(self._id, source)
            if failure is not None:
                raise RuntimeError(failure.formatted)
        else:
            module.run_string(self._id, source)

    def close(self) -> None:
        module.destroy(self._id)
