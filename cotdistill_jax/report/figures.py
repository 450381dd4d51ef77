"""How every picture of this project looks and is written: one palette, one font, PNG, SVG, or inline in a page.

Colours are those of Okabe and Ito, which colour-blind readers tell apart; amounts are drawn in cividis. Every label is DejaVu
(shipped with Matplotlib), which has "▁" and "↵". A figure for a page takes the colour of the page's text, so that it is right on
light and on dark backgrounds.

Source: Okabe and Ito 2008, "Color universal design"; Nunez et al. 2018 (cividis).
"""

import contextlib
import dataclasses
import io
import re
from collections.abc import Callable, Iterator
from typing import Any

import matplotlib
from cycler import cycler
from matplotlib.figure import Figure

from cotdistill_jax import files

BLUE, ORANGE, GREEN, VERMILION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
SKY, PURPLE, GREY = "#56B4E9", "#CC79A7", "#8C8C8C"
SERIES = (BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILION)
AMOUNTS = "cividis"

_PICTURES = (".png", ".svg")
# Stands for the colour of the page's text until the figure is written.
_PAGE_INK = "#0a0b0c"


@dataclasses.dataclass(frozen=True)
class Theme:
    """What a figure is drawn on.

    Attributes:
        ink: colour of text, axes and grid.
        paper: colour behind it; None leaves it transparent.
    """

    ink: str
    paper: str | None


THEMES = {
    "light": Theme("#1a1a1a", "#ffffff"),
    "dark": Theme("#e8e8e8", "#16181c"),
    "page": Theme(_PAGE_INK, None),
}
"""`light` and `dark` for files; `page` for figures inside a page, which has colours of its own."""

Draw = Callable[[Theme], Figure]
"""Draws a figure in the colours of a theme."""


@contextlib.contextmanager
def style(theme: Theme) -> Iterator[None]:
    """Sets fonts and colours of the figures that are made inside the block."""
    settings: Any = {
        "font.family": ["DejaVu Sans"],
        "font.size": 10,
        "svg.fonttype": "path",
        "svg.hashsalt": "cotdistill_jax",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.prop_cycle": cycler(color=SERIES),
        "axes.facecolor": "none",
        "figure.facecolor": theme.paper or "none",
        "savefig.facecolor": theme.paper or "none",
        "grid.alpha": 0.2,
        "axes.titlesize": 10,
        "legend.frameon": False,
    }
    inked = "text.color axes.edgecolor axes.labelcolor axes.titlecolor xtick.color ytick.color grid.color"
    settings |= dict.fromkeys(inked.split(), theme.ink)
    with matplotlib.rc_context(settings):
        yield


def inline_svg(draw: Draw, title: str) -> str:
    """Returns a figure as an `<svg>` element for a page, in the colour of the page's text.

    Args:
        draw: draws the figure.
        title: what a screen reader says.
    """
    text = _svg(draw, THEMES["page"])
    text = text[text.index("<svg") :].replace(_PAGE_INK, "currentColor")
    label = title.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    return re.sub(r"^<svg", f'<svg role="img" aria-label="{label}"', text)


def save(draw: Draw, path: files.AnyPath, theme: str = "light") -> None:
    """Writes a figure as PNG or SVG.

    Args:
        draw: draws the figure.
        path: its ending decides.
        theme: `light` or `dark`.

    Raises:
        ValueError: another ending.
        KeyError: unknown theme.
    """
    target = files.as_path(path)
    if theme not in THEMES:
        raise KeyError(f"report: unknown theme {theme!r}; choose one of {sorted(THEMES)}")
    if target.suffix not in _PICTURES:
        raise ValueError(
            f"report: {target} ends in {target.suffix!r}; a picture must end in one of {_PICTURES}"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.suffix == ".svg":
        target.write_text(_svg(draw, THEMES[theme]), encoding="utf-8")
        return
    with style(THEMES[theme]):
        written = io.BytesIO()
        draw(THEMES[theme]).savefig(written, dpi=150, format=target.suffix[1:])
        target.write_bytes(written.getvalue())


def _svg(draw: Draw, theme: Theme) -> str:
    written = io.StringIO()
    with style(theme):
        draw(theme).savefig(written, format="svg", metadata={"Date": None, "Creator": None})
    return written.getvalue()
