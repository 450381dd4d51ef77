"""The probability flow: a bar per token over the text it wrote, the 0.5 line, and a mark where a step of the rationale ends.

The text runs below the bars in a font of one width, so a bar stands on the characters of its token and needs no label. The bars
of several models that wrote, or were shown, the same text stand above each other on the same characters.
"""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from cotdistill_jax.report.figures import BLUE, GREY, ORANGE, VERMILION, Theme
from cotdistill_jax.report.text_lines import Line, split_lines, write_text
from cotdistill_jax.report.token_rows import PlacedToken

LIKELY = 0.5
_LINE_CHARS, _LEAST_CHARS = 88, 66  # the legend needs the room of 66
_BAND_INCHES, _TEXT_INCHES, _CHAR_INCHES = 0.62, 0.3, 0.09


def draw_flow(text: str, models: Mapping[str, Sequence[PlacedToken]], theme: Theme) -> Figure:
    """Returns the picture of one text.

    Args:
        text: the rationale.
        models: per model name its tokens, placed on the text.
        theme: colours.
    """
    lines = split_lines(text.rstrip(), _LINE_CHARS)
    bands = len(models)
    height = len(lines) * (bands * _BAND_INCHES + _TEXT_INCHES) + 0.6
    columns = max(_LEAST_CHARS, *(line.end - line.start for line in lines))
    figure = Figure(
        figsize=(columns * _CHAR_INCHES + 1.4, height),
        layout=ConstrainedLayoutEngine(h_pad=0.02, hspace=0.0),
    )
    axes = figure.subplots(len(lines) * bands, 1, squeeze=False).ravel()
    for number, line in enumerate(lines):
        for band, (name, tokens) in enumerate(models.items()):
            axis = axes[number * bands + band]
            _draw_band(axis, line, tokens, theme)
            axis.set_xlim(0, columns + 0.5)
            axis.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
            if band == bands - 1:
                write_text(axis, line, text, theme, below=0.12)
    _add_legend(figure, theme)
    return figure


def _draw_band(axis: Axes, line: Line, tokens: Sequence[PlacedToken], theme: Theme) -> None:
    """Draws the bars of one model over one line of text."""
    for token in tokens:
        start, end = max(token.start, line.start), min(token.end, line.end)
        if start >= end:
            continue
        prob = token.row.prob
        color = GREY if prob is None else BLUE if prob >= LIKELY else VERMILION
        height = 1.0 if prob is None else prob
        axis.bar(
            start - line.start + 0.06,
            height,
            end - start - 0.12,
            align="edge",
            color=color,
            hatch="///" if prob is None else None,
            alpha=0.3 if prob is None else 1.0,
        )
    axis.axhline(LIKELY, color=theme.ink, linewidth=0.7, linestyle=(0, (4, 3)), alpha=0.7)
    if line.ends_step:
        axis.axvline(line.end - line.start, color=ORANGE, linewidth=2.2)
    axis.set_ylim(0, 1.04)
    axis.set_yticks([0, 0.5, 1], labels=["0", "", "1"], fontsize=7)
    axis.set_xticks([])
    axis.spines["bottom"].set_visible(True)


def _add_legend(figure: Figure, theme: Theme) -> None:
    handles = [
        Patch(color=BLUE, label="probability of the token, 0.5 or more"),
        Patch(color=VERMILION, label="below 0.5"),
        Line2D([], [], color=theme.ink, linestyle=(0, (4, 3)), linewidth=0.7, label="0.5"),
        Line2D([], [], color=ORANGE, linewidth=2.2, label="end of a step (newline)"),
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=4, fontsize=8)
