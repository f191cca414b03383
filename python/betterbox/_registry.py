"""What this process knows of its classes: their one instance each, and whether decorators act or only record.

Kept outside the classes, so that those can be pickled by value.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

instances: dict[type, Any] = {}

recording = False
"""True in slots, in their template and under `betterbox serve`: `serve_box` and `use_box` only note their arguments."""


def check_port(port: object) -> int:
    """`port` if it is one: a whole number from 1 to 65535."""
    if isinstance(port, bool) or not isinstance(port, int):
        raise TypeError(f"a port is a whole number from 1 to 65535, not {port!r}")
    if not 1 <= port <= 65535:
        raise ValueError(f"port {port} is out of range: ports go from 1 to 65535")
    return port
