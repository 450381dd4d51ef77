"""No macro of `gin/defaults.gin` is ignored under T5X: each is bound in `gin/t5x/`, or said why it need not be."""

import pathlib
import re

GIN = pathlib.Path(__file__).parents[2] / "gin"
NEED_NOTHING = {
    "SAVE_INITIAL": "T5X always writes a checkpoint before its first step",
    "KEEP_BEST_METRIC": "only with KEEP_BEST, which is refused",
}


def macros(text: str) -> set[str]:
    return set(re.findall(r"%([A-Z][A-Z0-9_]+)", text))


def test_every_macro_is_bound_or_refused():
    defaults = (GIN / "defaults.gin").read_text()
    declared = set(re.findall(r"^([A-Z][A-Z0-9_]+) =", defaults, re.MULTILINE))
    texts = [path.read_text() for path in (GIN / "t5x").glob("*.gin")]
    overlays = [
        path.read_text()
        for room in ("losses", "optimizers", "schedules")
        for path in (GIN / room).glob("*.gin")
    ]
    used = set().union(*map(macros, [*texts, *overlays, defaults]))
    assert len(declared) > 30
    assert declared - used == set(NEED_NOTHING)
