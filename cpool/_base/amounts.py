"""Amounts as programs write them: of memory, a number of bytes or "2GiB"; of time, seconds."""

from __future__ import annotations

import math
import operator

from .stdlib import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

__all__ = ["bytes_of", "seconds_of", "shown"]

_LONGEST_S = 1e9  # longer than any program runs

_UNITS = {
    unit + end: base**power
    for power, letter in enumerate(("", "k", "m", "g", "t"))
    for unit, base in ((letter, 1000), (f"{letter}i", 1024))
    for end in ("", "b")
}


def bytes_of(name: str, value: Any) -> int:
    """Convert the parameter `name` to bytes: an int of bytes, or a str like "500MB" or "2GiB".

    Raises `ValueError` for a str that does not parse and for an amount of 0 or less, `TypeError`
    for any other type.
    """
    if isinstance(value, bool):  # an int, but True is no byte
        raise TypeError(f'{name} must be bytes, or a text like "2GiB", not {value!r}')
    amount = _parse(name, value) if isinstance(value, str) else operator.index(value)
    if not 0 < amount < 2**63:
        raise ValueError(f"{name} must be more than 0 bytes, not {value!r}")
    return amount


def seconds_of(name: str, value: Any) -> float:
    """The parameter `name`, a number of seconds, with an upper limit that no program reaches.

    Raises `TypeError` for what is no number, `ValueError` for a nan of any type.
    """
    try:
        if isinstance(value, (str, bytes, bytearray)):  # which float() would take
            raise TypeError
        seconds = float(value)
    except TypeError:
        raise TypeError(f"{name} must be a number of seconds, not {value!r}") from None
    except OverflowError:  # an int beyond all floats
        seconds = _LONGEST_S if value > 0 else -_LONGEST_S
    except ValueError:  # Decimal("sNaN")
        seconds = math.nan
    if math.isnan(seconds):
        raise ValueError(f"{name} must be a number of seconds, not {value!r}")
    return min(seconds, _LONGEST_S)


def _parse(name: str, text: str) -> int:
    number = text.strip().rstrip("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
    unit = text.strip()[len(number) :]
    try:
        return int(float(number) * _UNITS[unit.lower()])
    except (KeyError, ValueError, OverflowError):
        raise ValueError(
            f'{name} must be an int of bytes or a str like "2GiB", not {text!r}'
        ) from None


def shown(amount: float) -> str:
    """Format an amount of bytes in MB, for messages."""
    return f"{amount / 1e6:.1f} MB"
