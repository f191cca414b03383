"""`CallCancelledError`, apart from the other errors because its base is slow to import."""

from __future__ import annotations

import concurrent.futures

from betterbox._errors import BetterBoxError


class CallCancelledError(BetterBoxError, concurrent.futures.CancelledError):
    """The call was cancelled before it had an outcome. Also a `concurrent.futures.CancelledError`."""

    __module__ = "betterbox"
