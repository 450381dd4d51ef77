"""What is added to the scores of an attention: relative positions and masks."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array

from cotdistill_jax.network.config import T5Config
from cotdistill_jax.network.drawing import parameter

_MASKED = -1e10  # T5X's value: large enough to vanish in a float32 softmax, finite in bfloat16
_RELATIVE_INIT = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform")


def relative_buckets(
    bidirectional: bool, num_buckets: int = 32, max_distance: int = 128
) -> np.ndarray:
    """Returns the bucket of every clipped relative position, int32 [2 * max_distance + 1].

    Entry `max_distance + d` is the bucket of key position minus query position d, for d in
    [-max_distance, max_distance]; positions further away share the outermost buckets. Half of the
    buckets of a direction hold one distance each, the others grow logarithmically.

    Args:
        bidirectional: Whether keys after the query have buckets of their own (encoder) or share
            bucket 0 (decoder, where they are masked anyway).
        num_buckets: Rows of the bias table.
        max_distance: First distance of the last bucket.

    Example:
        `relative_buckets(False, 4, 4)` is `[3, 3, 2, 1, 0, 0, 0, 0, 0]`.

    Source: section 2.1 of Raffel et al. 2020; float32 logarithm as T5X computes it.
    """
    offset = np.arange(-max_distance, max_distance + 1)
    if bidirectional:
        num_buckets //= 2
    distance = np.abs(offset) if bidirectional else np.maximum(-offset, 0)
    exact = num_buckets // 2
    ratio = np.maximum(distance, 1).astype(np.float32) / exact
    logarithmic = np.log(ratio + np.finfo(np.float32).eps) / np.log(max_distance / exact)
    far = exact + (logarithmic * (num_buckets - exact)).astype(np.int32)
    buckets = np.where(distance < exact, distance, np.minimum(far, num_buckets - 1))
    if bidirectional:
        buckets = buckets + num_buckets * (offset > 0)
    return buckets.astype(np.int32)


class RelativeBias(nn.Module):
    """Bucketed relative position bias of one stack."""

    config: T5Config
    bidirectional: bool

    @nn.compact
    def __call__(self, offsets: Array | np.ndarray) -> Array:
        """Returns the bias [H, ...] of key minus query positions (int, [...])."""
        cfg = self.config
        shape = (cfg.num_heads, cfg.relative_buckets)
        axes = ("heads", "relpos_buckets")
        table = parameter(self, "rel_embedding", _RELATIVE_INIT, shape, axes)
        limit = cfg.relative_max_distance
        buckets = relative_buckets(self.bidirectional, cfg.relative_buckets, limit)
        numeric = np if isinstance(offsets, np.ndarray) else jnp
        index = numeric.asarray(buckets)[numeric.clip(offsets, -limit, limit) + limit]
        return jnp.asarray(table)[:, index]

    def square(self, length: int) -> Array:
        """Returns the bias [1, H, length, length] of a whole sequence attending to itself."""
        position = np.arange(length)
        return self(position[None, :] - position[:, None])[None]

    def by_block(self, length: int, block: int) -> Array:
        """Returns what `square` is made of in blocks: [2n - 1, H, block, block], n being `length / block`.

        Blocks as far from the diagonal as each other are alike: that of queries i and keys j is entry n - 1 + j - i.
        """
        position, last = np.arange(block), length // block - 1
        within = position[None, :] - position[:, None]
        return self(block * np.arange(-last, last + 1)[:, None, None] + within).swapaxes(0, 1)


def attention_mask(
    real_keys: Array, query_segments: Array | None = None, key_segments: Array | None = None
) -> Array:
    """Returns bool [B, 1, queries or 1, keys]: which keys a query may see."""
    mask = real_keys[:, None, None, :]
    if query_segments is None or key_segments is None:
        return mask
    return mask & (query_segments[:, None, :, None] == key_segments[:, None, None, :])


@jax.custom_vjp
def add_over_batch(mask_bias: Array, bias: Array) -> Array:
    """Returns mask_bias [B, 1, Q, K] + bias [1, H, Q, K], whose gradient flows to `bias` alone.

    Added once per stack, not in every layer; the gradient's sum over B is a matrix product with ones, several
    times faster on CPUs than the reduction that differentiation would make.
    """
    return mask_bias + bias


def _add_over_batch_forward(mask_bias: Array, bias: Array) -> tuple[Array, None]:
    return add_over_batch(mask_bias, bias), None


def _add_over_batch_backward(_: None, gradient: Array) -> tuple[None, Array]:
    batch = gradient.shape[0]
    summed = jnp.ones((1, batch), gradient.dtype) @ gradient.reshape(batch, -1)
    return None, summed.reshape(1, *gradient.shape[1:])


add_over_batch.defvjp(_add_over_batch_forward, _add_over_batch_backward)


def mask_bias(mask: Array | np.ndarray) -> Array:
    """Returns float32 0 where the mask is true and a very negative number elsewhere."""
    return jnp.where(mask, jnp.float32(0), jnp.float32(_MASKED))


def is_visible(mask_bias: Array) -> Array:
    """Returns the mask that `mask_bias` was made of."""
    return mask_bias == 0


class BlockBiases(NamedTuple):
    """The biases of an attention in blocks, which reads from the mask what it may skip.

    Attributes:
        mask_bias: float32 [B, 1, Q, K] from `mask_bias`.
        bias: float32 from `RelativeBias.by_block`, or None.
    """

    mask_bias: Array
    bias: Array | None
