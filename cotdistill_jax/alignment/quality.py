"""Quality of an aligned corpus: how much of the teacher's distributions arrived, where it did not, and why.

Counts are kept per class of piece, so that parts of a corpus that were aligned by different processes can be added up.

| class | pieces |
|---|---|
| line_starts | first of a text or of a line, whatever they are |
| dollar | with "$" |
| digits | with a digit |
| operators | nothing but `+-*/=×÷%()<>^` |
| words | with a letter |
| unknown | `<unk>` |
| other | the rest: punctuation, "▁" alone |
"""

from __future__ import annotations

import collections
import functools
import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from cotdistill_jax.alignment.pieces import SPACE, PieceTable
from cotdistill_jax.alignment.rows import STEPS_PER_UNIT, quantise
from cotdistill_jax.alignment.targets import AlignedBatch, How

CLASSES = ("line_starts", "dollar", "digits", "operators", "words", "unknown", "other")
# Shares of one-hot pieces far above what a method gives on good data: on the 25 real Codex samples 0.2 % (spans) and 19 % (dtw); a teacher
# whose tokens are longer than the student's pieces has up to a third with spans.
MOST_ONE_HOT: Mapping[str, float] = {"spans": 0.5, "dtw": 0.75}
_OPERATORS = frozenset("+-*/=×÷%()<>^")
_NUM_WORST = 10
_PERCENTS = 100


class PoorQualityError(ValueError):
    """A corpus in which far fewer pieces carry a teacher's distribution than its method gives on good data."""


class Quality:
    """Counts over aligned samples; add batches, add other counts, then ask for the report.

    Attributes:
        num_samples: samples seen.
        num_text_differs: samples whose tokens had to be fitted to their text.
        dropped: samples that are not in the corpus, by reason.
        pieces: pieces by (class, `How`).
        mass_steps: sum of the kept mass of soft rows by class, in steps of 1e-4.
        mass_percents: int64 [101], soft rows by their kept mass in whole percents.
        worst: the samples that lost most, as JSON values, worst first.
    """

    def __init__(self) -> None:
        """Starts with nothing."""
        self.num_samples = 0
        self.num_text_differs = 0
        self.dropped: collections.Counter[str] = collections.Counter()
        self.pieces: collections.Counter[tuple[str, str]] = collections.Counter()
        self.mass_steps: collections.Counter[str] = collections.Counter()
        self.mass_percents = np.zeros(_PERCENTS + 1, np.int64)
        self.worst: list[dict[str, Any]] = []

    def add(self, batch: AlignedBatch, keys: Sequence[tuple[str, int]], table: PieceTable) -> None:
        """Counts a batch.

        Args:
            batch: aligned samples.
            keys: their (question_id, sample_id).
            table: of the student's vocabulary.
        """
        _, steps = quantise(batch.candidate_ids, batch.candidate_probs)
        mass = np.minimum(steps.sum(1, dtype=np.int64), STEPS_PER_UNIT)
        classes = np.where(_opens_line(batch), 0, _classes(table)[batch.pieces.ids])
        soft = batch.how < How.INSIDE_TOKEN
        self.num_samples += len(keys)
        self.num_text_differs += int(batch.text_differs.sum())
        self.dropped.update(batch.rejected.values())
        for code, number in zip(
            *np.unique(classes * 256 + batch.how, return_counts=True), strict=True
        ):
            self.pieces[CLASSES[code // 256], How(code % 256).name] += int(number)
        for number, name in enumerate(CLASSES):
            self.mass_steps[name] += int(mass[soft & (classes == number)].sum())
        self.mass_percents += np.bincount(
            mass[soft] * _PERCENTS // STEPS_PER_UNIT, minlength=_PERCENTS + 1
        )
        kept = np.where(soft, mass / STEPS_PER_UNIT, 0.0)
        self._keep_worst(_candidates_for_worst(batch, keys, kept, table))

    def leave_out(self, reason: str, number: int) -> None:
        """Counts samples that were dropped before alignment."""
        self.num_samples += number
        if number:
            self.dropped[reason] += number

    def merge(self, other: Mapping[str, Any]) -> None:
        """Adds the counts of another part, given as `counts` returned them."""
        self.num_samples += other["num_samples"]
        self.num_text_differs += other["num_text_differs"]
        self.dropped.update(other["dropped"])
        for name, hows in other["pieces"].items():
            for how, number in hows.items():
                self.pieces[name, how] += number
        self.mass_steps.update(other["mass_steps"])
        self.mass_percents += np.array(other["mass_percents"], np.int64)
        self._keep_worst(other["worst"])

    def counts(self) -> dict[str, Any]:
        """Returns everything counted, as JSON values."""
        pieces: dict[str, dict[str, int]] = {name: {} for name in CLASSES}
        for (name, how), number in sorted(self.pieces.items()):
            pieces[name][how] = number
        return {
            "num_samples": self.num_samples,
            "num_text_differs": self.num_text_differs,
            "dropped": dict(sorted(self.dropped.items())),
            "pieces": pieces,
            "mass_steps": dict(self.mass_steps),
            "mass_percents": self.mass_percents.tolist(),
            "worst": self.worst,
        }

    def report(self) -> dict[str, Any]:
        """Returns the report: per class and in all the shares of soft and one-hot pieces and the mean kept mass of soft ones.

        Shares and masses are in [0, 1]; null where there are no pieces. `kept_mass_quantiles` are lower bounds, to a percent.
        """
        counts = self.counts()
        by_class = {
            name: _shares(counts["pieces"][name], self.mass_steps[name]) for name in CLASSES
        }
        hows: collections.Counter[str] = collections.Counter()
        for named in counts["pieces"].values():
            hows.update(named)
        below = np.cumsum(self.mass_percents)
        quantiles = {
            name: int(np.searchsorted(below, share * below[-1], "right")) / _PERCENTS
            if below[-1]
            else None
            for name, share in (
                ("1%", 0.01),
                ("5%", 0.05),
                ("25%", 0.25),
                ("50%", 0.5),
                ("75%", 0.75),
            )
        }
        return {
            "samples": {
                "in": self.num_samples,
                "aligned": self.num_samples - self.dropped.total(),
                "dropped": counts["dropped"],
                "text_differs": self.num_text_differs,
            },
            "all": _shares(hows, self.mass_steps.total()),
            "by_how": dict(sorted(hows.items())),
            "by_class": by_class,
            "kept_mass_percents": counts["mass_percents"],
            "kept_mass_quantiles": quantiles,
            "worst": self.worst,
        }

    def _keep_worst(self, examples: Iterable[dict[str, Any]]) -> None:
        ordered = sorted(
            [*self.worst, *examples], key=lambda e: (e["kept"], e["question_id"], e["sample_id"])
        )
        self.worst = ordered[:_NUM_WORST]


def check_one_hot(
    report: Mapping[str, Any], method: str, allowed: float | None, where: str
) -> None:
    """Checks that the teacher's probabilities arrived.

    Args:
        report: as `alignment.pipeline.finish` writes it.
        method: of the alignment.
        allowed: largest share of one-hot pieces, in [0, 1]; None for the method's, `MOST_ONE_HOT`.
        where: what was aligned, for the message.

    Raises:
        PoorQualityError: more pieces are one-hot; the message has the reasons with their numbers.
    """
    share, pieces = report["all"]["one_hot"], report["all"]["pieces"]
    most = MOST_ONE_HOT[method] if allowed is None else allowed
    if not pieces or share <= max(most, report.get("allowed_one_hot_share") or 0.0):
        return
    hard = {name: n for name, n in report["by_how"].items() if not How[name].soft}
    reasons = ", ".join(
        f"{name} {n:,}" for name, n in sorted(hard.items(), key=lambda pair: -pair[1])
    )
    tokens = ", ".join(f"{n:,} with {name}" for name, n in report.get("tokens", {}).items())
    raise PoorQualityError(
        f"align: {share:.1%} of {pieces:,} pieces of {where} carry none of the teacher's probabilities, {method} gives at most {most:.0%} "
        f"on good data. Pieces: {reasons}. Samples: {tokens or 'not looked at'}. Mend the records (the page quality.html shows the worst "
        "samples), or go on with --allow_one_hot_share=1."
    )


def to_html(report: Mapping[str, Any], title: str) -> str:
    """Returns a self-contained page of a report: tables, a bar per percent of kept mass, the worst examples.

    Args:
        report: as `Quality.report` returns it; with `teacher`, as `answers.labelling.Statistics.report` returns it, or without.
        title: of the page.
    """
    samples = report["samples"]
    dropped = (
        ", ".join(f"{reason}: {number:,}" for reason, number in samples["dropped"].items())
        or "none"
    )
    rows = "".join(
        _class_row(name, shares)
        for name, shares in [("all", report["all"]), *report["by_class"].items()]
    )
    hows = "".join(f"<tr><td>{name}<td>{number:,}" for name, number in report["by_how"].items())
    most = max(*report["kept_mass_percents"], 1)
    bars = "".join(
        f'<i title="{percent} %: {number:,}" style="height:{80 * number / most:.0f}px"></i>'
        for percent, number in enumerate(report["kept_mass_percents"])
    )
    worst = "".join(_worst_entry(example) for example in report["worst"])
    return f"""<!doctype html><meta charset="utf-8"><title>{html.escape(title)}</title>
<style>body{{font:15px/1.4 sans-serif;max-width:60em;margin:2em auto}}td,th{{padding:.2em .8em;text-align:right}}
td:first-child,th:first-child{{text-align:left}}.bars{{display:flex;align-items:end;height:80px}}.bars i{{flex:1;background:#47a;margin:0 1px}}
.soft{{background:#dfd}}.hard{{background:#fcc}}code{{overflow-wrap:anywhere}}code span{{border-radius:3px}}</style>
<h1>{html.escape(title)}</h1>
<p>{samples["in"]:,} samples in, {samples["aligned"]:,} aligned; dropped: {html.escape(dropped)}.
In {samples["text_differs"]:,} samples the teacher's tokens do not spell the text and were fitted to it.</p>
{_teacher(report["teacher"]) if "teacher" in report else ""}
<h2>By class of piece</h2>
<table><tr><th>class<th>pieces<th>soft<th>one-hot<th>kept mass of soft{rows}</table>
<h2>How rows were obtained</h2><table><tr><th>how<th>pieces{hows}</table>
<h2>Kept mass of soft rows, 0 to 100 %</h2><div class="bars">{bars}</div>
<h2>Samples that lost most</h2><p>Green: soft, with the kept mass on hover. Red: one-hot.</p>{worst}
"""


def _teacher(report: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<tr><td>{html.escape(name.replace('_', ' '))}<td>{html.escape(_shown(value))}"
        for name, value in report.items()
    )
    return f"<h2>Teacher</h2><table>{rows}</table>"


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{_shown(key)}: {_shown(item)}" for key, item in value.items()) or "none"
    if isinstance(value, float):
        return f"{value:.2%}"
    return f"{value:,}" if isinstance(value, int) else str(value).replace("_", " ")


def _class_row(name: str, shares: Mapping[str, Any]) -> str:
    def percent(value: float | None) -> str:
        return "" if value is None else f"{value:.1%}"

    return (
        f"<tr><td>{name}<td>{shares['pieces']:,}<td>{percent(shares['soft'])}<td>{percent(shares['one_hot'])}"
        f"<td>{percent(shares['kept_mass'])}"
    )


def _worst_entry(example: Mapping[str, Any]) -> str:
    pieces = "".join(
        f'<span class="{"hard" if how.startswith("one-hot") else "soft"}" title="{html.escape(how)}, {kept:.4f}">'
        f"{html.escape(piece)}</span>"
        for piece, how, kept in example["pieces"]
    )
    key = f"{example['question_id']} / {example['sample_id']}"
    return f"<p>{html.escape(key)}, kept {example['kept']:.1%}<br><code>{pieces}</code></p>"


def _shares(hows: Mapping[str, int], mass_steps: int) -> dict[str, Any]:
    pieces = sum(hows.values())
    soft = sum(number for how, number in hows.items() if How[how].soft)
    return {
        "pieces": pieces,
        "soft": soft / pieces if pieces else None,
        "one_hot": (pieces - soft) / pieces if pieces else None,
        "kept_mass": mass_steps / STEPS_PER_UNIT / soft if soft else None,
    }


def _candidates_for_worst(
    batch: AlignedBatch, keys: Sequence[tuple[str, int]], kept: np.ndarray, table: PieceTable
) -> list[dict[str, Any]]:
    offsets = batch.pieces.offsets
    sizes = np.diff(offsets)
    # The mean of the kept mass, one-hot pieces counting as nothing kept.
    sums = np.diff(np.concatenate([[0.0], np.cumsum(kept)])[offsets])
    means = np.where(sizes > 0, sums / np.maximum(sizes, 1), np.inf)
    examples = []
    for sample in np.argsort(means, kind="stable")[:_NUM_WORST]:
        if sizes[sample] == 0:
            break
        rows = range(offsets[sample], offsets[sample + 1])
        hows = [How(int(batch.how[row])) for row in rows]
        examples.append(
            {
                "question_id": keys[sample][0],
                "sample_id": keys[sample][1],
                "kept": round(float(means[sample]), 6),
                "pieces": [
                    [
                        table.processor.id_to_piece(int(batch.pieces.ids[row])),
                        how.name.lower() if how.soft else f"one-hot, {how.name.lower()}",
                        round(float(kept[row]), 4) if how.soft else 1.0,
                    ]
                    for row, how in zip(rows, hows, strict=True)
                ],
            }
        )
    return examples


def _opens_line(batch: AlignedBatch) -> np.ndarray:
    """Returns which pieces are the first of a text or of a line, bool [P]."""
    pieces = batch.pieces
    line = "\0".join([*pieces.texts, ""]).encode("utf-32-le", "surrogatepass")
    newlines = np.concatenate([[0], np.cumsum(np.frombuffer(line, np.uint32) == ord("\n"))])
    opens = newlines[pieces.bodies] > newlines[pieces.starts]
    opens[pieces.offsets[:-1][np.diff(pieces.offsets) > 0]] = True
    return opens


@functools.lru_cache(maxsize=4)
def _classes(table: PieceTable) -> np.ndarray:
    """Returns the class number of every piece of the vocabulary."""
    size = table.processor.get_piece_size()
    return np.array([CLASSES.index(_class_of(table, piece)) for piece in range(size)])


def _class_of(table: PieceTable, piece: int) -> str:
    if piece == table.unk_id:
        return "unknown"
    body = table.processor.id_to_piece(piece).replace(SPACE, "")
    if "$" in body:
        return "dollar"
    if any(character.isdigit() for character in body):
        return "digits"
    if body and set(body) <= _OPERATORS:
        return "operators"
    return "words" if any(character.isalpha() for character in body) else "other"
