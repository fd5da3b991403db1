"""The limits: the least time that the machine needs for a case, in plain Python, fork and pipes.

A limit does not size chunks, keep the order, pass errors on or replace workers. So a pool can come
close to a limit but not beat it, except where cpool does in C what is Python here (above all in
`stream`).
"""

import io
import os
import pickle
import struct
from collections.abc import Callable
from typing import Any, BinaryIO, ClassVar

from benchmarks.cases import Work
from benchmarks.programs import Loop

LENGTH = struct.Struct("<Q")
NUMBER = struct.Struct("<q")
BATCH = 100


def send(file: BinaryIO, message: bytes) -> None:
    file.write(LENGTH.pack(len(message)))
    file.write(message)
    file.flush()


def receive(file: BinaryIO) -> bytes | None:
    """Read the next message; None at the end."""
    header = file.read(LENGTH.size)
    if not header:
        return None
    message = file.read(LENGTH.unpack(header)[0])
    return message


class Child:
    """A forked process with a pipe in each direction."""

    requests: BinaryIO
    replies: BinaryIO

    def __init__(self, serve: Callable[[BinaryIO, BinaryIO], None], others: list["Child"]) -> None:
        from_parent, to_child = os.pipe()
        from_child, to_parent = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                os.close(to_child)
                os.close(from_child)
                # Otherwise this child keeps their pipes open, and they never see end-of-file.
                for other in others:
                    other.requests.close()
                    other.replies.close()
                with (
                    os.fdopen(from_parent, "rb") as requests,
                    os.fdopen(to_parent, "wb") as replies,
                ):
                    serve(requests, replies)
                code = 0
            finally:
                os._exit(code)
        os.close(from_parent)
        os.close(to_parent)
        self.requests = os.fdopen(to_child, "wb")
        self.replies = os.fdopen(from_child, "rb")

    def answer(self) -> bytes:
        reply = receive(self.replies)
        if reply is None:
            raise RuntimeError(f"the limit's process {self.pid} ended early")
        return reply

    def close(self) -> None:
        self.requests.close()
        self.replies.close()
        os.waitpid(self.pid, 0)


class Limit:
    """The children and the work. A subclass defines the messages."""

    about: ClassVar[str]

    def __init__(self, work: Work) -> None:
        self.work = work
        self.children: list[Child] = []
        for _ in range(self.count_children()):
            self.children.append(Child(self.serve, self.children))

    def count_children(self) -> int:
        return self.work.workers

    def call(self, item: Any) -> Any:
        return self.work.function(*item) if self.work.star else self.work.function(item)

    def serve(self, requests: BinaryIO, replies: BinaryIO) -> None:
        raise NotImplementedError

    def run(self, work: Work) -> list[Any]:
        raise NotImplementedError

    def close(self) -> None:
        for child in self.children:
            child.requests.close()  # all of them first: they exit in parallel
        for child in self.children:
            child.close()


class PingPong(Limit):
    about = "eight bytes to a forked process and eight back, one round trip after another"

    def count_children(self) -> int:
        return 1

    def serve(self, requests: BinaryIO, replies: BinaryIO) -> None:
        source, target = requests.fileno(), replies.fileno()
        while message := os.read(source, NUMBER.size):
            os.write(target, NUMBER.pack(self.call(NUMBER.unpack(message)[0])))

    def run(self, work: Work) -> list[Any]:
        (child,) = self.children
        source, target = child.replies.fileno(), child.requests.fileno()
        results = []
        for item in work.items:
            os.write(target, NUMBER.pack(item))
            results.append(NUMBER.unpack(os.read(source, NUMBER.size))[0])
        return results


class PingPongOfItems(PingPong):
    about = "the number of an item to a forked process that has it, and back, one after another"

    def call(self, item: int) -> int:
        self.work.function(self.work.items[item])
        return item

    def run(self, work: Work) -> list[Any]:
        (child,) = self.children
        source, target = child.replies.fileno(), child.requests.fileno()
        results = []
        for number in range(len(work.items)):
            os.write(target, NUMBER.pack(number))
            results.append(work.items[NUMBER.unpack(os.read(source, NUMBER.size))[0]])
        return results


class Stream(Limit):
    about = "one pickle each way for each item, a hundred in one write, to forked processes in turn"

    def serve(self, requests: BinaryIO, replies: BinaryIO) -> None:
        while (message := receive(requests)) is not None:
            batch, results = io.BytesIO(message), []
            while batch.tell() < len(message):
                results.append(pickle.dumps(self.call(pickle.load(batch))))
            send(replies, b"".join(results))

    def run(self, work: Work) -> list[Any]:
        results: list[Any] = []
        # Read the last answer of a child before sending it the next batch: otherwise both could
        # block on a full pipe.
        for turn, start in enumerate(range(0, len(work.items), BATCH)):
            child = self.children[turn % len(self.children)]
            if turn >= len(self.children):
                self.read_into(results, child)
            batch = work.items[start : start + BATCH]
            send(child.requests, b"".join([pickle.dumps(item) for item in batch]))
        batches = -(-len(work.items) // BATCH)
        for turn in range(max(0, batches - len(self.children)), batches):
            self.read_into(results, self.children[turn % len(self.children)])
        return results

    @staticmethod
    def read_into(results: list[Any], child: Child) -> None:
        message = child.answer()
        batch = io.BytesIO(message)
        while batch.tell() < len(message):
            results.append(pickle.load(batch))


class Split(Limit):
    about = "one pickle with an equal share of the items for each forked process, and one back"

    def serve(self, requests: BinaryIO, replies: BinaryIO) -> None:
        while (message := receive(requests)) is not None:
            function, items = pickle.loads(message)
            if self.work.star:
                results = [function(*item) for item in items]
            else:
                results = [function(item) for item in items]
            send(replies, pickle.dumps(results))

    def run(self, work: Work) -> list[Any]:
        count = len(self.children)
        for turn, child in enumerate(self.children):
            send(child.requests, pickle.dumps((work.function, work.items[turn::count])))
        results: list[Any] = [None] * len(work.items)
        for turn, child in enumerate(self.children):
            results[turn::count] = pickle.loads(child.answer())
        return results


class Serial(Limit):
    about = "the calls in a plain loop of one thread"

    def count_children(self) -> int:
        return 0

    def run(self, work: Work) -> list[Any]:
        return [self.call(item) for item in work.items]


class WithoutPool(Serial):
    about = "the same program with a plain loop in place of a pool"

    def run(self, work: Work) -> list[Any]:
        return list(work.function(Loop()))


class Copy(Limit):
    about = "the bytes copied once for the way in and once for the way out"

    def count_children(self) -> int:
        return 0

    def run(self, work: Work) -> list[Any]:
        return [bytes(bytearray(item)) for item in work.items]


def bytes_of(value: Any) -> memoryview | None:
    """The memory of bytes, of an array, or of the only block of a DataFrame. None: it has none."""
    if isinstance(value, str):
        return memoryview(value.encode("latin-1"))
    if hasattr(value, "to_numpy"):
        value = value.to_numpy(copy=False).T
    try:
        return memoryview(value).cast("B")
    except TypeError:
        return None


class WarmCopy(Limit):
    about = "the call, and one copy of its large data into memory that is in use already"

    def __init__(self, work: Work) -> None:
        super().__init__(work)
        # The characters of a string are bytes only after an encoding, which is not measured.
        self.sources = [bytes_of(item) for item in work.items]
        sizes = [source.nbytes for source in self.sources if source is not None]
        self.room = bytearray(max(sizes, default=0))

    def count_children(self) -> int:
        return 0

    def copy(self, source: memoryview) -> None:
        if len(self.room) < source.nbytes:
            self.room = bytearray(source.nbytes)  # in the first round, which does not count
        memoryview(self.room)[: source.nbytes] = source

    def run(self, work: Work) -> list[Any]:
        results = []
        for item, source in zip(work.items, self.sources, strict=True):
            result = self.call(item)
            data = source if source is not None else bytes_of(result)
            if data is not None:
                self.copy(data)
            results.append(result)
        return results


LIMITS: dict[str, type[Limit]] = {
    "ping_pong": PingPong,
    "ping_pong_items": PingPongOfItems,
    "stream": Stream,
    "split": Split,
    "serial": Serial,
    "loop": WithoutPool,
    "copy": Copy,
    "warm_copy": WarmCopy,
}
