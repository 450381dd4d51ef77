"""The top-k heat map: per token its candidates by falling probability, each cell coloured by the candidate's probability.

The first row names the sampled token, which is also framed among its candidates; the last row is the mass that all recorded
candidates hold together. Long texts continue in further panels, broken where a step of the rationale ends if there is room.
"""

from collections.abc import Mapping, Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from cotdistill_jax.report.figures import AMOUNTS, VERMILION, Theme
from cotdistill_jax.report.text_lines import MONOSPACE, visible
from cotdistill_jax.report.token_rows import TokenRow

NUM_CANDIDATES = 5
_COLUMNS = 12
_CELL_WIDTH, _CELL_HEIGHT = 0.82, 0.24
_LABEL_CHARS = 9
_UNKNOWN = "?"


def draw_heat_map(models: Mapping[str, Sequence[TokenRow]], theme: Theme) -> Figure:
    """Returns the map, models side by side.

    Args:
        models: per model name its tokens, those of one text.
        theme: colours.
    """
    parts = {name: split_rows(tokens, _COLUMNS) for name, tokens in models.items()}
    rows = max(len(split) for split in parts.values())
    columns = min(_COLUMNS, max(len(part) for split in parts.values() for part in split))
    width = len(models) * (columns * _CELL_WIDTH + 0.5)
    height = rows * (NUM_CANDIDATES + 3) * _CELL_HEIGHT + 0.9
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, len(models), squeeze=False)
    for column, (name, split) in enumerate(parts.items()):
        axes[0][column].set_title(name, loc="left")
        for row in range(rows):
            axis = axes[row][column]
            _prepare(axis, columns)
            if row < len(split):
                _draw_part(axis, split[row], theme)
    scale = ScalarMappable(Normalize(0.0, 1.0), AMOUNTS)
    bar = figure.colorbar(
        scale, ax=axes, location="bottom", aspect=60, fraction=0.02, pad=0.01, shrink=0.6
    )
    bar.set_label("probability (framed: the token that was sampled; last row: mass of all shown)")
    return figure


def split_rows(tokens: Sequence[TokenRow], width: int) -> list[Sequence[TokenRow]]:
    """Returns the tokens in parts of at most `width`, broken after newlines where that leaves parts of half the width or more."""
    parts: list[Sequence[TokenRow]] = []
    start = 0
    while start < len(tokens):
        end = min(start + width, len(tokens))
        newlines = [i + 1 for i in range(start, end) if tokens[i].text.endswith("\n")]
        if newlines and newlines[-1] - start >= width // 2:
            end = newlines[-1]
        parts.append(tokens[start:end])
        start = end
    return parts or [()]


def _prepare(axis: Axes, columns: int) -> None:
    axis.set_xlim(0, columns)
    axis.set_ylim(NUM_CANDIDATES + 1.1, -1.1)
    axis.axis("off")


def _draw_part(axis: Axes, tokens: Sequence[TokenRow], theme: Theme) -> None:
    colors = matplotlib.colormaps[AMOUNTS]
    for column, token in enumerate(tokens):
        _write(axis, column, -0.5, token.text, theme.ink, weight="bold")
        for rank, (candidate, prob) in enumerate(token.candidates[:NUM_CANDIDATES]):
            axis.add_patch(Rectangle((column + 0.03, rank), 0.94, 1, color=colors(prob), lw=0))
            # cividis runs from dark blue to yellow; the text takes whichever of white and black is far from it
            _write(axis, column, rank + 0.5, candidate, "white" if prob < 0.55 else "black")
            if candidate == token.text:
                axis.add_patch(
                    Rectangle(
                        (column + 0.05, rank + 0.05), 0.9, 0.9, fill=False, ec=VERMILION, lw=1.6
                    )
                )
        kept = f"{token.kept:.2f}" if token.candidates else _UNKNOWN
        axis.text(column + 0.5, NUM_CANDIDATES + 0.55, kept, ha="center", va="center", fontsize=7)


def _write(
    axis: Axes, column: int, row: float, token: str, color: str, weight: str = "normal"
) -> None:
    label = visible(token)
    label = label if len(label) <= _LABEL_CHARS else label[: _LABEL_CHARS - 1] + "…"
    axis.text(
        column + 0.5,
        row,
        label,
        ha="center",
        va="center",
        family=MONOSPACE,
        fontsize=7.5,
        color=color,
        weight=weight,
        parse_math=False,
    )
