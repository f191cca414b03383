"""Amounts of resources as users write them: cores, memory, devices, and whatever else they name."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real
from operator import index
from typing import Any

Needs = tuple[int, int, int, list[tuple[str, int]]]
"""(cpus, memory, gpus, [(name, amount)]): bytes of memory, thousandths of the others, ascending names."""

_MOST = 1e12
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40, "p": 1 << 50}
_OWN_NAMES = ("cpus", "memory", "gpus")
_MOST_NAMES = 64
_LONGEST_NAME = 200


def thousandths(option: str, value: Any) -> int:
    """An amount, in whole thousandths.

    Raises
    ------
    ValueError
        If it is no number from 0, naming `option` and the value.

    Examples
    --------
    >>> thousandths("gpus", 0.5)
    500
    """
    try:
        number = -1.0 if isinstance(value, bool) or not isinstance(value, Real) else float(value)
    except OverflowError:
        number = -1.0
    if not 0 <= number <= _MOST:
        raise ValueError(f"{option} must be a number from 0, not {value!r}")
    milli = round(number * 1000)
    if number > 0 and milli == 0:
        raise ValueError(f"{option} must be 0 or at least 0.001, not {value!r}")
    return milli


def memory_bytes(option: str, value: Any) -> int:
    """An amount of memory, in bytes: a number of bytes, or a text with a unit (1K is 1024 bytes).

    Raises
    ------
    ValueError
        If it is neither, naming `option` and the value.

    Examples
    --------
    >>> memory_bytes("memory", "1.5G")
    1610612736
    """
    if hasattr(value, "__index__") and not isinstance(value, bool) and 0 <= index(value) < 1 << 63:
        return index(value)
    if isinstance(value, str):
        text = value.strip().lower()
        for ending in ("ib", "b"):
            text = text.removesuffix(ending)
        number, unit = (text[:-1], text[-1]) if text and text[-1].isalpha() else (text, "")
        try:
            amount = float(number) * _UNITS[unit]
        except (ValueError, KeyError):
            amount = -1.0
        if 0 <= amount < 1 << 63:
            return int(amount)
    raise ValueError(f'{option} must be a number of bytes from 0 or a text like "512M" or "2G", not {value!r}')


def named_amounts(option: str, value: Any) -> list[tuple[str, int]]:
    """Amounts of resources that users name, ascending by name.

    Examples
    --------
    >>> named_amounts("resources", {"licence": 1})
    [('licence', 1000)]
    """
    if not isinstance(value, Mapping):
        raise ValueError(f"{option} must map names to amounts, as in {{'licence': 1}}, not {value!r}")
    if len(value) > _MOST_NAMES:
        raise ValueError(f"{option} can hold {_MOST_NAMES} names, not {len(value)}")
    for name in value:
        if not isinstance(name, str) or not name or "=" in name or name != name.strip() or not is_text(name):
            raise ValueError(f"{option} must have names that are words, not {name!r:.60}")
        if len(name) > _LONGEST_NAME:
            raise ValueError(f"{option} must have names of at most {_LONGEST_NAME} characters, not {name!r:.60}")
        if name in _OWN_NAMES:
            raise ValueError(f"{option} cannot hold {name!r}: it is an option of its own, {name}={value[name]!r}")
    named = [(name, thousandths(f"{option}[{name!r}]", amount)) for name, amount in value.items()]
    return sorted(named, key=lambda pair: pair[0].encode())


def is_text(value: str) -> bool:
    """True if the bus can carry it: it has no half characters (lone surrogates)."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def worker_arguments(cpus: Any, memory: Any, gpus: Any, resources: Any) -> list[str]:
    """What a worker's program is told of its capacity; None is left to it.

    Parameters
    ----------
    gpus : number, sequence of str, or None
        How many devices, or which.
    """
    arguments: list[str] = []
    if cpus is not None:
        arguments += ["--cpus", f"{thousandths('cpus', cpus) / 1000:.12g}"]
    if memory is not None:
        arguments += ["--memory", str(memory_bytes("memory", memory))]
    if gpus is not None:
        arguments += ["--gpus", _devices(gpus)]
    for name, milli in named_amounts("resources", resources or {}):
        arguments += ["--resource", f"{name}={milli / 1000:.12g}"]
    return arguments


def _devices(gpus: Any) -> str:
    if isinstance(gpus, bool):
        raise ValueError(f"gpus must be a number of devices or a list of them, not {gpus!r}")
    if isinstance(gpus, int) and gpus >= 0:
        return str(gpus)
    if isinstance(gpus, str):
        devices = [device.strip() for device in gpus.split(",")]
    else:
        try:
            devices = [str(device) for device in gpus]
        except TypeError:
            devices = [""]
    if not all(device and "," not in device for device in devices) or len(set(devices)) < len(devices):
        raise ValueError(f"gpus must be a number of devices or a list of different ones, not {gpus!r}")
    # One device by its number reads like a count of them, so a list always has a comma.
    return ",".join(devices) + ("," if len(devices) == 1 else "")
