"""Which features a task has.

| feature         | dtype   | shape  | content                                                    |
|-----------------|---------|--------|------------------------------------------------------------|
| `inputs`        | int32   | [S]    | token ids of the input, EOS included                       |
| `targets`       | int32   | [L]    | token ids of the target, EOS included                      |
| `teacher_ids`   | int32   | [L, K] | candidates of every target token; 0 in unused slots        |
| `teacher_probs` | float32 | [L, K] | their probabilities, not renormalised; 0.0 in unused slots |

A teacher row belongs to the target token at the same position. A row without mass (answer-only
examples, gold rationales) asks for the plain likelihood of the target token. All tasks of a mixture
carry the same features, so answer-only tasks carry rows of zeros (`zero_teacher`).

A mixture may add `targets_weights`, float32 [L], positive: the weight of every target token in the loss. Without
it all weigh the same. A mixture with wrong rationales adds `targets_negative`, int32 [L]: 1 in targets that the student is
to find unlikely (`losses.unlikelihood`), else 0.
"""

import dataclasses

import seqio
import tensorflow as tf

WEIGHTS = "targets_weights"
NEGATIVE = "targets_negative"


@dataclasses.dataclass(frozen=True)
class TeacherFeature(seqio.Feature):
    """A rank-2 feature with one row of `top_k` values per target token.

    Attributes:
        top_k: Width of a row, K.
    """

    top_k: int = 5


def text_features(vocabulary: seqio.Vocabulary) -> dict[str, seqio.Feature]:
    """Returns the features `inputs` and `targets`, for tasks that need no teacher (evaluation).

    Args:
        vocabulary: The student's vocabulary.

    Example:
        >>> sorted(text_features(seqio.ByteVocabulary()))
        ['inputs', 'targets']
    """
    return {
        "inputs": seqio.Feature(vocabulary, add_eos=True),
        "targets": seqio.Feature(vocabulary, add_eos=True),
    }


def output_features(vocabulary: seqio.Vocabulary, k: int = 5) -> dict[str, seqio.Feature]:
    """Returns the four features of a distillation task.

    Args:
        vocabulary: The student's vocabulary; teacher ids lie in [0, vocabulary.vocab_size).
        k: Candidates per target token in the corpus; `check_teacher` compares it with the data.

    Raises:
        ValueError: If `k` is not positive.

    Example:
        >>> sorted(output_features(seqio.ByteVocabulary(), k=5))
        ['inputs', 'targets', 'teacher_ids', 'teacher_probs']
    """
    if k < 1:
        raise ValueError(f"features: k must be at least 1, got {k}")
    ids = seqio.PassThroughVocabulary(size=vocabulary.vocab_size)
    return {
        **text_features(vocabulary),
        "teacher_ids": TeacherFeature(ids, add_eos=False, dtype=tf.int32, rank=2, top_k=k),
        "teacher_probs": TeacherFeature(ids, add_eos=False, dtype=tf.float32, rank=2, top_k=k),
    }
