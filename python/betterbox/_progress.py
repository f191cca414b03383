"""A progress bar on stderr: tqdm's on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from time import monotonic
from typing import Any

from betterbox._printable import printable

_LINE_SECONDS = 5.0


class Bar:
    """Shows how far a call is.

    Parameters
    ----------
    label : str
        What is shown in front.
    """

    def __init__(self, label: str) -> None:
        self.label = printable(label)
        self._bar: Any = None
        self._closed = False
        self._last_line = monotonic()
        self._last_tenth = 0
        self._terminal = sys.stderr is not None and sys.stderr.isatty()
        if self._terminal:
            try:
                from tqdm import tqdm
            except ImportError:
                self._terminal = False
            else:
                self._bar = tqdm(desc=self.label, unit="item", dynamic_ncols=True, file=sys.stderr)

    def show(self, done: int, total: int | None, finished: bool) -> None:
        """Bring the display up to date."""
        if self._closed:
            return
        if self._bar is not None:
            self._bar.total = total
            self._bar.update(done - self._bar.n)
        else:
            self._line(done, total, finished)
        if finished:
            self._closed = True
            if self._bar is not None:
                self._bar.close()

    def _line(self, done: int, total: int | None, finished: bool) -> None:
        tenth = 10 * done // total if total else 0
        now = monotonic()
        if not finished and tenth == self._last_tenth and now - self._last_line < _LINE_SECONDS:
            return
        self._last_tenth, self._last_line = tenth, now
        share = f" ({100 * done // total} %)" if total else ""
        try:
            print(f"{self.label}: {done} of {'?' if total is None else total}{share}", file=sys.stderr, flush=True)
        except (OSError, ValueError):
            self._closed = True
