"""The predictions of a run as one compact JSON value that the report's script turns into a table.

{"rules": [...],                                     names of answer rules
 "sets": [{"step", "benchmark", "prompt", "rules", "headline"}],   one per prediction file; the last two index `rules`
 "questions": [[id, question, gold], ...],           each once, however often it was answered
 "rows": [[set, question, sample_id, text, log_prob, num_tokens, finished, extracted, correct, tokens], ...]}

`extracted` has the answer of every rule (null: none read; a rule of another benchmark), `correct` is a bit per rule. `tokens`
alternates token and its probability in thousandths, or is null where no probabilities were recorded.

Token probabilities are teacher records (`cotdistill_jax.teacher`) of the predicted texts in
`{evaluation}/token_probs/{prediction file's stem}/`, as `scripts/score_predictions.py` writes them.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from cotdistill_jax import files, inference, teacher
from cotdistill_jax.report.run_files import Evaluation
from cotdistill_jax.report.token_rows import TokenRow, token_rows

TOKEN_PROBS_FOLDER = "token_probs"
_PER_MILLE = 1000


def table(evaluations: Sequence[Evaluation]) -> dict[str, Any]:
    """Returns the value described above for all predictions of all evaluations."""
    rules: dict[str, int] = {}
    questions: dict[tuple[str, str, str], int] = {}
    sets: list[dict[str, Any]] = []
    rows: list[list[Any]] = []
    for evaluation in evaluations:
        for path in evaluation.prediction_files:
            predictions = inference.read_predictions(path)
            if not predictions:
                continue
            for rule in inference.rules_for(predictions[0].benchmark):
                rules.setdefault(rule, len(rules))
            tokens = read_token_probs(path)
            for prediction in predictions:
                key = (prediction.id, prediction.question, prediction.gold)
                question = questions.setdefault(key, len(questions))
                found = tokens.get((prediction.id, prediction.sample_id, prediction.text))
                rows.append([len(sets), question, *_row(prediction, rules, found)])
            sets.append(_set_of(evaluation, predictions[0], rules))
    return {
        "rules": list(rules),
        "sets": sets,
        "questions": [list(key) for key in questions],
        "rows": rows,
    }


def read_token_probs(prediction_file: files.Path) -> dict[tuple[str, int, str], list[TokenRow]]:
    """Returns the tokens of the predictions in a file by (id, sample_id, text); empty where none were recorded."""
    folder = prediction_file.parent.parent / TOKEN_PROBS_FOLDER / prediction_file.stem
    if not folder.is_dir():
        return {}
    return {
        (record.question_id, record.sample_id, record.text): token_rows(record)
        for record in teacher.read_records(folder)
    }


def count_with_tokens(rows: Iterable[Sequence[Any]]) -> int:
    """Returns how many rows of a table have token probabilities."""
    return sum(row[-1] is not None for row in rows)


def _set_of(
    evaluation: Evaluation, first: inference.Prediction, rules: dict[str, int]
) -> dict[str, Any]:
    own = [rules[rule] for rule in inference.rules_for(first.benchmark)]
    return {
        "step": evaluation.step,
        "benchmark": first.benchmark,
        "prompt": first.prompt,
        "rules": own,
        "headline": own[0],
    }


def _row(
    prediction: inference.Prediction, rules: dict[str, int], tokens: list[TokenRow] | None
) -> list[Any]:
    correct = sum(1 << rules[rule] for rule, right in prediction.correct.items() if right)
    flat = [part for t in tokens or () for part in (t.text, _per_mille(t.prob))]
    return [
        prediction.sample_id,
        prediction.text,
        None if prediction.log_prob is None else round(prediction.log_prob, 3),
        prediction.num_tokens,
        int(prediction.finished),
        [prediction.extracted.get(rule) for rule in rules],
        correct,
        flat or None,
    ]


def _per_mille(prob: float | None) -> int | None:
    return None if prob is None else round(prob * _PER_MILLE)
