"""An inspected mixture as one HTML page."""

from typing import Any

from cotdistill_jax.inspection.examples import Example, TargetPiece
from cotdistill_jax.inspection.layout import Side
from cotdistill_jax.inspection.mixture import Inspection
from cotdistill_jax.report import page
from cotdistill_jax.report.figures import GREEN, ORANGE, PURPLE, SKY

_SEGMENT_COLORS = (SKY, ORANGE, GREEN, PURPLE)
_LAYOUT_ROWS = 8
# At most this much of the colour, so that text stays readable on it.
_STRONGEST = 0.7


def render(inspection: Inspection) -> str:
    """Returns the page."""
    return page.render(
        "mixture.html.jinja",
        title=f"{inspection.name}, split {inspection.split}",
        inspection=inspection,
        shared=[leak for leak in inspection.leaks if leak.exact or leak.normalised],
        rows=[
            {name: _side(side) for name, side in row.items()}
            for row in inspection.layout.rows[:_LAYOUT_ROWS]
        ],
        examples=[_example(example) for example in inspection.examples],
    )


def _side(side: Side) -> list[dict[str, Any]]:
    """Returns the parts of a row's bar: label, width in per cent, colour; the last one, without colour, is empty positions."""
    parts: list[dict[str, Any]] = [
        {
            "label": f"{segment.number} · {segment.length}",
            "title": f"segment {segment.number}, positions {segment.start} to {segment.start + segment.length - 1}",
            "percent": 100 * segment.length / side.size,
            "color": _SEGMENT_COLORS[(segment.number - 1) % len(_SEGMENT_COLORS)],
        }
        for segment in side.segments
    ]
    empty = {"label": str(side.waste), "title": f"{side.waste} empty positions", "color": None}
    return [*parts, {**empty, "percent": 100 * side.waste / side.size}] if side.waste else parts


def _example(example: Example) -> dict[str, Any]:
    return {
        "task": example.task,
        "question_id": example.question_id,
        "prompt": example.prompt,
        "target": example.target,
        "inputs": [{"piece": piece, "id": id_} for id_, piece in example.inputs],
        "targets": [_piece(piece) for piece in example.targets],
        "has_teacher": any(piece.candidates for piece in example.targets),
    }


def _piece(piece: TargetPiece) -> dict[str, Any]:
    missing = 0.0 if piece.prob is None else 1.0 - piece.prob
    return {
        "id": piece.id,
        "piece": piece.piece,
        "background": f"rgba(213, 94, 0, {_STRONGEST * missing:.3f})",
        "prob": "" if piece.prob is None else f"{piece.prob:.4f}",
        "kept": "" if piece.prob is None else f"{piece.kept:.4f}",
        "others": [f"{name} {prob:.4f}" for name, prob in piece.candidates if name != piece.piece],
    }
