"""Names that others chose, for terminals and logs: what is no visible character is shown as an escape.

A name may hold anything: sequences that write over a terminal's lines, new lines that forge rows, marks that turn the order
of characters around. What people read goes through here; what programs read (JSON, attributes) stays as it is.
"""

from __future__ import annotations

LONGEST_NAME = 120
"""Characters of a name that are shown."""


def printable(text: object, most: int | None = LONGEST_NAME) -> str:
    r"""One line of visible characters.

    Parameters
    ----------
    text : object
        What is shown: ``str(text)``.
    most : int or None
        Characters, after which it is cut; None: never.

    Examples
    --------
    >>> printable("energy\x1b[2J\nforged row")
    'energy\\x1b[2J\\nforged row'
    >>> printable("x" * 9, 5)
    'xxxx…'
    """
    line = str(text)
    if most is not None and len(line) > most:
        line = line[: most - 1] + "…"
    if line.isprintable():
        return line
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)


def printable_lines(text: object) -> str:
    r"""The same for a text of ours that quotes names: its lines stay.

    Examples
    --------
    >>> printable_lines("two\nlines of \x1b[1m")
    'two\nlines of \\x1b[1m'
    """
    return "\n".join(printable(line, None) for line in str(text).split("\n"))
