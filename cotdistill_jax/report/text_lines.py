"""Text set in a font of one width, so that pictures can stand on its characters."""

import dataclasses
import re

from matplotlib.axes import Axes

from cotdistill_jax.report.figures import Theme

MONOSPACE = "DejaVu Sans Mono"
_FONT_SIZE = 9
_BREAK = re.compile(r"\s")


@dataclasses.dataclass(frozen=True)
class Line:
    """The characters [start, end) of a text that stand in one line; `ends_step` where the text has a newline there."""

    start: int
    end: int
    ends_step: bool


def split_lines(text: str, width: int, newline_first: bool = False) -> list[Line]:
    """Returns the lines of a text, broken at newlines, and before the last blank where they are longer than `width`.

    Args:
        text: any text.
        width: the most characters of a line, at least 2.
        newline_first: whether a newline begins a line (as in a student's pieces) and does not end one.

    Example: `split_lines("ab cd\\nef", 4)` covers "ab", " cd\\n" and "ef"; the second ends a step.
    """
    lines: list[Line] = []
    start = 0
    while start < len(text):
        newline = text.find("\n", start + newline_first, start + width)
        if newline >= 0:
            end = newline + (not newline_first)
        elif len(text) - start <= width:
            end = len(text)
        else:
            blanks = [m.start() for m in _BREAK.finditer(text, start + 1, start + width)]
            end = blanks[-1] if blanks else start + width
        lines.append(Line(start, end, newline >= 0))
        start = end
    return lines


def visible(text: str) -> str:
    """Returns a text with its white space made visible: "▁" for a blank, "↵" for a newline, "→" for a tab.

    Example: `visible(" a\\n") == "▁a↵"`.
    """
    return text.replace(" ", "▁").replace("\n", "↵").replace("\t", "→")


def write_text(axis: Axes, line: Line, text: str, theme: Theme, below: float) -> None:
    """Writes the characters of a line under an axis, each in the middle of its place.

    Args:
        axis: its x coordinate counts the characters of the line.
        line: which characters.
        text: all characters.
        theme: colours.
        below: distance from the axis, in units of y.
    """
    for place, char in enumerate(text[line.start : line.end]):
        shown = "↵" if char == "\n" else char
        axis.text(
            place + 0.5,
            -below,
            shown,
            ha="center",
            va="top",
            family=MONOSPACE,
            fontsize=_FONT_SIZE,
            parse_math=False,
            clip_on=False,
            alpha=0.6 if char == "\n" else 1.0,
        )
