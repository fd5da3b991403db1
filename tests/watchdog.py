"""The suite's last deadline: a process that aborts the tests when a test does not end.

A test that handles its deadline's signal fails normally. A test stuck in C does not handle signals.
A thread could watch as well, but then every fork of the suite would be a fork beside a thread.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys


class Watchdog:
    def __init__(self) -> None:
        command = [sys.executable, "-I", __file__, str(os.getpid())]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE)

    def expect(self, seconds: float, what: str = "") -> None:
        """Abort, with the tracebacks of all threads, unless called again within that many seconds.

        Zero means no deadline. `what` is said then.
        """
        assert self._process.stdin is not None
        self._process.stdin.write(f"{seconds} {what}\n".encode())
        self._process.stdin.flush()

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


def watch(pid: int) -> None:
    poll = select.poll()
    poll.register(0, select.POLLIN)
    limit, what = 0.0, ""
    while poll.poll(limit * 1000 or None):
        data = os.read(0, 1 << 16)  # as much as a pipe holds, or the last line may be cut
        if not data:
            return
        seconds, _, what = data.decode().splitlines()[-1].partition(" ")
        limit = float(seconds)
    # Or nobody would know whose signal it was.
    print(f"\n{what} has not ended in {limit:.0f} seconds: SIGABRT", file=sys.stderr, flush=True)
    os.kill(pid, signal.SIGABRT)


if __name__ == "__main__":
    watch(int(sys.argv[1]))
