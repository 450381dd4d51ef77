"""Packed rows and the chunked loss train exactly like single examples and all logits at once."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow as tf

from cotdistill_jax import losses, network
from cotdistill_jax.features import DistillEncDecFeatureConverter

CONFIG = network.T5Config(
    vocab_size=260,
    emb_dim=16,
    num_heads=2,
    head_dim=8,
    mlp_dim=24,
    num_encoder_layers=2,
    num_decoder_layers=2,
)
LENGTHS = {"inputs": 32, "targets": 24, "teacher_ids": 24, "teacher_probs": 24}
MODEL_INPUTS = (
    "encoder_input_tokens",
    "decoder_input_tokens",
    "decoder_target_tokens",
    "encoder_segment_ids",
    "decoder_segment_ids",
    "decoder_positions",
)


def _batch(dataset: tf.data.Dataset, pack: bool) -> dict[str, np.ndarray]:
    rows = list(DistillEncDecFeatureConverter(pack=pack)(dataset, LENGTHS).as_numpy_iterator())
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


@pytest.mark.parametrize("num_samples", [1, 3])
def test_packed_and_chunked_losses_and_gradients_equal_the_plain_ones(
    make_dataset: Callable[..., tf.data.Dataset],
    make_examples: Callable[..., list[dict[str, Any]]],
    num_samples: int,
) -> None:
    """With three samples of a question its inputs stand once in a packed row, and three times unpacked."""
    examples = make_examples(12)
    for index, example in enumerate(examples):
        example["inputs"] = examples[index - index % num_samples]["inputs"]
    dataset = make_dataset(examples)
    packed, unpacked = _batch(dataset, pack=True), _batch(dataset, pack=False)
    written, each = ((batch["encoder_input_tokens"] > 0).sum() for batch in (packed, unpacked))
    assert written == each if num_samples == 1 else written < 0.6 * each
    assert len(packed["decoder_target_tokens"]) < len(unpacked["decoder_target_tokens"]) / 2
    model = network.Transformer(CONFIG)
    variables = model.init(
        jax.random.key(0), *(unpacked[name] for name in MODEL_INPUTS[:3]), enable_dropout=False
    )

    def total(params: Any, batch: dict[str, np.ndarray]) -> jax.Array:
        inputs = {name: batch[name] for name in MODEL_INPUTS if name in batch}
        logits = model.apply({"params": params}, **inputs, enable_dropout=False)
        token_loss, _ = losses.distribution_matching(logits, batch)
        return jnp.sum(token_loss * batch["decoder_loss_weights"])

    def project(head: Any, hidden: jax.Array) -> jax.Array:
        return model.apply({"params": head}, hidden, method="logits")

    def chunked_total(params: Any, batch: dict[str, np.ndarray]) -> jax.Array:
        inputs, targets, labels, *placing = (batch[name] for name in MODEL_INPUTS)
        variables = {"params": params}
        encoded = model.apply(variables, inputs, placing[0], False, method="encode")
        hidden = model.apply(
            variables,
            encoded,
            inputs,
            targets,
            labels,
            *placing,
            False,
            method="decode_hidden",
        )
        head = {"decoder": {"logits_dense": params["decoder"]["logits_dense"]}}
        weights = batch["decoder_loss_weights"]
        return losses.chunked_sum(
            losses.distribution_matching, project, head, hidden, batch, weights, num_chunks=4
        )[0]

    params = variables["params"]
    expected, gradient = jax.jit(jax.value_and_grad(total))(params, unpacked)
    scale = max(np.abs(leaf).max() for leaf in jax.tree.leaves(gradient))
    assert scale > 1
    for loss in (total, chunked_total):
        made, made_gradient = jax.jit(jax.value_and_grad(loss))(params, packed)
        # The same sums in another order and over other shapes: float32 roundings.
        np.testing.assert_allclose(made, expected, rtol=1e-6)
        jax.tree.map(
            lambda left, right: np.testing.assert_allclose(left, right, atol=3e-6 * scale),
            made_gradient,
            gradient,
        )
