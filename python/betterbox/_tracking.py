"""Which class is which, between processes: the identities of what travels by value.

The process that made a class is its home. A class gets an identity when it is first pickled there; every other process
builds a copy when the identity first arrives, and finds that copy when it arrives again. So a value that comes home is
an instance of the very class that it left with.
"""

from __future__ import annotations

import os
import weakref
from typing import Any, NamedTuple


class Identity(NamedTuple):
    """What is known of a class or another object that is kept once per process."""

    name: str
    at_home: bool
    """This process made it: what others say of it is not written into it."""
    told: set[str]
    """The attributes of a copy that its home has told."""


has_no_script = False
"""This process is a slot: names in its `__main__` are free for what comes from the script of its client."""

_of_object: dict[int, tuple[weakref.ref[Any], Identity]] = {}
_by_name: dict[str, weakref.ref[Any]] = {}


def identify(obj: Any) -> Identity:
    """The identity of `obj`; one that has none yet was made here."""
    known = _of_object.get(id(obj))
    return known[1] if known is not None else _note(obj, Identity(os.urandom(16).hex(), True, set()))


def find(name: str) -> Any:
    """What has this identity here; None if nothing has."""
    found = _by_name.get(name)
    return None if found is None else found()


def keep(name: str, obj: Any) -> None:
    """`obj` was built here for an identity that has arrived."""
    _note(obj, Identity(name, False, set()))


def _note(obj: Any, identity: Identity) -> Identity:
    key = id(obj)

    def forget(_: Any) -> None:  # runs before the id can be another object's
        _of_object.pop(key, None)
        if _by_name.get(identity.name) is entry[0]:
            del _by_name[identity.name]

    entry = weakref.ref(obj, forget), identity
    _by_name[identity.name] = entry[0]
    kept = _of_object.setdefault(key, entry)
    if kept is not entry:  # another thread was first
        _by_name.pop(identity.name, None)
    return kept[1]
