"""`python -m cpool`: running a program with cpool in place of multiprocessing.pool.

The interpreter replaces itself (by exec) with a new one that has the same options, installs cpool
(see startup.py) and then runs the program as plain `python` would. So the program's `__main__`,
paths, frames and recursion limit are the same as without cpool.

Without `cpool.pth` (cpool is not installed but only on the path, `python -S`, Windows) this
interpreter runs the program itself.
"""

from __future__ import annotations

import builtins
import io
import os
import pkgutil
import re
import runpy
import site
import sys
import types
from importlib.machinery import (
    BuiltinImporter,
    ModuleSpec,
    SourceFileLoader,
    SourcelessFileLoader,
)

from .._base.stdlib import TYPE_CHECKING
from .report import print_statistics_at_exit, trace_until_exit
from .swap import install

if TYPE_CHECKING:
    from typing import Any, NoReturn

_USAGE = """\
usage: python -m cpool [OPTION...] SCRIPT [ARG...]
       python -m cpool [OPTION...] -m MODULE [ARG...]
       python -m cpool [OPTION...] -c CODE [ARG...]
       python -m cpool [OPTION...] - [ARG...]

Runs an unchanged program with cpool in the place of multiprocessing.pool. SCRIPT is whatever Python
runs: a file, a directory or a zip file with a __main__.py.

  --executors  the ProcessPoolExecutor and the ThreadPoolExecutor of concurrent.futures are cpool's
               as well
  --stats      at the end of the program, print what each of its pools has done to stderr
  --trace FILE at the end of the program, write a timeline of its pools to FILE, for
               https://ui.perfetto.dev or chrome://tracing"""


def main() -> None:
    args = given = sys.argv[1:]
    executors = stats = False
    trace = ""
    while args[:1] in (["--executors"], ["--stats"]) or (args[:1] == ["--trace"] and args[1:]):
        executors = executors or args[0] == "--executors"
        stats = stats or args[0] == "--stats"
        if args[0] == "--trace":
            trace = os.path.abspath(args[1])
            args = args[1:]
        args = args[1:]
    if args[:1] in (["-h"], ["--help"]):
        print(_USAGE)
        return
    option = args[0][:2] if args and args[0].startswith("-") and args[0] != "-" else ""
    if not args or (option and option not in ("-m", "-c")) or args in (["-m"], ["-c"]):
        print(_USAGE, file=sys.stderr)
        raise SystemExit(2)
    options = _interpreter_options(sys.orig_argv, given)
    if options is not None and _reads_pth():
        _replace_interpreter(options + args, executors, stats, trace)
    install(executors=executors)
    if stats:
        print_statistics_at_exit()
    if trace:
        trace_until_exit(trace)
    _run_here(option, args)


# ---- in a new interpreter ----


def _interpreter_options(command: list[str], args: list[str]) -> list[str] | None:
    """The interpreter's options, before `-m cpool` on the command line; None if not known."""
    if not sys.executable or command[len(command) - len(args) :] != args:
        return None
    head = " ".join(command[-len(args) - 2 : len(command) - len(args)])
    # Short options may share a word with -m.
    found = re.fullmatch(r"(.* )?(-\w*)m ?cpool", head, re.DOTALL)
    if found is None:
        return None
    words = 2 if head.endswith(" cpool") else 1
    options = command[1 : len(command) - len(args) - words]
    return options + [found[2]] * (found[2] != "-")


def _reads_pth() -> bool:
    """Will a new interpreter with the same options read cpool.pth?"""
    if sys.platform == "win32" or sys.flags.no_site:
        return False
    folders = site.getsitepackages()
    if site.ENABLE_USER_SITE:
        folders.append(site.getusersitepackages())
    return any(os.path.isfile(os.path.join(folder, "cpool.pth")) for folder in folders)


def _replace_interpreter(args: list[str], executors: bool, stats: bool, trace: str) -> NoReturn:
    if os.environ.get("CPOOL_INSTALL", "0") in ("", "0"):
        os.environ["CPOOL_INSTALL"] = "once"
    if executors:
        os.environ["CPOOL_EXECUTORS"] = "1"
    if stats:
        os.environ["CPOOL_STATS"] = "1"
    if trace:
        os.environ["CPOOL_TRACE"] = trace
    os.execv(sys.executable, [sys.executable, *args])


# ---- in this interpreter ----


def _run_here(option: str, args: list[str]) -> None:
    if option:
        sys.argv[:] = args[1:]
        value = args[0][2:] or sys.argv.pop(0)
        if option == "-m":
            _run_module(value)
        else:
            _run_code(value)
    else:
        sys.argv[:] = args
        if args[0] == "-":
            _run_stdin()
        else:
            _run_path(args[0])


def _set_path(folder: str) -> None:
    """Set sys.path[0] to the program's folder; isolated interpreters have no such entry."""
    if not sys.flags.safe_path:
        sys.path[0] = folder


def _execute(code: types.CodeType, **names: Any) -> None:
    # The module stays in sys.modules, since workers and exit handlers look functions up in it. It
    # has both names, as in children of multiprocessing.
    module = types.ModuleType("__main__")
    if sys.version_info < (3, 14):
        names["__annotations__"] = {}
    module.__dict__.update(names, __builtins__=builtins)
    sys.modules["__main__"] = sys.modules["__mp_main__"] = module
    exec(code, module.__dict__)


def _execute_module(spec: ModuleSpec, code: types.CodeType) -> None:
    names = {"__file__": spec.origin, "__loader__": spec.loader, "__package__": spec.parent}
    _execute(code, __spec__=spec, **_cached(spec.cached), **names)


def _cached(path: str | None) -> dict[str, Any]:
    return {"__cached__": path} if sys.version_info < (3, 15) else {}


def _run_module(name: str) -> None:
    _set_path(os.getcwd())
    try:
        # runpy's public run_module() would remove the module from sys.modules at the end.
        _, spec, code = runpy._get_module_details(name)  # type: ignore[attr-defined]
    except ImportError as exc:
        raise SystemExit(f"{sys.executable}: {exc}") from None
    sys.argv.insert(0, spec.origin)
    _execute_module(spec, code)


def _run_code(source: str) -> None:
    _set_path("")
    sys.argv.insert(0, "-c")
    code = compile(source, "<string>", "exec", dont_inherit=True)
    _execute(code, __loader__=BuiltinImporter)


def _run_stdin() -> None:
    _set_path("")
    code = compile(sys.stdin.read(), "<stdin>", "exec", dont_inherit=True)
    _execute(code, __file__="<stdin>", __loader__=BuiltinImporter, **_cached(None))


def _run_path(path: str) -> None:
    if pkgutil.get_importer(path) is not None:  # a directory, or a zip file
        folder = os.path.abspath(path)
        sys.path[0:1] = [folder, *sys.path[:1]] if sys.flags.safe_path else [folder]
        _, spec, code = runpy._get_main_module_details()  # type: ignore[attr-defined]
        _execute_module(spec, code)
        return
    file = os.path.abspath(path)
    _set_path(os.path.dirname(os.path.realpath(path)))
    loader: Any = SourcelessFileLoader("__main__", file)
    try:
        with io.open_code(file) as stream:
            code = pkgutil.read_code(stream)
            if code is None:
                loader = SourceFileLoader("__main__", file)
                stream.seek(0)
                source = stream.read()
    except OSError as exc:
        text = f"{sys.executable}: can't open file {file!r}: [Errno {exc.errno}] {exc.strerror}"
        print(text, file=sys.stderr)
        raise SystemExit(2) from None
    if code is None:
        code = compile(source, file, "exec", dont_inherit=True)
    _execute(code, __file__=file, __loader__=loader, **_cached(None))
