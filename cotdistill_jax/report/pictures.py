"""Pictures of a text's tokens into a file: PNG or SVG for one picture, HTML for a page of several."""

import functools
from collections.abc import Mapping, Sequence

import markupsafe

from cotdistill_jax import files
from cotdistill_jax.report import alignment_links, alignment_picture, figures, flow, heat_map, page
from cotdistill_jax.report.token_rows import place
from cotdistill_jax.teacher import TeacherRecord

TOKEN_PICTURES = ("flow", "heat_map")


def token_pictures(records: Mapping[str, TeacherRecord]) -> dict[str, figures.Draw]:
    """Returns the drawings `flow` and `heat_map` of several models' tokens for one text.

    Args:
        records: per model name its record; all have the same text.

    Raises:
        ValueError: no record, or records of different texts.
        token_rows.PlacementError: a record whose tokens do not spell its text.
    """
    texts = {record.text for record in records.values()}
    if len(texts) != 1:
        raise ValueError(
            f"report: the records of {', '.join(records) or 'no model'} have {len(texts)} different texts, expected one; "
            "compare models on the same rationale"
        )
    placed = {name: place(record) for name, record in records.items()}
    rows = {name: [token.row for token in tokens] for name, tokens in placed.items()}
    return {
        "flow": functools.partial(flow.draw_flow, texts.pop(), placed),
        "heat_map": functools.partial(heat_map.draw_heat_map, rows),
    }


def alignment_drawing(
    record: TeacherRecord, aligned: Sequence[alignment_links.Alignment]
) -> figures.Draw:
    """Returns the drawing of a record's alignments."""
    return functools.partial(alignment_picture.draw_alignment, record.text, aligned)


def write_pictures(
    drawings: Mapping[str, figures.Draw],
    record: TeacherRecord,
    output: files.AnyPath,
    theme: str = "light",
) -> None:
    """Writes drawings.

    Args:
        drawings: by caption; exactly one unless `output` is HTML.
        record: whose text is drawn; the page names it.
        output: `.png`, `.svg` or `.html`.
        theme: `light` or `dark`; a page follows its reader's setting.

    Raises:
        ValueError: several drawings for one picture file, or another ending.
    """
    path = files.as_path(output)
    if path.suffix != ".html":
        if len(drawings) != 1:
            raise ValueError(
                f"report: {path} can hold one picture, got {', '.join(drawings)}; choose one, or write an .html page"
            )
        figures.save(next(iter(drawings.values())), path, theme)
        return
    shown = [
        (caption.replace("_", " "), markupsafe.Markup(figures.inline_svg(draw, caption)))
        for caption, draw in drawings.items()
    ]
    facts = [
        ("question", record.question),
        ("gold", record.gold),
        ("text", record.text),
        ("teacher", record.teacher),
    ]
    title = f"{record.question_id}, sample {record.sample_id}"
    page.write(page.render("pictures.html.jinja", title=title, facts=facts, pictures=shown), path)


def find_record(
    records: Sequence[TeacherRecord], question_id: str | None, sample_id: int | None
) -> TeacherRecord:
    """Returns the first record with that question and sample; None matches any.

    Raises:
        KeyError: there is none; the message lists some that are there.
    """
    for record in records:
        if question_id in (None, record.question_id) and sample_id in (None, record.sample_id):
            return record
    some = ", ".join(f"{r.question_id} sample {r.sample_id}" for r in records[:5])
    raise KeyError(
        f"report: no record of question {question_id!r}, sample {sample_id!r}, among {len(records)}; there are {some}, ..."
    )
