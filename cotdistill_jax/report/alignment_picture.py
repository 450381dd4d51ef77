"""Teacher tokens over student pieces, `spans` above `dtw`, on the characters of their common text.

Upper boxes are teacher tokens, lower ones student pieces, lines join what a rule aligned. A piece with a distribution of the teacher
is blue, fainter the less mass arrived; a one-hot piece is orange and hatched.
"""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from cotdistill_jax.report.alignment_links import Alignment
from cotdistill_jax.report.figures import GREY, ORANGE, SKY, Theme
from cotdistill_jax.report.text_lines import MONOSPACE, Line, split_lines, visible
from cotdistill_jax.report.token_rows import PlacedToken

_LINE_CHARS = 72
_CHAR_INCHES, _BAND_INCHES = 0.135, 0.95
_TOKENS_Y, _PIECES_Y, _BOX = 1.62, 0.0, 0.62
_FONT_SIZE = 8.5


def draw_alignment(text: str, alignments: Sequence[Alignment], theme: Theme) -> Figure:
    """Returns the picture of one record.

    Args:
        text: the record's text.
        alignments: of that record, one per method.
        theme: colours.
    """
    lines = split_lines(text.rstrip(), _LINE_CHARS, newline_first=True)
    rows = len(lines) * len(alignments)
    size = (_LINE_CHARS * _CHAR_INCHES + 1.1, rows * _BAND_INCHES + 0.7)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(rows, 1, squeeze=False).ravel()
    for number, line in enumerate(lines):
        for band, aligned in enumerate(alignments):
            _draw_band(axes[number * len(alignments) + band], line, text, aligned, theme)
    handles = [
        Patch(facecolor="none", edgecolor=theme.ink, label="teacher token (above)"),
        Patch(facecolor=SKY, label="piece with the teacher's distribution (fainter: less mass)"),
        Patch(facecolor=ORANGE, hatch="////", edgecolor="black", label="one-hot piece"),
        Line2D([], [], color=GREY, label="aligned"),
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=4, fontsize=8)
    counts = ", ".join(
        f"{a.method}: rejected ({a.rejected})"
        if a.rejected
        else f"{a.method}: {a.num_one_hot} of {len(a.pieces)} pieces one-hot"
        for a in alignments
    )
    figure.supxlabel(counts, fontsize=9)
    return figure


def _draw_band(axis: Axes, line: Line, text: str, aligned: Alignment, theme: Theme) -> None:
    axis.set_xlim(0, _LINE_CHARS)
    axis.set_ylim(_PIECES_Y - 0.12, _TOKENS_Y + _BOX + 0.12)
    axis.set_xticks([])
    axis.set_yticks([])
    for spine in axis.spines.values():
        spine.set_visible(False)
    axis.set_ylabel(aligned.method, rotation=0, ha="right", va="center")
    for token in aligned.tokens:
        _box(axis, line, text, token.start, token.end, _TOKENS_Y, theme, "none")
    for piece in aligned.pieces:
        color = _fainter(SKY, piece.kept) if piece.how.soft else ORANGE
        drawn = _box(
            *(axis, line, text, piece.start, piece.end, _PIECES_Y, theme, color),
            hatched=not piece.how.soft,
        )
        for link in piece.links if drawn else ():
            _link(axis, line, piece.start, piece.end, aligned.tokens[link])


def _box(
    axis: Axes,
    line: Line,
    text: str,
    start: int,
    end: int,
    y: float,
    theme: Theme,
    color: str | tuple[float, ...],
    hatched: bool = False,
) -> bool:
    """Draws a box over the characters it stands for and returns whether any of them is in this line."""
    left, right = max(start, line.start), min(end, line.end)
    if left >= right:
        return False
    x = left - line.start
    size = (right - left - 0.1, _BOX)
    axis.add_patch(Rectangle((x + 0.05, y), *size, facecolor=color, lw=0))
    edge = Rectangle((x + 0.05, y), *size, fill=False, ec=theme.ink, lw=0.8)
    axis.add_patch(edge)
    if hatched:
        axis.add_patch(
            Rectangle((x + 0.05, y), *size, fill=False, ec="black", lw=0, hatch="////", alpha=0.35)
        )
    axis.text(
        x + (right - left) / 2,
        y + _BOX / 2,
        visible(text[left:right]),
        ha="center",
        va="center",
        family=MONOSPACE,
        fontsize=_FONT_SIZE,
        color=theme.ink if color == "none" else "black",
        parse_math=False,
    )
    return True


def _fainter(color: str, amount: float) -> tuple[float, ...]:
    """Returns a colour mixed with white, so that black text stays readable on it; `amount` 1 leaves it as it is."""
    return tuple(1.0 - (0.2 + 0.8 * amount) * (1.0 - part) for part in to_rgb(color))


def _link(axis: Axes, line: Line, start: int, end: int, token: PlacedToken) -> None:
    top, bottom = _TOKENS_Y, _PIECES_Y + _BOX
    below = (max(start, line.start) + min(end, line.end)) / 2 - line.start
    above = (token.start + token.end) / 2 - line.start
    if token.end > line.start and token.start < line.end:
        above = (max(token.start, line.start) + min(token.end, line.end)) / 2 - line.start
    axis.plot([above, below], [top, bottom], color=GREY, linewidth=1.3, clip_on=True)
