"""The worker process outside the task loop, which is in C: everything that runs once a process."""

from __future__ import annotations

# Not `signal`, whose enum lookups take longer than everything else here.
import _signal  # type: ignore[import-not-found]
import atexit
import contextlib
import gc
import os
import posix
import sys
import threading
from collections.abc import Callable, Iterable
from importlib import import_module
from io import BufferedWriter, FileIO, TextIOWrapper
from multiprocessing import util
from multiprocessing.process import BaseProcess, parent_process
from select import POLLOUT, poll

from .. import _core
from .._base import failures, importing
from .._base.current import CurrentWorker, set_process
from .._base.stdlib import TYPE_CHECKING

try:
    import faulthandler  # before any fork: an import in each child takes as long as main()
except ImportError:  # a subinterpreter, or a build without the module
    faulthandler = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from typing import Any, NoReturn

    from .._core import Worker
    from .logs import Forwarding
    from .surroundings import Surroundings

# Without the GIL gc.freeze() writes to every object, and the worker would copy all shared pages.
_FREEZES = "t" not in sys.abiflags

failures.take_stop = _core._take_stop

# From 3.13 on popen_fork runs atexit handlers in children.
_RUNS_ATEXIT = sys.version_info >= (3, 13)


def takes_output(stream: Any) -> bool:
    """Can the stream be flushed without waiting for its reader?

    A thread that writes to a full pipe holds the lock of the stream's buffer, for which flush()
    waits too. Of a stream of another class, such as a notebook's, nothing is known.
    """
    if type(stream) is not TextIOWrapper or type(stream.buffer) is not BufferedWriter:
        return True
    look = poll()
    look.register(stream.fileno(), POLLOUT)
    return bool(look.poll(0))


_of_parent: list[Any] = []  # streams that are never closed here, which would flush them


def _replace_streams(unflushed: tuple[Any, ...]) -> None:
    """Open those of the standard streams anew that the parent could not flush before the fork, or
    that take no output now: a thread of the parent has begun to write meanwhile.

    The text in their buffers is the parent's. A thread of the parent that was writing has left
    their locks locked for ever. Only if it did not fill the pipe, this process does not notice.
    Handlers of `logging` follow, other holders of a stream do not.
    """
    for which in ("stdout", "stderr"):
        old: Any = getattr(sys, which, None)
        try:
            if takes_output(old) and not any(old is each for each in unflushed):
                continue
        except (AttributeError, ValueError):  # it is closed
            continue
        _of_parent.append(old)
        raw: Any = FileIO(old.fileno(), "w", closefd=False)
        raw.name = old.name
        new: Any = TextIOWrapper(
            BufferedWriter(raw),
            old.encoding,
            old.errors,
            "\n",
            old.line_buffering,
            old.write_through,
        )
        new.mode = "w"
        for name in ("stdout", "stderr", "__stdout__", "__stderr__"):
            if getattr(sys, name, None) is old:
                setattr(sys, name, new)
        logging: Any = sys.modules.get("logging")
        for ref in getattr(logging, "_handlerList", ()):
            handler = ref()
            if handler is not None and vars(handler).get("stream") is old:
                handler.stream = new  # not setStream(), which flushes


_CLOSE_STDIN: Any = util._close_stdin  # type: ignore[attr-defined]
_no_input: Any = None  # what sys.stdin is going to be


def opens_stdin_as_usual() -> bool:
    """Will a forked child open its sys.stdin as multiprocessing does, and not as a program does
    that has replaced the function?"""
    return (
        util._close_stdin is _CLOSE_STDIN  # type: ignore[attr-defined]
        and getattr(_CLOSE_STDIN, "__globals__", None) is vars(util)
    )


def _close_stdin() -> None:
    """What multiprocessing's function does, with a stream that the parent has made.

    Opening one takes a tenth of the time that a forked worker needs in all, since it copies a
    hundred pages.
    """
    util._close_stdin = _CLOSE_STDIN  # type: ignore[attr-defined]
    if sys.stdin is None:
        return
    with contextlib.suppress(OSError, ValueError):
        sys.stdin.close()
    try:
        os.get_inheritable(0)
    except OSError:  # it had descriptor 0, which the next file would get: so its successor does
        _CLOSE_STDIN()
    else:
        sys.stdin = _no_input


class Fork:
    """What the parent tells the workers that it forks together.

    `stderr`: the descriptor for the stack of a worker that crashes, or -1. `unflushed`: the
    standard streams that the parent has not flushed. None: it has waited for them. `no_input`:
    their sys.stdin. None: multiprocessing opens it. `intent`: where the fork is announced to the
    resource tracker. None: nowhere.
    """

    __slots__ = ("around", "intent", "no_input", "stderr", "unflushed")

    def __init__(self, around: Surroundings, intent: Any, no_input: TextIOWrapper | None) -> None:
        self.around = around
        self.intent = intent
        self.no_input = no_input
        self.unflushed: tuple[Any, ...] | None = None
        self.stderr = -1
        try:
            fd = sys.stderr.fileno()
        except Exception:  # it is closed, or has no descriptor, or is an object of the program
            return
        if isinstance(fd, int):
            self.stderr = fd


def run_forked(process: BaseProcess, worker: Worker, fork: Fork) -> NoReturn:
    """The child's side of a start by fork. All signals are blocked when the child begins.

    Each function that the child calls is on pages that it copies, so this is one function.
    Whatever is raised, the child must not go on running the parent's program.
    """
    global _no_input
    code = 1
    try:
        worker.reset_signals()
        if fork.intent is not None:
            fork.intent.preserve_fd = False
        if fork.no_input is not None:
            _no_input = fork.no_input
            util._close_stdin = _close_stdin  # type: ignore[attr-defined]
        if fork.unflushed is not None:
            _replace_streams(fork.unflushed)
        try:
            if fork.stderr >= 0 and faulthandler is not None and not faulthandler.is_enabled():
                faulthandler.enable(fork.stderr)
        except Exception:  # no memory
            pass
        if _RUNS_ATEXIT:
            atexit._clear()
            atexit.register(util._exit_function)  # type: ignore[attr-defined]
        try:
            code = fork.around.run(
                process._bootstrap,  # type: ignore[attr-defined]
                worker.parent_sentinel,
            )
        finally:
            if _RUNS_ATEXIT:
                fork.around.run_again(atexit._run_exitfuncs)
    finally:
        # Some programs replace os._exit: coverage relies on the call, others raise an exception.
        try:
            os._exit(code)
        finally:
            posix._exit(code)


_attached: Worker | None = None  # of a launched process, until take() is called
_is_launched = False


def attach(ends: list[Any], area: int, budget: int, unblocks_sigpipe: bool) -> None:
    """In a launched process, before it imports the main module: make its Worker."""
    global _attached
    if unblocks_sigpipe:
        _signal.pthread_sigmask(_signal.SIG_UNBLOCK, (_signal.SIGPIPE,))
    rx, tx, life, row, common, *memory = (end.detach() for end in ends)
    memory_fd = memory[0] if memory else -1
    _attached = _core._attach(rx, tx, life, row, common, memory_fd, area, budget)


def take() -> Worker:
    """In a launched process, while the Process object is unpickled: its Worker."""
    global _attached, _is_launched
    worker, _attached, _is_launched = _attached, None, True
    assert worker is not None
    _signal.signal(_signal.SIGTERM, _signal.SIG_DFL)
    _signal.set_wakeup_fd(-1)
    _signal.pthread_sigmask(_signal.SIG_BLOCK, (_signal.SIGINT,))
    return worker


# Libraries read these variables when they are loaded.
_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMBA_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)

if TYPE_CHECKING:
    # The CPUs of a worker (None: any), and how many threads its libraries may use (None: no limit).
    Place = tuple[tuple[int, ...] | None, int | None]
    # The initializer (None: there is none) and its arguments.
    Begin = tuple[Callable[..., object] | None, Iterable[Any]]


def settle(cpus: tuple[int, ...] | None, threads: int | None) -> None:
    """Set this worker's CPUs and thread limits, before any import: libraries start threads then."""
    if cpus is not None:
        with contextlib.suppress(OSError):  # the CPU went offline: run on any
            os.sched_setaffinity(0, cpus)
    if threads is not None:
        os.environ.update(dict.fromkeys(_THREAD_VARIABLES, str(threads)))


def attach_and_take(ends: list[Any], area: int, budget: int, unblocks_sigpipe: bool) -> Worker:
    """`attach()` and `take()`, if the Worker could not be sent ahead of the Process object."""
    attach(ends, area, budget, unblocks_sigpipe)
    return take()


def report_failed_starts(is_first: bool) -> None:
    """In a launched process: report to the parent why this process cannot become a worker.

    The reason is what importing the main module or unpickling the Process object raised. If
    `is_first` (no worker of the pool was ever ready), the pool fails with it. Otherwise the parent
    tries again, and one process of the pool prints a traceback.
    """
    from multiprocessing import spawn

    from .guard import no_second_server

    prepare: Any = spawn.prepare
    worker = _attached

    def report(exc: BaseException) -> NoReturn:
        assert worker is not None
        # Memory or descriptors may be available again a moment later: then only retry.
        passing = isinstance(exc, (MemoryError, OSError)) and not isinstance(exc, FileNotFoundError)
        try:
            if is_first and not passing:
                worker.report_init_error(failures.pack_failed_start(exc))
            elif worker.is_first_failure():
                sys.stderr.write(failures.traceback_of(exc))
        finally:
            raise SystemExit(1) from None

    def prepare_and_report(data: Any) -> None:
        spawn.prepare = prepare
        try:
            with no_second_server():
                prepare(data)
        except BaseException as exc:
            report(exc)
        sys.excepthook = _StartHook(sys.excepthook, report)

    spawn.prepare = prepare_and_report


class _StartHook:
    """sys.excepthook between the import of the main module and main()."""

    def __init__(self, before: Any, report: Callable[[BaseException], NoReturn]) -> None:
        self.before = before
        self.report = report

    def __call__(self, kind: type[BaseException], exc: BaseException, tb: Any) -> None:
        sys.excepthook = self.before
        with contextlib.suppress(SystemExit):
            self.report(exc)


def change_environment(changes: dict[str, str | None]) -> None:
    """Set environment variables; a value of None deletes the variable."""
    for name, value in changes.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


class Setup:
    """The parameters that the pool passes to each worker along with its Worker."""

    def __init__(
        self,
        index: int,
        begin: Begin,
        finalizer: Callable[..., object] | None,
        finalargs: Iterable[Any],
        place: Place,
        environment: dict[str, str | None] | None = None,
        preload: tuple[str, ...] = (),
        forwarding: Forwarding | None = None,
    ) -> None:
        self.index = index
        self.place = place
        self.environment = environment
        self.preload = preload
        self.forwarding = forwarding
        self.begin = begin
        self.finalizer = finalizer
        self.finalargs = finalargs
        self.current = CurrentWorker(index, _core._tasks_done)

    @property
    def runs_nothing(self) -> bool:
        """Does the worker run tasks, and nothing before or after them?"""
        return (
            self.begin[0] is None
            and self.finalizer is None
            and self.forwarding is None
            and not self.preload
        )

    def settle(self) -> None:
        settle(*self.place)
        threads = self.place[1]
        if threads is not None:
            from .libraries import find_libraries, limit_threads

            limit_threads(find_libraries(), threads)

    def initialize(self) -> None:
        for name in self.preload:
            import_module(name)
        initializer, initargs = self.begin
        if initializer is not None:
            initializer(*initargs)

    def finalize(self, worker: Worker) -> None:
        """Run the finalizer, in a worker that exits normally."""
        if self.finalizer is None or worker.is_copy:
            return
        try:
            self.finalizer(*self.finalargs)
        except Exception as exc:
            text = failures.traceback_of(exc)
            sys.stderr.write(f"cpool: the finalizer raised in a worker:\n{text}")


def _initialize(worker: Worker, setup: Setup) -> None:
    try:
        setup.initialize()
    except BaseException as exc:
        report = failures.pack_error(exc, None)
        told = setup.begin[0] is failures.initialize
        if told:  # after other exit handlers, such as one that passes on log records
            util.Finalize(None, worker.report_init_error, (report,), exitpriority=-100)
        else:
            worker.report_init_error(report)
        if not told and type(exc) is not KeyboardInterrupt and worker.is_first_failure():
            text = failures.traceback_of(exc)
            sys.stderr.write(f"cpool: the initializer raised in a worker:\n{text}")
        raise SystemExit(1) from None


def _forget_interrupt() -> None:
    """Drop a SIGINT that arrived while the process started with SIGINT blocked."""
    handler = _signal.getsignal(_signal.SIGINT)
    if handler is not None:  # None: Python did not install it, so leave it
        _signal.signal(_signal.SIGINT, _signal.SIG_IGN)
        _signal.signal(_signal.SIGINT, handler)


_WORDS = 624  # the state of numpy's global generator, unless the program chose another kind


def _seed(random: Any) -> None:
    """Seed numpy's global generator, as the stdlib does for `random`.

    All of its state is random bits: seed() computes the state, and copies twice as many pages.
    """
    try:
        _unlock(random.mtrand._rand._bit_generator.lock)
        bits = sys.modules["numpy"].frombuffer(os.urandom(4 * _WORDS), "uint32")
        random.set_state(("MT19937", bits, _WORDS, 0, 0.0))
    except Exception:
        # It is a generator of another kind, or the parent was importing the module.
        with contextlib.suppress(Exception):
            random.seed()


def _unlock(lock: Any) -> None:
    """A thread of the parent that drew numbers during the fork has left the lock locked."""
    if lock.acquire(False):
        lock.release()
    else:
        lock._at_fork_reinit()


def _skip_shutdown() -> None:
    pass


def _tell_stack(watch: Callable[..., None]) -> None:
    """Make this thread report its stack when the parent asks for it; see csrc/py/worker/stack.h."""
    if faulthandler is None or not hasattr(os, "memfd_create"):
        return
    fd = -1
    try:
        fd = os.memfd_create("cpool-stack")
        watch(fd, faulthandler.register)
    except Exception:  # no descriptor or memory: dumps lack this stack
        if fd >= 0:
            os.close(fd)


def _end_launch(worker: Worker) -> None:
    if isinstance(sys.excepthook, _StartHook):
        sys.excepthook = sys.excepthook.before
    parent = parent_process()
    if parent is not None:  # multiprocessing's own pipe is closed
        parent._sentinel = worker.parent_sentinel  # type: ignore[attr-defined]


def _let_go(setup: Setup) -> None:
    """Before the interpreter exits: keep nothing that would outlive the program's modules.

    A process started by spawn deletes what modules hold when it exits, and so writes the buffers of
    open files. It does not find the variables of a module if somebody refers to one of the module's
    functions, or if the collector leaves the module alone.
    """
    setup.begin = None, ()
    setup.finalizer, setup.finalargs = None, ()
    if _FREEZES:
        gc.unfreeze()


def _work(worker: Worker, setup: Setup) -> int:
    if setup.forwarding is not None:
        setup.forwarding.install()
    if setup.begin[0] is not None or setup.preload:
        _initialize(worker, setup)
    try:
        tasks = importing.run_in_worker(worker.serve)
    except SystemExit:  # a task raised it
        setup.finalize(worker)
        raise
    setup.finalize(worker)
    return tasks


def main(worker: Worker, setup: Setup) -> None:
    """The target of a worker process: run the initializer, then tasks until the pool ends.

    A forked worker copies each page on which it uses an object, and a page costs as much as
    hundreds of lines of code. So what is not needed is not even called.
    """
    if _is_launched:
        _end_launch(worker)
        # Where a process ends without exit handlers, modules are not deleted either.
        atexit.register(_let_go, setup)
        try:
            if faulthandler is not None and not faulthandler.is_enabled():
                faulthandler.enable()
        except Exception:  # no stderr to write to
            pass
    if setup.environment is not None:
        change_environment(setup.environment)
    if setup.place != (None, None):
        setup.settle()
    random = sys.modules.get("numpy.random")
    if random is not None:
        _seed(random)
    # Keeps pages shared with the parent: the collector leaves objects from before the fork alone.
    if _FREEZES:
        gc.freeze()

    _tell_stack(_core._watch_stack)

    set_process(setup.current)

    if worker.is_interrupted:
        _forget_interrupt()
    try:
        if setup.runs_nothing and not importing.kept:
            tasks = worker.interruptible(worker.serve)
        else:
            tasks = worker.interruptible(_work, worker, setup)
    except Exception:
        # The task ended the worker, and the parent learns from the exit what was lost. Threads that
        # a task left behind must not delay the exit.
        threading._shutdown = _skip_shutdown  # type: ignore[attr-defined]
        raise
    finally:
        _core._watch_stack(-1)  # the interpreter is about to tear down what the stack is read from
    util.debug("worker exiting after %d tasks", tasks)
