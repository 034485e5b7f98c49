"""How text looks: tree lines and marks with ASCII twins, columns, colours.

- Colour never carries meaning alone: NO_COLOR and a pipe lose nothing.
"""

from collections.abc import Sequence
from typing import NamedTuple

_COLORS = {"good": "32", "bad": "31", "busy": "33", "dim": "2", "strong": "1"}
_MARKS = {
    "good": ("✔", "+"),
    "bad": ("✖", "x"),
    "busy": ("◌", "~"),
    "wait": ("‖", "="),
    "ask": ("?", "?"),
    "plan": ("•", "."),
}
_TONES = {
    "good": "good",
    "bad": "bad",
    "busy": "busy",
    "wait": "busy",
    "ask": "busy",
    "plan": "dim",
}


class Cell(NamedTuple):
    """A piece of text with a tone: good, bad, busy, dim, strong, or none."""

    text: str
    tone: str = ""


class Paint(NamedTuple):
    """What the terminal can show."""

    unicode: bool = True
    color: bool = False

    def branch(self, *, last: bool) -> str:
        """Return the start of a tree line."""
        if self.unicode:
            return "└─ " if last else "├─ "
        return "`- " if last else "|- "

    def trunk(self, *, last: bool) -> str:
        """Return what stands below a tree line, before its children."""
        if last:
            return "   "
        return "│  " if self.unicode else "|  "

    def mark(self, kind: str, word: str) -> Cell:
        """Return ``word`` behind its mark."""
        return Cell(f"{_MARKS[kind][not self.unicode]} {word}", _TONES[kind])

    def text(self, cell: Cell | str) -> str:
        """Return the cell as it goes to the terminal."""
        if isinstance(cell, str):
            return cell
        if not (self.color and cell.tone):
            return cell.text
        return f"\x1b[{_COLORS[cell.tone]}m{cell.text}\x1b[0m"

    def clean(self, text: str) -> str:
        """Return ``text`` without control characters, and in ASCII where nothing else can be shown.

        Messages come from other machines: an escape sequence in one may not reach the terminal.
        """
        shown = printable(text)
        return shown if self.unicode else shown.encode("ascii", "replace").decode()


def printable(text: str) -> str:
    """Return ``text`` without control characters."""
    return "".join(c if c.isprintable() else " " for c in text)


def columns(rows: Sequence[Sequence[Cell | str]], *, paint: Paint, gap: int = 2) -> list[str]:
    """Return the rows as lines whose columns line up; the last cell of a row is never padded."""
    widths: list[int] = []
    for row in rows:
        for index, cell in enumerate(row[:-1]):
            width = len(cell if isinstance(cell, str) else cell.text)
            if index == len(widths):
                widths.append(width)
            widths[index] = max(widths[index], width)
    lines = []
    for row in rows:
        shown = ""
        for index, cell in enumerate(row):
            width = len(cell if isinstance(cell, str) else cell.text)
            pad = 0 if index == len(row) - 1 else widths[index] - width + gap
            # A column that is empty in every row takes no room at all.
            if index < len(widths) and not widths[index]:
                pad = 0
            shown += paint.text(cell) + " " * pad
        lines.append(shown.rstrip())
    return lines


def wrap(text: str, *, width: int) -> list[str]:
    """Return ``text`` in lines of at most ``width`` characters, cut between words."""
    lines, line = [], ""
    for word in text.split():
        if line and len(line) + 1 + len(word) > width:
            lines.append(line)
            line = word
        else:
            line = f"{line} {word}" if line else word
    return [*lines, line] if line else lines
