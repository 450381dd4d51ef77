"""Demonstrations in front of a question, drawn while the data are read.

A training row gets other demonstrations whenever it is read, by SeqIO's seeds: the same seed gives the same draws. A
held-out row always gets the same ones, decided by its id, so that evaluations can be compared. Where a question's samples
follow each other they may have one draw in common: their inputs are then the same, and packing stores them once. The pool is
training questions only, and a row never gets its own question.

Demonstrations are tokenised once, not every time they are shown: no piece reaches across the blank between two
demonstrations, so the ids of a text are those of its parts, one after another.
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import seqio
import tensorflow as tf

from cotdistill_jax import formats
from cotdistill_jax.benchmarks import Question
from cotdistill_jax.features.teacher import Example

# One more than shown, because one of them may be the row's own question.
_NUM_DRAWN = formats.NUM_DEMONSTRATIONS + 1
_SEED = "demonstrations_seed"


class _Blocks(NamedTuple):
    """N demonstrations: questions and texts, string [N]; their ids, int32 [all]; where each begins, int32 [N + 1]."""

    questions: tf.Tensor
    texts: tf.Tensor
    ids: tf.Tensor
    offsets: tf.Tensor


def in_context_inputs(
    pool: Callable[[], Sequence[Question]],
    form: formats.Format,
    vocabulary: seqio.SentencePieceVocabulary,
    once_per_question: bool = False,
) -> Callable[[tf.data.Dataset], tf.data.Dataset]:
    """Returns a SeqIO preprocessor that makes `inputs` (ids) and `inputs_pretokenized` of four demonstrations and the question.

    Args:
        pool: Loads the questions to draw from, with rationales; called when data are asked for.
        form: An in-context format.
        vocabulary: The student's vocabulary.
        once_per_question: Whether neighbouring rows of one question get the same demonstrations.

    Raises, when data are asked for:
        ValueError: If the pool has fewer than five different questions.
    """
    load_blocks = functools.cache(lambda: _render(pool(), form, vocabulary))

    def preprocess(dataset: tf.data.Dataset) -> tf.data.Dataset:
        blocks = load_blocks()
        num_blocks = len(blocks.texts)

        def prepend(example: Example) -> Example:
            rest = {name: value for name, value in example.items() if name != _SEED}
            by_id = tf.strings.to_hash_bucket_fast(example["question_id"], 2**31 - 1)
            fixed = tf.stack([by_id, tf.zeros_like(by_id)])
            seed = tf.where(example["held_out"] > 0, fixed, example[_SEED])
            drawn = draw_rows(num_blocks, _NUM_DRAWN, seed)
            is_other = tf.gather(blocks.questions, drawn) != example["question"]
            shown = tf.boolean_mask(drawn, is_other)[: formats.NUM_DEMONSTRATIONS]
            query = tf.strings.join([form.query_prefix, example["question"], form.query_suffix])
            places = tf.ragged.range(
                tf.gather(blocks.offsets, shown), tf.gather(blocks.offsets, shown + 1)
            )
            ids = [tf.gather(blocks.ids, places.values), vocabulary.encode_tf(query)]
            text = tf.strings.reduce_join(tf.gather(blocks.texts, shown))
            return {
                **rest,
                "inputs": tf.concat(ids, axis=0),
                "inputs_pretokenized": text + query,
            }

        dataset = _with_seed(dataset)
        if once_per_question:
            dataset = dataset.scan((tf.constant(""), tf.zeros([2], tf.int64)), _seed_of_question)
        return dataset.map(prepend, num_parallel_calls=tf.data.AUTOTUNE)

    return preprocess


@seqio.map_over_dataset(num_seeds=1)
def _with_seed(example: Example, seed: tf.Tensor) -> Example:
    return {**example, _SEED: seed}


def _seed_of_question(
    before: tuple[tf.Tensor, tf.Tensor], example: Example
) -> tuple[tuple[tf.Tensor, tf.Tensor], Example]:
    """Returns an example with the seed of the example before it, where that one has the same question."""
    question, seed = before
    seed = tf.where(example["question_id"] == question, seed, example[_SEED])
    return (example["question_id"], seed), {**example, _SEED: seed}


def _render(
    pool: Sequence[Question], form: formats.Format, vocabulary: seqio.SentencePieceVocabulary
) -> _Blocks:
    """Returns the demonstrations of a pool."""
    # A question that occurs twice could stand in front of itself, so each text is in the pool once.
    distinct = {question.question: question for question in pool}
    if len(distinct) < _NUM_DRAWN:
        raise ValueError(
            f"tasks: {form.name} needs at least {_NUM_DRAWN} different questions to draw demonstrations from, got "
            f"{len(distinct)}. Enlarge the pool."
        )
    texts = [form.render_demonstration(q.question, q.rationale, q.gold) for q in distinct.values()]
    ids = vocabulary.tokenizer.encode(texts)
    return _Blocks(
        tf.constant(list(distinct)),
        tf.constant(texts),
        tf.constant(np.concatenate(ids), tf.int32),
        tf.constant(np.cumsum([0, *map(len, ids)]), tf.int32),
    )


def draw_rows(num_rows: int, num_drawn: int, seed: tf.Tensor) -> tf.Tensor:
    """Returns different rows of a table, every set of rows in every order as probable as any other.

    Floyd's algorithm, and a shuffle because its order is not random: the cost does not grow with the table.

    Args:
        num_rows: Rows of the table.
        num_drawn: How many to draw, at most `num_rows`.
        seed: int [2], seed of a stateless random operation.

    Returns:
        int32 [num_drawn], values in [0, num_rows).

    Source: Bentley and Floyd, Programming pearls: a sample of brilliance, CACM 30(9), 1987.
    """
    uniform = tf.random.stateless_uniform([2, num_drawn], seed, dtype=tf.float64)
    lasts = range(num_rows - num_drawn, num_rows)
    candidates = tf.cast(uniform[0] * [last + 1.0 for last in lasts], tf.int32)
    drawn: list[tf.Tensor] = []
    for index, last in enumerate(lasts):
        candidate = candidates[index]
        taken = tf.reduce_any(tf.equal(tf.stack(drawn), candidate)) if drawn else False
        drawn.append(tf.where(taken, last, candidate))
    return tf.gather(tf.stack(drawn), tf.argsort(uniform[1]))
