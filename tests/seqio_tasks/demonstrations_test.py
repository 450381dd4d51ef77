"""Drawing demonstrations: distinct rows, every set as probable as any other."""

import collections
import itertools

import pytest
import seqio
import tensorflow as tf

from cotdistill_jax import formats, seqio_tasks
from cotdistill_jax.benchmarks import Question
from cotdistill_jax.seqio_tasks import demonstrations

FORM = formats.get_format("in_context_answer_only")


def preprocessor(pool):
    return seqio_tasks.in_context_inputs(lambda: pool, FORM, seqio_tasks.vocabularies.arith())


def dataset(question, num=60):
    row = {"question_id": "q", "question": question, "held_out": 0}
    return tf.data.Dataset.from_tensors(row).repeat(num)


def test_all_sets_in_all_orders_are_drawn_equally_often():
    draw = tf.function(lambda seed: demonstrations.draw_rows(5, 3, seed))
    drawn = collections.Counter(
        tuple(draw(tf.constant([7, n])).numpy().tolist()) for n in range(6000)
    )
    assert set(drawn) == set(itertools.permutations(range(5), 3))
    # 100 expected of each of the 60; six standard deviations
    assert all(abs(count - 100) < 60 for count in drawn.values())


def test_all_rows_can_be_drawn_from_a_table_of_that_size():
    assert sorted(demonstrations.draw_rows(4, 4, tf.constant([1, 2])).numpy()) == [0, 1, 2, 3]


def test_own_question_never_shown_even_where_it_occurs_twice():
    pool = [Question(f"q{n}", "b", text, "1", "r") for n, text in enumerate("ABCDEAA")]
    with seqio.map_seed_manager(0):
        examples = list(preprocessor(pool)(dataset("A")).as_numpy_iterator())
    for example in examples:
        shown = [
            p.split("\n")[0] for p in example["inputs_pretokenized"].decode().split("Q: ")[1:-1]
        ]
        assert sorted(shown) == ["B", "C", "D", "E"]
    assert len({e["inputs_pretokenized"] for e in examples}) > 5


def test_neighbouring_samples_of_a_question_share_a_draw():
    pool = [Question(f"q{n}", "b", text, "1", "r") for n, text in enumerate("ABCDEFGH")]
    rows = [("a", "A")] * 3 + [("b", "B")] * 2 + [("a", "A")] * 3
    columns = {
        "question_id": [row[0] for row in rows],
        "question": [row[1] for row in rows],
        "held_out": [0] * len(rows),
    }
    made = seqio_tasks.in_context_inputs(
        lambda: pool, FORM, seqio_tasks.vocabularies.arith(), once_per_question=True
    )
    with seqio.map_seed_manager(0):
        inputs = [
            example["inputs_pretokenized"]
            for example in made(tf.data.Dataset.from_tensor_slices(columns)).as_numpy_iterator()
        ]
    assert inputs[0] == inputs[1] == inputs[2]
    assert inputs[3] == inputs[4]
    assert inputs[5] == inputs[6] == inputs[7]
    assert len(set(inputs)) == 3


def test_small_pool_raises():
    pool = [Question(f"q{n}", "b", text, "1", "r") for n, text in enumerate("ABCDA")]
    with pytest.raises(ValueError, match=r"at least 5 different questions .* got 4"):
        preprocessor(pool)(dataset("A"))
