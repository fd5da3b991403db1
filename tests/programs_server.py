"""A process that forks a test's program instead of starting an interpreter for it.

A new interpreter that imports the pool takes 80 ms of processor time, and a second under
AddressSanitizer. A fork of one that has imported the pool takes a few. The program cannot tell: it
is `__main__`, with its own arguments, output, session and working directory, and it ends as an
interpreter ends.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import multiprocessing.process
import os
import select
import selectors
import socket
import subprocess
import sys
import time
import types
from typing import Any


class Server:
    """The side of the tests."""

    def __init__(self, env: dict[str, str], cwd: str, *modules: str) -> None:
        """modules: those to import as well, if they are there."""
        self._env = env
        self._requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno()), *modules],
                env=env,
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                # Pipes, as programs have: the interpreter looks at what they are when it starts.
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )

    def changes(self, env: dict[str, str]) -> dict[str, str | None] | None:
        """The variables that differ from the server's; None if an interpreter or the package could
        have seen the difference before the program runs."""
        names = {name for name, _ in env.items() ^ self._env.items()}
        if any(name.startswith(("PYTHON", "CPOOL", "LD_")) for name in names):
            return None
        return {name: env.get(name) for name in names}

    def start(self, argv: list[str], cwd: str, env: dict[str, str | None]) -> Program:
        """Start the program argv[0] with the arguments argv[1:] and this changed environment."""
        (out, their_out), (err, their_err) = os.pipe(), os.pipe()
        end, their_end = socket.socketpair()
        theirs = [their_out, their_err, their_end.detach()]
        try:
            request = json.dumps([argv, cwd, env]).encode()
            socket.send_fds(self._requests, [request], theirs)
            answer = self._requests.recv(100)
            assert answer, "the server of programs has ended"
            pid = int(answer)
        finally:
            for fd in theirs:
                os.close(fd)
        return Program([sys.executable, *argv], pid, out, err, end)

    def close(self) -> None:
        # Not close() alone: a worker that a failed test has left has a copy.
        self._requests.shutdown(socket.SHUT_RDWR)
        self._requests.close()
        _, errors = self._process.communicate()
        assert (self._process.returncode, errors) == (0, b""), errors.decode()


class Program:
    """A started program: what the tests use of subprocess.Popen."""

    def __init__(self, args: list[str], pid: int, out: int, err: int, end: socket.socket) -> None:
        self.args = args
        self.pid = pid
        self.stdin = None
        self.stdout = open(out, encoding="utf-8")  # noqa: SIM115
        self.stderr = open(err, encoding="utf-8")  # noqa: SIM115
        self.returncode: int | None = None
        self._end = end

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *_: object) -> None:
        self.stdout.close()
        self.stderr.close()
        self.wait()

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            if not select.select([self._end], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
            self.returncode = int(self._end.recv(100))
            self._end.close()  # the server now lets go of the process id
        return self.returncode

    def poll(self) -> int | None:
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(9)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """All output that has not been read yet, once the last holder of the pipes has ended."""
        limit = None if timeout is None else time.monotonic() + timeout
        found: dict[Any, bytearray] = {self.stdout: bytearray(), self.stderr: bytearray()}
        with selectors.DefaultSelector() as selector:
            for file in found:
                selector.register(file, selectors.EVENT_READ, file)
            while selector.get_map():
                left = None if limit is None else limit - time.monotonic()
                ready = selector.select(left)
                if not ready and left is not None and left <= 0:
                    raise subprocess.TimeoutExpired(self.args, timeout or 0)
                for key, _ in ready:
                    if data := os.read(key.fd, 1 << 16):
                        found[key.fileobj] += data
                    else:
                        selector.unregister(key.fileobj)
                        key.data.close()
        self.wait(None if limit is None else max(limit - time.monotonic(), 0))
        out, err = (
            io.TextIOWrapper(io.BytesIO(data), encoding="utf-8").read() for data in found.values()
        )
        return out, err


def serve(requests: socket.socket) -> tuple[list[Any], list[int]] | None:
    """Fork for each request, and tell when a program has ended. Return a request in the forked
    process, and None in the server when the tests have ended."""
    selector = selectors.DefaultSelector()
    selector.register(requests, selectors.EVENT_READ, serve)
    while True:
        for key, _ in selector.select():
            if key.data is serve:
                data, fds, _, _ = socket.recv_fds(requests, 1 << 16, 3)
                if not data:
                    return None
                pid = os.fork()
                if pid == 0:
                    # Before the program's own descriptors have these numbers.
                    selector.close()
                    requests.close()
                    return json.loads(data), fds
                requests.send(b"%d" % pid)
                *outputs, end = fds
                for fd in outputs:
                    os.close(fd)
                selector.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, end))
            elif key.data[1] is not None:  # the program has ended
                pid, end = key.data
                selector.unregister(key.fd)
                os.close(key.fd)
                seen = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
                assert seen is not None
                code = seen.si_status if seen.si_code == os.CLD_EXITED else -seen.si_status
                with contextlib.suppress(BrokenPipeError):  # if nobody waits for the program
                    os.write(end, b"%d" % code)
                selector.register(end, selectors.EVENT_READ, (pid, None))
            else:  # the tests have seen the end: until now the process id was not given away
                selector.unregister(key.fd)
                os.close(key.fd)
                os.waitpid(key.data[0], 0)


def run(argv: list[str], cwd: str, env: dict[str, str | None], outputs: list[int]) -> None:
    """Run the program in this process as `python PATH` does, which prints its last exception."""
    import ctypes

    os.setsid()
    for number, fd in enumerate(outputs, start=1):
        os.dup2(fd, number)
    os.closerange(3, max(map(int, os.listdir("/proc/self/fd"))) + 1)
    for name, value in env.items():
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value
    os.chdir(cwd)
    multiprocessing.process.ORIGINAL_DIR = cwd  # type: ignore[attr-defined]
    sys.argv[:] = argv
    sys.orig_argv[1:] = argv
    sys.path[0] = os.path.dirname(os.path.abspath(argv[0]))
    sys.modules["__main__"] = types.ModuleType("__main__")
    c = ctypes.CDLL(None)
    c.fopen.restype = ctypes.c_void_p
    file = c.fopen(os.fsencode(argv[0]), b"rb")
    run_file = ctypes.pythonapi.PyRun_SimpleFileExFlags
    run_file.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int, ctypes.c_void_p]
    if (
        run_file(file, os.fsencode(argv[0]), 1, None) != 0
        and sys.last_type is not KeyboardInterrupt
    ):
        sys.exit(1)


if __name__ == "__main__":
    import ctypes  # noqa: F401 (for the programs)
    import gc

    import engine  # noqa: F401
    import gates  # noqa: F401
    import tasks  # noqa: F401

    for name in sys.argv[2:]:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    gc.collect()
    # For the programs as well: the collections at a program's end would write to each of these
    # objects, which took half of a short program's time.
    gc.freeze()
    found = serve(socket.socket(fileno=int(sys.argv[1])))
    if found is not None:
        (argv, cwd, env), outputs = found[0], found[1][:2]
        run(argv, cwd, env, outputs)
