"""GSM8K: grade school maths with human rationales.

Files: `gsm8k/train.jsonl` (7,473 rows), `gsm8k/test.jsonl` (1,319 rows), `gsm8k/seed_dev_200_index.npy`
(the 200 rows of train that the paper held out for development).

Source: Cobbe et al. 2021, arXiv 2110.14168.
"""

import io
import re

import numpy as np

from cotdistill_jax import files
from cotdistill_jax.benchmarks import reading
from cotdistill_jax.benchmarks.question import Question

SPLITS = ("train", "dev", "test", "train_and_dev")
_CALCULATOR_MARK = re.compile(r"<<.*?>>")


def load(split: str, data_dir: files.AnyPath | None = None) -> list[Question]:
    """Returns the questions of one split, in file order.

    Args:
      split: `train` (7,273: the train file without the development rows), `dev` (the 200 development
        rows of the train file), `test` (1,319), or `train_and_dev` (7,473: the train file whole, so
        that position = row; for sources that name train rows by number).
      data_dir: see `benchmarks.load`.
    """
    questions = _read("test" if split == "test" else "train", data_dir)
    if split in ("test", "train_and_dev"):
        return questions
    dev = dev_rows(data_dir)
    if dev and max(dev) >= len(questions):
        raise ValueError(
            f"benchmarks: gsm8k/seed_dev_200_index.npy names row {max(dev)} of gsm8k/train.jsonl, "
            f"which has {len(questions)}"
        )
    return [q for row, q in enumerate(questions) if (row in dev) == (split == "dev")]


def dev_rows(data_dir: files.AnyPath | None = None) -> frozenset[int]:
    """Returns the rows of the train file that are held out for development."""
    path = reading.data_path("gsm8k/seed_dev_200_index.npy", data_dir)
    try:
        rows = np.load(io.BytesIO(path.read_bytes()), allow_pickle=False)
    except ValueError as error:
        raise ValueError(f"benchmarks: {path} is not a NumPy array file: {error}") from error
    if rows.ndim != 1 or not np.issubdtype(rows.dtype, np.integer) or (rows < 0).any():
        raise ValueError(
            f"benchmarks: {path} must hold a vector of row numbers, got {rows.dtype}{rows.shape}"
        )
    return frozenset(rows.tolist())


def parse_answer(answer: str) -> tuple[str, str]:
    r"""Returns the rationale (without calculator marks) and the gold answer of a GSM8K answer field.

    Example: `"He has 2+3=<<2+3=5>>5.\n#### 5"` gives `("He has 2+3=5.", "5")`.

    Raises:
      ValueError: the text has no `#### ` line at its end.
    """
    solution, mark, gold = answer.rpartition("#### ")
    if not mark or not gold.strip():
        raise ValueError(f"expected a last line '#### <answer>', got {answer[-60:]!r}")
    return _CALCULATOR_MARK.sub("", solution).strip(), gold.strip()


def _read(file_split: str, data_dir: files.AnyPath | None) -> list[Question]:
    path = reading.data_path(f"gsm8k/{file_split}.jsonl", data_dir)
    questions = []
    for row, record in enumerate(reading.read_json_lines(path)):
        text = reading.field(record, "question", str, path, row)
        try:
            rationale, gold = parse_answer(reading.field(record, "answer", str, path, row))
        except ValueError as error:
            raise ValueError(f"benchmarks: {path} record {row}: field 'answer': {error}") from error
        questions.append(Question(f"gsm8k/{file_split}/{row}", "gsm8k", text, gold, rationale))
    return questions
