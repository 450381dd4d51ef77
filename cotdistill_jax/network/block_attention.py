"""Attention of packed rows, block by block: blocks in which nothing is visible are skipped.

A packed row of many examples is mostly mask: each token sees its own example. `attend_in_blocks` computes what
`attention.attend` does, visiting only the pairs of a block of queries and a block of keys in which a query sees a key in some
row of the batch. No weights [Q, K] are kept for the backward pass, which computes them again.

Source: Dao et al. 2022 (arXiv 2205.14135), algorithms 1 and 4, for the running softmax and its backward pass; section
3.3 for skipped blocks.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from cotdistill_jax.network.biases import is_visible

_SMALLEST_SUM = 1e-30  # of a query that visits no block

_Kept = tuple[Array, Array, Array, Array, Array | None, Array, Array]
_Sums = tuple[Array, Array, Array | None]  # gradients of keys, values and bias


class Blocks(NamedTuple):
    """Which blocks of keys each block of queries visits.

    Attributes:
        order: int32 [Q / block, K / block]; the first `numbers[i]` of row i are visited.
        numbers: int32 [Q / block].
    """

    order: Array
    numbers: Array


def visited(mask_bias: Array, block: int) -> Blocks:
    """Returns the blocks in which a query of some row sees a key.

    Args:
        mask_bias: Float32 [B, 1, Q, K] from `biases.mask_bias`.
        block: Queries, and keys, of a block; divides Q and K.
    """
    rows, _, queries, keys = mask_bias.shape
    cut = is_visible(mask_bias).reshape(rows, queries // block, block, keys // block, block)
    needed = cut.any(axis=(0, 2, 4))
    order = jnp.argsort(~needed, axis=-1, stable=True)
    return Blocks(order.astype(jnp.int32), needed.sum(axis=-1, dtype=jnp.int32))


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def attend_in_blocks(
    query: Array, key: Array, value: Array, mask_bias: Array, bias: Array | None, block: int
) -> Array:
    """Returns softmax(query key^T + mask_bias + bias) value, [B, H, Q, head_dim]; 0 for a block of queries that sees nothing.

    Args:
        query: [B, H, Q, head_dim].
        key: [B, H, K, head_dim].
        value: [B, H, K, head_dim], of the same dtype as `query` and `key`.
        mask_bias: Float32 [B, 1, Q, K] from `biases.mask_bias`; has no gradient.
        bias: Float32 [2n - 1, H, block, block] for n blocks of queries and as many of keys, see `RelativeBias.by_block`; or
            None.
        block: Queries, and keys, of a block; divides Q and K.

    Raises:
        ValueError: A length is not divisible.
    """
    return _forward(query, key, value, mask_bias, bias, block)[0]


def _forward(
    query: Array, key: Array, value: Array, mask_bias: Array, bias: Array | None, block: int
) -> tuple[Array, _Kept]:
    rows, heads, queries, width = query.shape
    for name, length in (("queries", queries), ("keys", key.shape[2])):
        if length % block:
            raise ValueError(
                f"network: {length} {name} in blocks of {block}; set the lengths of a row to multiples of {block}, or "
                "ATTENTION_BLOCK to a divisor of both"
            )
    blocks = visited(mask_bias, block)

    def of_queries(i: Array) -> tuple[Array, Array]:
        own = _part(query, i, block)

        def visit(j: Array, state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            highest, total, mixed = state
            at = blocks.order[i, j]
            scores = _scores(own, _part(key, at, block), mask_bias, bias, i, at)
            raised = jnp.maximum(highest, scores.max(axis=-1, keepdims=True))
            weights, faded = jnp.exp(scores - raised), jnp.exp(highest - raised)
            added = _product(
                "bhqk,bhkd->bhqd", weights.astype(value.dtype), _part(value, at, block)
            )
            total = total * faded + weights.sum(axis=-1, keepdims=True)
            return raised, total, mixed * faded + added

        lowest = jnp.full((rows, heads, block, 1), jnp.finfo(jnp.float32).min)
        nothing = jnp.zeros((rows, heads, block, width))
        start = (lowest, jnp.zeros_like(lowest), nothing)
        highest, total, mixed = jax.lax.fori_loop(0, blocks.numbers[i], visit, start)
        total = jnp.maximum(total, _SMALLEST_SUM)
        return (mixed / total).astype(value.dtype), highest + jnp.log(total)

    found = jax.lax.map(of_queries, jnp.arange(queries // block))
    mixed, log_total = (
        jnp.moveaxis(part, 0, 2).reshape(rows, heads, queries, -1) for part in found
    )
    return mixed, (query, key, value, mask_bias, bias, mixed, log_total)


def _backward(
    block: int, kept: _Kept, gradient: Array
) -> tuple[Array, Array, Array, None, Array | None]:
    query, key, value, mask_bias, bias, mixed, log_total = kept
    blocks = visited(mask_bias, block)
    inner = (gradient.astype(jnp.float32) * mixed).sum(axis=-1, keepdims=True)

    def of_queries(sums: _Sums, i: Array) -> tuple[_Sums, Array]:
        own, given, their_inner, their_total = (
            _part(array, i, block) for array in (query, gradient, inner, log_total)
        )

        def visit(j: Array, state: tuple[Array, _Sums]) -> tuple[Array, _Sums]:
            of_query, (of_key, of_value, of_bias) = state
            at = blocks.order[i, j]
            keys = _part(key, at, block)
            weights = jnp.exp(_scores(own, keys, mask_bias, bias, i, at) - their_total)
            of_weights = _product("bhqd,bhkd->bhqk", given, _part(value, at, block))
            of_scores = weights * (of_weights - their_inner)
            if of_bias is not None:
                place = _diagonal(of_bias, i, at)
                of_bias = of_bias.at[place].add(of_scores.sum(axis=0))
            of_scores, weights = of_scores.astype(key.dtype), weights.astype(value.dtype)
            of_query = of_query + _product("bhqk,bhkd->bhqd", of_scores, keys)
            of_key = _add(of_key, _product("bhqk,bhqd->bhkd", of_scores, own), at)
            of_value = _add(of_value, _product("bhqk,bhqd->bhkd", weights, given), at)
            return of_query, (of_key, of_value, of_bias)

        start = jnp.zeros(own.shape, jnp.float32)
        of_query, sums = jax.lax.fori_loop(0, blocks.numbers[i], visit, (start, sums))
        return sums, of_query.astype(query.dtype)

    zeros = functools.partial(jnp.zeros_like, dtype=jnp.float32)
    start = (zeros(key), zeros(value), None if bias is None else zeros(bias))
    sums, found = jax.lax.scan(of_queries, start, jnp.arange(query.shape[2] // block))
    of_query = jnp.moveaxis(found, 0, 2).reshape(query.shape)
    return of_query, sums[0].astype(key.dtype), sums[1].astype(value.dtype), None, sums[2]


attend_in_blocks.defvjp(_forward, _backward)

_product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)


def _part(array: Array, index: Array, block: int) -> Array:
    """Returns a block of positions, [B, H, block, ...]."""
    return jax.lax.dynamic_slice_in_dim(array, index * block, block, axis=2)


def _scores(
    query: Array, key: Array, mask_bias: Array, bias: Array | None, i: Array, at: Array
) -> Array:
    """Returns the float32 scores [B, H, block, block] of block `i` of the queries and block `at` of the keys."""
    rows, _, block, _ = query.shape
    corner, shape = (0, 0, i * block, at * block), (rows, 1, block, block)
    scores = _product("bhqd,bhkd->bhqk", query, key)
    scores = scores + jax.lax.dynamic_slice(mask_bias, corner, shape)
    return scores if bias is None else scores + bias[_diagonal(bias, i, at)]


def _diagonal(bias: Array, i: Array, at: Array) -> Array:
    """Returns the entry of `RelativeBias.by_block` for block `i` of the queries and block `at` of the keys."""
    return bias.shape[0] // 2 + at - i


def _add(total: Array, part: Array, index: Array) -> Array:
    """Returns total [B, H, length, ...] with a block of positions added."""
    block = part.shape[2]
    there = _part(total, index, block)
    return jax.lax.dynamic_update_slice_in_dim(total, there + part, index * block, axis=2)
