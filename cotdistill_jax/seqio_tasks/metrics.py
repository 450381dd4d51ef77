"""What evaluation during training reports: accuracy by the headline rule, and how many outputs state no answer."""

from collections.abc import Mapping, Sequence
from typing import Any

from cotdistill_jax import answers

RULE = "last_number"
BBH_RULE = "bbh_exact"


def bbh_accuracy(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
    """Returns `accuracy` by BIG-Bench Hard's headline rule."""
    return accuracy(targets, predictions, BBH_RULE)


def gold_or_prediction(
    decoded_model_output: str,
    example: Mapping[str, Any] | None = None,
    is_target: bool = False,
) -> str:
    """Returns the gold answer for a target and the text itself for a prediction; a SeqIO `postprocess_fn`.

    Args:
        decoded_model_output: Text of the target or of the model.
        example: The example, with the field `answer`.
        is_target: Which of the two it is.

    Example: `gold_or_prediction("1 + 1 = 2", {"answer": b"2"}, is_target=True)` is `"2"`.
    """
    if not is_target:
        return decoded_model_output
    if example is None:
        raise ValueError("tasks: a target needs its example, whose field answer is the gold.")
    return example["answer"].decode()


def accuracy(
    targets: Sequence[str], predictions: Sequence[str], rule: str = RULE
) -> dict[str, float]:
    """Returns `accuracy` and `unparsed`, both in per cent of all predictions; a SeqIO prediction metric.

    Args:
        targets: Gold answers.
        predictions: What the model wrote.
        rule: Name of an answer rule.

    Example: `accuracy(["2", "3"], ["so 2.", "none"])` is `{"accuracy": 50.0, "unparsed": 50.0}`.
    """
    pairs = list(zip(targets, predictions, strict=True))
    correct = sum(answers.is_correct(text, gold, rule) for gold, text in pairs)
    unparsed = sum(answers.extract(text, rule) is None for text in predictions)
    return {"accuracy": 100 * correct / len(pairs), "unparsed": 100 * unparsed / len(pairs)}
