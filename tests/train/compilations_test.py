"""A step that is compiled again is noticed, and said once."""

import jax
import jax.numpy as jnp

from cotdistill_jax.train import compilations


def test_a_new_shape_is_said_once_and_the_same_shape_never():
    said = []
    double = jax.jit(lambda x: 2 * x)
    found = compilations.Compilations(double, said.append)
    for size in (3, 3, 4, 4):
        double(jnp.ones(size))
        found.check(size)
    assert found.count == 2
    (line,) = said
    assert "compiled again, 2 times in all, by step 4" in line
