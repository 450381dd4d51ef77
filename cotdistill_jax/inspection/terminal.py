"""An inspected mixture in the terminal, in colours that also differ in brightness."""

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from cotdistill_jax.inspection.examples import Example, TargetPiece
from cotdistill_jax.inspection.layout import Layout, Side
from cotdistill_jax.inspection.mixture import Inspection

_SEGMENT_STYLES = ("black on bright_cyan", "black on yellow", "white on blue", "black on magenta")
_LAYOUT_ROWS, _LAYOUT_COLUMNS = 4, 72
_CANDIDATES = 5


def show(inspection: Inspection) -> Iterator[RenderableType]:
    """Yields what to print, part by part."""
    seen = "all" if inspection.max_examples is None else f"the first {inspection.max_examples:,}"
    yield Text(f"{inspection.name}, split {inspection.split}", style="bold")
    yield Text(
        f"Counts are over {seen} examples of each task; rows hold {dict(inspection.lengths)}."
    )
    yield _shares(inspection)
    yield _lengths(inspection)
    yield _leaks(inspection)
    yield _layout(inspection.layout)
    yield from (_example(example) for example in inspection.examples)


def _table(title: str, *headers: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    for number, header in enumerate(headers):
        table.add_column(header, justify="right" if number else "left", overflow="fold")
    return table


def _shares(inspection: Inspection) -> Table:
    table = _table(
        *("Effective mixture", "task", "rate", "by example", "by token", "of the loss"),
        *("with teacher", "kept mass", "questions", "repeated"),
    )
    for task in inspection.effective.tasks:
        table.add_row(
            *(task.name, f"{task.rate:g}", f"{task.by_example:.1%}", f"{task.by_token:.1%}"),
            *(f"{task.of_loss:.2%}", f"{task.with_teacher:.0%} of tokens"),
            "–" if task.kept_mass is None else f"{task.kept_mass:.4f}",
            *(f"{task.num_questions:,}", f"{task.repeated_questions:,}"),
        )
    return table


def _lengths(inspection: Inspection) -> Table:
    ranks = "50 / 90 / 99 / 99.9 / max"
    table = _table(
        *("Lengths in tokens, EOS included", "task", "seen", "kept", "inputs too long"),
        *("targets too long", f"inputs {ranks}", f"targets {ranks}"),
    )
    for task in inspection.effective.tasks:
        report = task.lengths
        spread = [
            " / ".join(f"{length:,}" for length in (*side.percentiles.values(), side.maximum))
            for side in (report.inputs, report.targets)
        ]
        numbers = (report.examples, report.kept, report.over_long_inputs, report.over_long_targets)
        table.add_row(task.name, *(f"{number:,}" for number in numbers), *spread)
    return table


def _leaks(inspection: Inspection) -> Table:
    table = _table(
        f"Leakage of {len(inspection.effective.questions):,} questions into benchmarks",
        *("benchmark", "split", "questions", "same text", "same words"),
    )
    shared = [leak for leak in inspection.leaks if leak.exact or leak.normalised]
    clean = [leak for leak in inspection.leaks if leak.questions and leak not in shared]
    missing = [leak.benchmark for leak in inspection.leaks if leak.questions is None]
    for leak in (*shared, *(c for c in clean if not c.benchmark.startswith("bbh/"))):
        style = "bold red" if leak in shared else None
        numbers = (leak.questions or 0, len(leak.exact), len(leak.normalised))
        table.add_row(
            leak.benchmark, leak.split, *(f"{number:,}" for number in numbers), style=style
        )
    tasks = sum(leak.benchmark.startswith("bbh/") for leak in clean)
    if tasks:
        table.add_row(f"{tasks} tasks of BBH", "test", "", "0", "0")
    if missing:
        table.add_row(f"{len(missing)} not compared: files missing", "", "–", "–", "–")
    return table


def _layout(layout: Layout) -> RenderableType:
    lines: list[RenderableType] = [
        Text(
            f"Packing: {layout.examples_per_row:.1f} examples a row, "
            + ", ".join(
                f"{share:.1%} of {side} positions empty" for side, share in layout.waste.items()
            )
            + f" ({len(layout.rows)} rows)",
            style="bold",
        )
    ]
    for number, row in enumerate(layout.rows[:_LAYOUT_ROWS]):
        for name, side in row.items():
            lines.append(Text(f"row {number} {name} ").append_text(_bar(side)))
    return Group(*lines)


def _bar(side: Side) -> Text:
    """Returns a bar of a row: every segment with its number and its length, then the empty positions."""
    bar = Text()
    for segment in side.segments:
        width = max(1, round(_LAYOUT_COLUMNS * segment.length / side.size))
        label = f"{segment.number}:{segment.length}"
        shown = label if len(label) <= width else str(segment.number)[:width]
        style = _SEGMENT_STYLES[(segment.number - 1) % len(_SEGMENT_STYLES)]
        bar.append(shown.center(width), style=style)
    waste = round(_LAYOUT_COLUMNS * side.waste / side.size)
    return bar.append("·" * waste, style="dim").append(f" {side.waste} empty", style="dim")


def _example(example: Example) -> Panel:
    table = _table("", "id", "piece", "probability", "kept", "other candidates")
    for piece in example.targets:
        table.add_row(*_piece_row(piece))
    body = Group(
        Text(example.prompt, style="cyan"),
        Text(f"→ {example.target}", style="bold"),
        Text(" ".join(f"{piece}·{id_}" for id_, piece in example.inputs[-24:]), style="dim"),
        Text(f"({len(example.inputs)} input pieces, the last 24 shown)", style="dim"),
        table,
    )
    return Panel(body, title=f"{example.task}  {example.question_id}", title_align="left")


def _piece_row(piece: TargetPiece) -> tuple[Text | str, ...]:
    if piece.prob is None:
        return str(piece.id), Text(piece.piece), "no teacher", "", ""
    style = "green" if piece.prob >= 0.9 else "yellow" if piece.prob >= 0.5 else "bold red"
    others = [f"{name} {prob:.3f}" for name, prob in piece.candidates if name != piece.piece]
    return (
        *(str(piece.id), Text(piece.piece), Text(f"{piece.prob:.4f}", style=style)),
        *(f"{piece.kept:.4f}", Text(", ".join(others[: _CANDIDATES - 1]))),
    )
