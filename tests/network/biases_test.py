"""What is added to the scores of an attention."""

import numpy as np

from cotdistill_jax import network


def test_relative_buckets_literal_and_symmetry():
    assert network.relative_buckets(False, 4, 4).tolist() == [3, 3, 2, 1, 0, 0, 0, 0, 0]
    both = network.relative_buckets(True)
    assert both[128] == 0 and both.max() == 31
    assert np.array_equal(both[129:], both[:128][::-1] + 16)
    assert np.array_equal(network.relative_buckets(False)[128:], np.zeros(129))
