"""MultiArith: 600 two-step arithmetic problems, one file without splits.

The paper held out 200 problems and tested on the other 400, but its index file was never published.
`validation_200` and `test_400` are therefore our own split, fixed by `SPLIT_SEED` and the questions' texts:
the 200 rows with the smallest SHA-256 of `multiarith-split-{SPLIT_SEED}-{normalised question}`. A hash, not
a random generator, so that no library version can change the split; of the text, not of the row, because 20
problems come twice and both copies must fall on the same side. The seed is 1, since 0 would cut such a pair
at the 200th place.

Source: Roy and Roth 2015, arXiv 1608.01413; file as in kojima-takeshi188/zero_shot_cot.
"""

import hashlib

from cotdistill_jax import files
from cotdistill_jax.benchmarks import reading
from cotdistill_jax.benchmarks.leakage import normalise_question
from cotdistill_jax.benchmarks.question import Question

SPLITS = ("test", "validation_200", "test_400")
SPLIT_SEED = 1
_NUM_VALIDATION = 200


def load(split: str, data_dir: files.AnyPath | None = None) -> list[Question]:
    """Returns the questions of one split, in file order.

    Args:
      split: `test` (all 600), `validation_200`, or `test_400` (the 400 others).
      data_dir: see `benchmarks.load`.
    """
    path = reading.data_path("multiarith/MultiArith.json", data_dir)
    records = reading.read_json_list(path)
    questions = [_question(record, row, path) for row, record in enumerate(records)]
    if split == "test":
        return questions
    validation = set(sorted(questions, key=_split_key)[:_NUM_VALIDATION])
    return [q for q in questions if (q in validation) == (split == "validation_200")]


def _split_key(question: Question) -> str:
    text = f"multiarith-split-{SPLIT_SEED}-{normalise_question(question.question)}"
    return hashlib.sha256(text.encode()).hexdigest()


def _question(record: object, row: int, path: files.AnyPath) -> Question:
    text = reading.field(record, "sQuestion", str, path, row).strip()
    solutions = reading.field(record, "lSolutions", list, path, row)
    if len(solutions) != 1:
        raise ValueError(
            f"benchmarks: {path} record {row}: field 'lSolutions' must hold one number, got {solutions}"
        )
    gold = reading.number_text(solutions[0], "lSolutions", path, row)
    return Question(f"multiarith/test/{row}", "multiarith", text, gold)
