"""What this process knows of its classes: their one instance each, and whether decorators act or only record.

Kept outside the classes, so that those can be pickled by value.
"""

from __future__ import annotations

__tracebackhide__ = True  # pytest shows the user's lines

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

instances: dict[type, Any] = {}


def defined_again(old: type, new: type) -> bool:
    """True if `new` is what became of `old` when its definition ran again: a cell of a notebook, a module reloaded.

    A class made in a function is another one each time.
    """
    same_name = old.__module__ == new.__module__ and old.__qualname__ == new.__qualname__
    return old is not new and same_name and "<locals>" not in new.__qualname__


def takes_the_place_of(new: type, port: int, old: type, old_port: int) -> bool:
    """True if serving `new` is to replace what is served of `old`: defined again at its port, or with its saved state."""
    state = getattr(new, "__betterbox_persist__", None)
    same_state = state is not None and state[0] == getattr(old, "__betterbox_persist__", (None,))[0]
    return defined_again(old, new) and (port == old_port or same_state)


def register(cls: type, instance: Any) -> None:
    """Make `instance` the one of its class, and of what that was before it was defined again."""
    for old in [old for old in list(instances) if defined_again(old, cls)]:
        del instances[old]
    instances[cls] = instance

recording = False
"""True in slots, in their template and under `betterbox serve`: `serve_box` and `use_box` only note their arguments."""


def check_port(port: object) -> int:
    """`port` if it is one: a whole number from 1 to 65535."""
    if isinstance(port, bool) or not isinstance(port, int):
        raise TypeError(f"a port is a whole number from 1 to 65535, not {port!r}")
    if not 1 <= port <= 65535:
        raise ValueError(f"port {port} is out of range: ports go from 1 to 65535")
    return port
