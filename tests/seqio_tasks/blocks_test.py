"""Blocks: as long as they should be, and as many that the rates of examples come out."""

import itertools

import pytest
import tensorflow as tf

from cotdistill_jax.seqio_tasks import blocks


def draw(sizes, rates, number, seed=0):
    datasets = [tf.data.Dataset.from_tensors(task).repeat() for task in range(len(rates))]
    return list(blocks.in_blocks(sizes)(datasets, rates, seed).take(number).as_numpy_iterator())


def test_every_turn_lasts_whole_blocks_and_examples_come_at_their_rates():
    sizes, rates = (6, 2, 3), (0.5, 0.3, 0.2)
    drawn = draw(sizes, rates, 30_000)
    turns = [(task, len(list(group))) for task, group in itertools.groupby(drawn)]
    assert all(length % sizes[task] == 0 for task, length in turns[:-1])
    for task, rate in enumerate(rates):
        # 7,500 blocks or so: a standard deviation of at most 0.006
        assert drawn.count(task) / len(drawn) == pytest.approx(rate, abs=0.02)
    assert drawn[:500] == draw(sizes, rates, 500)
    assert drawn[:500] != draw(sizes, rates, 500, seed=1)


def test_a_size_per_dataset_is_needed():
    with pytest.raises(ValueError, match=r"blocks of \[6, 2\] got 3 datasets"):
        draw((6, 2), (0.5, 0.3, 0.2), 1)
