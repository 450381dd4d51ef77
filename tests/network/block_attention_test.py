"""Attention in blocks is attention: values, gradients, and what it skips."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cotdistill_jax import network
from cotdistill_jax.network import attention, biases, block_attention

BLOCK = 4
HEADS = 3
CONFIG = network.T5Config(
    vocab_size=32, emb_dim=16, num_heads=2, head_dim=8, mlp_dim=16, num_encoder_layers=2, num_decoder_layers=2,
    relative_buckets=8, relative_max_distance=8,
)  # fmt: skip


def _mask_bias(queries, keys, causal=False):
    """What a query sees of its own segment; 0 is padding."""
    queries, keys = np.asarray(queries), np.asarray(keys)
    mask = (queries[:, :, None] == keys[:, None, :]) & (keys[:, None, :] > 0)
    if causal:
        mask &= np.tril(np.ones(mask.shape[1:], bool))
    return biases.mask_bias(mask[:, None])


SELF = [[1] * 7 + [2] * 2 + [3] * 4 + [0] * 3, [1] * 2 + [2] * 3 + [0] * 11]
SOURCE = [[1] * 9 + [2] * 8 + [3] * 3, [1] * 4 + [2] * 5 + [0] * 11]
CASES = {
    "encoder": (_mask_bias(SELF, SELF), True),
    "decoder": (_mask_bias(SELF, SELF, causal=True), True),
    "cross": (_mask_bias(SELF, SOURCE), False),
    "nothing is visible": (_mask_bias(SELF, np.zeros((2, 16), int)), False),
}


@pytest.mark.parametrize(("mask_bias", "has_bias"), CASES.values(), ids=CASES.keys())
def test_values_and_gradients_equal_those_of_all_scores(mask_bias, has_bias):
    config = dataclasses.replace(CONFIG, num_heads=HEADS)
    relative = biases.RelativeBias(config, bidirectional=True)
    table = relative.init(jax.random.key(0), 8, method="square")
    rows, _, length, keys = mask_bias.shape
    shapes = [(rows, HEADS, n, 5) for n in (length, keys, keys, length)]
    *inputs, direction = (
        jax.random.normal(jax.random.key(n), shape) for n, shape in enumerate(shapes)
    )
    # What a query that sees nothing gets is no one's matter.
    direction = direction * biases.is_visible(mask_bias).any(axis=-1, keepdims=True)

    def in_blocks(table, *inputs):
        bias = relative.apply(table, length, BLOCK, method="by_block") if has_bias else None
        return jnp.sum(
            block_attention.attend_in_blocks(*inputs, mask_bias, bias, BLOCK) * direction
        )

    def all_scores(table, *inputs):
        bias = relative.apply(table, length, method="square") if has_bias else 0.0
        return jnp.sum(attention.attend(*inputs, mask_bias + bias) * direction)

    found, expected = (
        jax.jit(jax.value_and_grad(form, argnums=(0, 1, 2, 3)))(table, *inputs)
        for form in (in_blocks, all_scores)
    )
    # float32 sums in another order, of numbers of order 1 to 10
    jax.tree.map(
        lambda got, wanted: np.testing.assert_allclose(got, wanted, rtol=2e-5, atol=1e-5),
        found,
        expected,
    )


def test_blocks_without_anything_visible_are_not_visited():
    order, numbers = block_attention.visited(CASES["decoder"][0], BLOCK)
    seen = [sorted(np.asarray(row[:n]).tolist()) for row, n in zip(order, numbers, strict=True)]
    # Row 0 has examples at 0-6, 7-8 and 9-12, row 1 at 0-1 and 2-4.
    assert seen == [[0], [0, 1], [1, 2], [2, 3]]
    _, numbers = block_attention.visited(CASES["nothing is visible"][0], BLOCK)
    assert not numbers.any()


def test_bfloat16_gradients_keep_their_dtypes():
    query = jnp.ones((1, 2, 4, 4), jnp.bfloat16)
    mask_bias, bias = jnp.zeros((1, 1, 4, 4)), jnp.zeros((1, 2, 4, 4))

    def total(query, bias):
        attended = block_attention.attend_in_blocks(query, query, query, mask_bias, bias, 4)
        return attended.astype(jnp.float32).sum()

    grads = jax.grad(total, (0, 1))(query, bias)
    assert [leaf.dtype.name for leaf in grads] == ["bfloat16", "float32"]


def _packed():
    rng = np.random.default_rng(0)
    positions = [
        [*range(5), *range(2), *range(2), *range(4), 0, 1, 2],
        [*range(2), *range(3), *range(11)],
    ]
    segments = np.array([[1] * 7 + [2] * 2 + [3] * 4 + [0] * 3, SELF[1]])
    return {
        "encoder_input_tokens": rng.integers(2, 32, (2, 20)) * (np.array(SOURCE) > 0),
        "decoder_input_tokens": rng.integers(2, 32, (2, 16)) * (segments > 0),
        "decoder_target_tokens": rng.integers(2, 32, (2, 16)) * (segments > 0),
        "encoder_segment_ids": np.array(SOURCE),
        "decoder_segment_ids": segments,
        "decoder_positions": np.array(positions),
    }  # fmt: skip


@pytest.mark.parametrize("changes", [{}, {"scan_layers": True, "remat": "full"}], ids=str)
def test_packed_rows_have_the_same_logits_and_gradients(changes):
    batch = _packed()
    config = dataclasses.replace(CONFIG, **changes)
    params = network.Transformer(config).init(jax.random.key(0), **batch, enable_dropout=False)

    def loss(params, config):
        logits = network.Transformer(config).apply(params, **batch, enable_dropout=False)
        real = batch["decoder_target_tokens"][..., None] > 0
        return jnp.sum(jnp.where(real, jax.nn.log_softmax(logits), 0.0)[..., 3])

    differentiated = jax.jit(jax.value_and_grad(loss), static_argnums=1)
    expected = differentiated({"params": params["params"]}, config)
    in_blocks = dataclasses.replace(config, attention_block=BLOCK)
    found = differentiated({"params": params["params"]}, in_blocks)
    jax.tree.map(
        lambda got, wanted: np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=2e-5),
        found,
        expected,
    )


def test_rows_that_are_not_packed_attend_as_ever_whatever_their_length():
    config = dataclasses.replace(CONFIG, attention_block=7)
    batch = {name: rows for name, rows in _packed().items() if name.endswith("tokens")}
    model = network.Transformer(config)
    params = model.init(jax.random.key(0), **batch, enable_dropout=False)
    plain = network.Transformer(CONFIG).apply(params, **batch, enable_dropout=False)
    found = model.apply(params, **batch, enable_dropout=False)
    np.testing.assert_array_equal(found, plain)


def test_lengths_that_are_no_multiples_are_refused():
    config = dataclasses.replace(CONFIG, attention_block=8)
    message = "network: 20 queries in blocks of 8; set the lengths of a row to multiples of 8"
    with pytest.raises(ValueError, match=message):
        network.Transformer(config).init(jax.random.key(0), **_packed(), enable_dropout=False)


def test_dropout_is_refused():
    with pytest.raises(ValueError, match=r"blocks of 4 knows no dropout, got dropout_rate = 0\.1"):
        dataclasses.replace(CONFIG, attention_block=4, dropout_rate=0.1)
