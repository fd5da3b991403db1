"""A program whose main module starts a server at its top level, without the guard."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import scripts

pytestmark = pytest.mark.better


@pytest.fixture(params=["fork", "spawn", "forkserver"])
def method(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


# The workers are asked for in a request, as a server does. The one client ends the server.
SERVER = """
import multiprocessing, os, socket, socketserver, sys, threading
import cpool

method, kind, begun = sys.argv[1:]
with open(begun, "a") as file:
    file.write("begun\\n")

def square(x):
    return x * x

class Handler(socketserver.StreamRequestHandler):
    def handle(self):
        context = multiprocessing.get_context(method)
        try:
            if kind == "Pool":
                with cpool.Pool(1, context=context) as pool:
                    answer = pool.apply(square, (3,))
            else:
                with cpool.ProcessPoolExecutor(1, mp_context=context) as executor:
                    answer = executor.submit(square, 3).result()
        except Exception as error:
            answer = f"{type(error).__name__} {isinstance(error, RuntimeError)}: {error}"
        self.wfile.write(str(answer).encode())

def ask(server):
    with socket.create_connection(server.server_address) as client:
        found = b"".join(iter(lambda: client.recv(1000), b""))
    print(found.decode())
    server.shutdown()

server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
server.daemon_threads = True
threading.Thread(target=ask, args=(server,)).start()
server.serve_forever()
server.server_close()
"""


@pytest.mark.parametrize("kind", ["Pool", "ProcessPoolExecutor"])
def test_no_second_server_starts(tmp_path: Path, method: str, kind: str) -> None:
    begun = tmp_path / "begun"
    done: Any = scripts.run_source(tmp_path, SERVER, method, kind, begun)
    if method == "fork":
        assert (done.stdout, begun.read_text()) == ("9\n", "begun\n"), done.stderr
        return
    assert re.match(r"\w+ True: ", done.stdout), (done.stdout, done.stderr)
    told = done.stdout + done.stderr  # a fork server's own error is on stderr
    assert "was about to start a second server, on ('127.0.0.1'," in told
    assert "    if __name__ == '__main__':\n" in told


HARMLESS = """
import multiprocessing, sys
sys.path.insert(0, sys.argv[2])
import listens, cpool

def port(_):
    return listens.port > 0

if __name__ == "__main__":
    with cpool.Pool(1, context=multiprocessing.get_context(sys.argv[1])) as pool:
        print(pool.map(port, [0]), pool.apply(listens.again))
"""

LISTENS = """
import socket

def again():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1] > 0

with socket.create_server(("127.0.0.1", 0)) as server:
    port = server.getsockname()[1]
"""


def test_a_module_may_listen_and_so_may_a_task(tmp_path: Path, method: str) -> None:
    (tmp_path / "listens.py").write_text(LISTENS)
    found = scripts.output(tmp_path, HARMLESS, method, str(tmp_path))
    assert found == ["[True] True"]
