"""`attend` is softmax attention: values and all gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cotdistill_jax.network import attention


def _plain(query, key, value, bias):
    scores = jnp.einsum("bhqd,bhkd->bhqk", query, key) + bias
    return jnp.einsum("bhqk,bhkd->bhqd", jax.nn.softmax(scores), value)


@pytest.mark.parametrize("bias_shape", [(2, 3, 5, 7), (1, 3, 5, 7), (2, 1, 1, 7)])
def test_value_and_gradients_equal_those_of_the_softmax(bias_shape):
    keys = jax.random.split(jax.random.key(0), 5)
    shapes = [(2, 3, 5, 4), (2, 3, 7, 4), (2, 3, 7, 4), bias_shape, (2, 3, 5, 4)]
    *inputs, direction = (jax.random.normal(k, s) for k, s in zip(keys, shapes, strict=True))
    inputs[3] = inputs[3].at[..., 2].set(-1e10)  # a masked key
    made, back = jax.vjp(attention.attend, *inputs)
    expected, expected_back = jax.vjp(_plain, *inputs)
    # float32 sums in another order, of numbers of order 1 to 10
    np.testing.assert_allclose(made, expected, rtol=1e-5, atol=1e-6)
    for got, wanted in zip(back(direction), expected_back(direction), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=3e-6)
    assert not back(direction)[1][:, :, 2].any()


def test_literal():
    query = jnp.zeros((1, 1, 1, 1))
    key = jnp.zeros((1, 1, 2, 1))
    value = jnp.array([2.0, 4.0]).reshape(1, 1, 2, 1)
    no_bias = jnp.zeros((1, 1, 1, 1))
    assert attention.attend(query, key, value, no_bias).item() == 3.0


def test_bfloat16_gradients_keep_their_dtypes():
    query = jnp.ones((1, 2, 3, 4), jnp.bfloat16)
    bias = jnp.zeros((1, 2, 3, 3))
    grads = jax.grad(lambda *args: attention.attend(*args).sum().astype(jnp.float32), (0, 1, 2, 3))(
        query, query, query, bias
    )
    assert [leaf.dtype.name for leaf in grads] == ["bfloat16"] * 3 + ["float32"]
