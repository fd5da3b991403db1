"""Measures the encoding alone, without processes: ns per object, compared with other libraries.

python -m benchmarks.codec [KIND ...]

Each number is the median of rounds in which all codecs take turns. "body" is a list of 1,000
objects, "alone" a single one. pickle is always measured; msgspec, which gets the types in advance,
and pyfory if they are installed.
"""

import argparse
import pickle
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.kinds import KINDS, Named, Record
from cpool import _core

COUNT = 1000
ROUNDS = 9

Codec = tuple[Callable[[Any], Any], Callable[[Any], Any]]


def encode(value: Any) -> bytes:
    data = _core._encode(value)
    return pickle.dumps(value, 5) if data is None else data


def decode(data: bytes) -> Any:
    return pickle.loads(data) if data[0] == 0x80 else _core._decode(data)


def msgspec_codec(kind: str) -> Codec | None:
    """The msgspec codec for kinds whose types can be declared, or None."""
    types: dict[str, Any] = {"dataclass": Record, "named_tuple": Named}
    try:
        import msgspec
    except ImportError:
        return None
    if kind not in types:
        return None
    decoder = msgspec.msgpack.Decoder(list[types[kind]])
    return msgspec.msgpack.Encoder().encode, decoder.decode


def pyfory_codec() -> Codec | None:
    try:
        import pyfory
    except ImportError:
        return None
    fory = pyfory.Fory(xlang=False, ref=True, strict=False)
    return fory.serialize, fory.deserialize


def codecs(kind: str) -> Iterator[tuple[str, Codec]]:
    yield "cpool", (encode, decode)
    yield "pickle", (lambda value: pickle.dumps(value, 5), pickle.loads)
    for name, codec in (("msgspec", msgspec_codec(kind)), ("pyfory", pyfory_codec())):
        if codec is not None:
            yield name, codec


def seconds(function: Callable[[Any], Any], value: Any) -> float:
    start = time.perf_counter()
    function(value)
    return time.perf_counter() - start


def measure(kind: str, items: list[Any]) -> dict[str, tuple[float, float]]:
    """Return ns for each object, to encode and to decode, by codec."""
    found = dict(codecs(kind))
    data = {}
    for name, codec in list(found.items()):
        try:
            data[name] = codec[0](items)
            codec[1](data[name])
        except Exception as error:  # pyfory cannot send everything
            print(f"{kind}: {name} raised {type(error).__name__}: {error!s:.60}")
            del found[name]
    times: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in found}
    for _ in range(ROUNDS):
        for name, (put, get) in found.items():
            times[name][0].append(seconds(put, items))
            times[name][1].append(seconds(get, data[name]))
    scale = 1e9 / len(items)
    return {
        name: (statistics.median(put) * scale, statistics.median(get) * scale)
        for name, (put, get) in times.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("kinds", nargs="*", choices=[[], *(kind.name for kind in KINDS)])
    chosen = parser.parse_args().kinds
    print(f"{'ns: encode + decode':<20}" + f"{'body':>30}{'alone':>30}")
    for kind in KINDS:
        if chosen and kind.name not in chosen:
            continue
        body = measure(kind.name, [kind.make(number) for number in range(COUNT)])
        alone = measure("", [kind.make(1)])
        for name in body:
            row = f"{kind.name:<20}" if name == "cpool" else " " * 20
            row += f"{name:>10}"
            for found in (body, alone):
                if name in found:
                    put, get = found[name]
                    row += f"{put:>9,.0f} + {get:<9,.0f}"
            print(row)


if __name__ == "__main__":
    main()
