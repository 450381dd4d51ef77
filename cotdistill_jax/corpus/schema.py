r"""The rows of every corpus: one schema, one way to make a row.

| field             | type           | content                                                                        |
|-------------------|----------------|--------------------------------------------------------------------------------|
| question_id       | text           | as `benchmarks.Question.id`                                                    |
| sample_id         | int32          | number of the teacher's sample; 0 for gold rows                                |
| question          | text           | question, without prompt                                                       |
| answer            | text           | gold answer                                                                    |
| text              | text           | solution that ends in its answer sentence: the target of chain-of-thought tasks |
| answer_sentence   | text           | "The answer is ...", cut from `text`: the target of answer-only tasks           |
| first_of_question | bool           | whether this is the question's first row: the only one that answer-only tasks use |
| held_out          | bool           | whether the row is of validation or test                                       |
| pieces            | int32 [L]      | student pieces of `text`, without EOS                                          |
| teacher_ids       | uint16 [L, K]  | the teacher's candidates for every piece, the piece itself first; 0 where unused |
| teacher_probs     | uint16 [L, K]  | their probabilities in steps of 1e-4, not renormalised; 0 where unused          |

The last three belong to corpora with a teacher. Their held-out rows are gold solutions with rows of zeros. A field
of 16 bits is stored as TFRecord stores integers, one to three bytes each.

Metadata of a dataset (`builder.info.metadata`): `schema_version`, `code_version`, `counts` per split (`in`, `out`,
`dropped` by reason), and with a teacher `vocabulary_sha256`, `alignment_method`, `top_k`, `teacher`.
"""

import collections
import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

import cotdistill_jax
from cotdistill_jax import formats
from cotdistill_jax.alignment.corpus_records import CorpusRecord
from cotdistill_jax.benchmarks import Question
from cotdistill_jax.teacher import TeacherRecord

VERSION = "1.0.0"
SCHEMA_VERSION = 1
TOP_K = 5
SPLITS = ("train", "validation", "test")
NEGATIVE_FORMAT = "in_context_cot_negative"
"""Wrong rationales in the format `in_context_cot`, for contrastive training; of split `train` alone, without a teacher's rows."""
# Five probabilities rounded to four decimals can add up to 1.0003; more than this is not rounding.
MAX_ROW_STEPS = 10_010

Example = tuple[str, dict[str, Any]]

_COT = formats.get_format("zero_shot_cot")
_ANSWER_ONLY = formats.get_format("zero_shot_answer_only")


@dataclasses.dataclass
class Counts:
    """How many rows of a split came in and went out, and why the others did not.

    Attributes:
        taken: Rows written.
        dropped: Rows left out, by reason.
    """

    taken: int = 0
    dropped: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)

    def to_json(self) -> dict[str, Any]:
        """Returns the counts as metadata hold them.

        Example: `Counts(9, Counter(wrong_answer=1)).to_json()` is `{"in": 10, "out": 9, "dropped": {"wrong_answer": 1}}`.
        """
        return {
            "in": self.taken + self.dropped.total(),
            "out": self.taken,
            "dropped": dict(sorted(self.dropped.items())),
        }


def features(top_k: int | None) -> tfds.features.FeaturesDict:
    """Returns the TFDS features of a corpus.

    Args:
        top_k: Candidates per piece, K; None for a corpus without a teacher.
    """
    fields: dict[str, Any] = {
        "question_id": tfds.features.Text(),
        "sample_id": np.int32,
        "question": tfds.features.Text(),
        "answer": tfds.features.Text(),
        "text": tfds.features.Text(),
        "answer_sentence": tfds.features.Text(),
        "first_of_question": np.bool_,
        "held_out": np.bool_,
    }
    if top_k is not None:
        fields |= {
            "pieces": tfds.features.Tensor(shape=(None,), dtype=np.int32),
            "teacher_ids": tfds.features.Tensor(shape=(None, top_k), dtype=np.uint16),
            "teacher_probs": tfds.features.Tensor(shape=(None, top_k), dtype=np.uint16),
        }
    return tfds.features.FeaturesDict(fields)


def metadata(**of_teacher: Any) -> tfds.core.MetadataDict:
    """Returns the metadata that every corpus carries, and those given; the builder adds `counts` while it writes."""
    return tfds.core.MetadataDict(
        schema_version=SCHEMA_VERSION,
        code_version=cotdistill_jax.__version__,
        counts={},
        **of_teacher,
    )


def gold_row(question: Question, held_out: bool) -> dict[str, Any]:
    """Returns the row of a gold solution, without teacher fields.

    Args:
        question: A question with a rationale.
        held_out: Whether it is of validation or test.

    Raises:
        ValueError: If the question has no rationale.
    """
    return {
        "question_id": question.id,
        "sample_id": 0,
        "question": question.question,
        "answer": question.gold,
        "text": _COT.render_target(question.rationale, question.gold),
        "answer_sentence": _ANSWER_ONLY.render_target(question.rationale, question.gold),
        "first_of_question": True,
        "held_out": held_out,
    }


def teacher_row(record: TeacherRecord | CorpusRecord, first_of_question: bool) -> dict[str, Any]:
    """Returns the row of a teacher's correct sample, without teacher fields.

    Args:
        record: A correct sample. Where its text has no answer sentence to cut out, the gold answer's is taken.
        first_of_question: Whether it is the first row of its question.
    """
    sentence = formats.cut_answer_sentence(record.text)
    return {
        "question_id": record.question_id,
        "sample_id": record.sample_id,
        "question": record.question,
        "answer": record.gold,
        "text": record.text,
        "answer_sentence": sentence or _ANSWER_ONLY.render_target(None, record.gold),
        "first_of_question": first_of_question,
        "held_out": False,
    }


def without_teacher(pieces: list[int], top_k: int = TOP_K) -> dict[str, np.ndarray]:
    """Returns the teacher fields of a gold row: its pieces and rows of zeros.

    Args:
        pieces: Student pieces of the row's text, without EOS.
        top_k: Candidates per piece.
    """
    empty = np.zeros((len(pieces), top_k), np.uint16)
    return {
        "pieces": np.array(pieces, np.int32),
        "teacher_ids": empty,
        "teacher_probs": empty,
    }


def teacher_fields(
    pieces: np.ndarray, teacher_ids: np.ndarray, teacher_probs: np.ndarray
) -> dict[str, np.ndarray]:
    """Returns the teacher fields of an aligned sample, checked.

    Args:
        pieces: int32 [L], without EOS.
        teacher_ids: uint16 [L, K].
        teacher_probs: uint16 [L, K], steps of 1e-4.

    Raises:
        ValueError: If the lengths differ, or the probabilities of a row add up to more than 1 and rounding.
    """
    if not len(pieces) == len(teacher_ids) == len(teacher_probs):
        raise ValueError(
            f"corpus: {len(pieces)} pieces, but {len(teacher_ids)} rows of teacher ids and {len(teacher_probs)} of "
            "probabilities. Align the sample again."
        )
    sums = teacher_probs.sum(axis=1, dtype=np.int64)
    if (sums > MAX_ROW_STEPS).any():
        raise ValueError(
            f"corpus: the teacher's probabilities of piece {int(sums.argmax())} add up to {sums.max()} steps of 1e-4, expected at "
            f"most {MAX_ROW_STEPS}. Repair or drop the sample where it is aligned."
        )
    return {"pieces": pieces, "teacher_ids": teacher_ids, "teacher_probs": teacher_probs}


def key(row: Mapping[str, Any]) -> str:
    """Returns what identifies a row in its split: `{question_id}#{sample_id}`."""
    return f"{row['question_id']}#{row['sample_id']}"


def write_counts(info: tfds.core.DatasetInfo, counts: Mapping[str, Counts]) -> None:
    """Puts the counts of all splits into the metadata of a dataset that is being written."""
    info.metadata["counts"] = {split: count.to_json() for split, count in counts.items()}
