"""CPython's tests in a process of their own, which may hang."""

import contextlib
import json
import os
import signal
import subprocess


def run(command, directory, results, env, seconds):
    """Run the command in the new folder; {test: its line in the file of results} and the output."""
    directory.mkdir()
    process = subprocess.Popen(
        command,
        cwd=directory,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        printed, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGABRT)  # faulthandler prints the stack of each thread
        process.wait()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        printed, _ = process.communicate()
        printed += f"\nended after {seconds} seconds\n"
    if process.returncode != 0:
        printed += f"\nexit code {process.returncode}\n"
    lines = results.read_text().splitlines() if results.exists() else []
    return {line["test"]: line for line in map(json.loads, lines)}, printed
