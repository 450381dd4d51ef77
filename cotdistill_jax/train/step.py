"""The training step: one jit-compiled function from (state, batch) to (state, metrics). No TensorFlow here.

The loss of a batch is the mean over its target tokens, weighted by `decoder_loss_weights`. With microbatches the sums are accumulated and
divided once, so the gradient is that of the whole batch whatever their number.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from cotdistill_jax import network, partitioning
from cotdistill_jax.checkpoints import TrainState, abstract_variables, init_variables, placement
from cotdistill_jax.losses import LossFn, Parts, chunked_sum

Batch = Mapping[str, Any]
Metrics = dict[str, jax.Array]
StepFn = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]

_TINY = 1e-9


def state_shardings(
    mesh: Mesh, config: network.T5Config, optimizer: optax.GradientTransformation
) -> TrainState:
    """Returns a `TrainState` whose leaves are the shardings of a run's state."""
    variables = abstract_variables(config)
    params = partitioning.param_shardings(mesh, variables)
    opt_state = partitioning.state_shardings(mesh, optimizer, variables["params"], params)
    return TrainState(partitioning.replicated(mesh), params, opt_state)


def init_state(
    mesh: Mesh,
    config: network.T5Config,
    optimizer: optax.GradientTransformation,
    seed: int,
    params: Any = None,
) -> TrainState:
    """Returns the state before the first step, laid out over the mesh.

    Args:
      mesh: from `partitioning.make_mesh`.
      config: dimensions of the network.
      optimizer: its `init` makes the optimizer state.
      seed: seed of the drawn parameters.
      params: parameters to start from instead of drawn ones: arrays of any kind, or `StoredArray`s, of which each
        process reads what its devices hold.
    """
    shardings = state_shardings(mesh, config, optimizer)

    def start(params: Any) -> tuple[jax.Array, Any]:
        return jnp.zeros((), jnp.int32), optimizer.init(params)

    if params is None:
        params = init_variables(config, jax.random.key(seed), shardings.params)["params"]
    else:
        params = placement.place(params, shardings.params)
    made = jax.jit(start, out_shardings=(shardings.step, shardings.opt_state))
    number, opt_state = made(params)
    return TrainState(number, params, opt_state)


def unstacked(
    config: network.T5Config, params: Any, mesh: Mesh | None
) -> tuple[network.T5Config, dict[str, Any]]:
    """Returns the network and the parameters of one that scans its layers as one that does not, which can decode.

    Args:
      config: with `scan_layers`.
      params: stacked.
      mesh: that they are on; the result is laid out as a run's would be that does not scan. None: one device.
    """
    if mesh is None:
        return dataclasses.replace(config, scan_layers=False), network.unstack_layers(params)
    config, program, _ = unstacking(config, mesh)
    return config, program(params)


def unstacking(config: network.T5Config, mesh: Mesh) -> tuple[network.T5Config, Any, Any]:
    """Returns what `unstacked` runs on a mesh: the network that does not scan, the jitted function, its result's shardings."""
    config = dataclasses.replace(config, scan_layers=False)
    shardings = partitioning.param_shardings(mesh, abstract_variables(config))
    return config, jax.jit(network.unstack_layers, out_shardings=shardings), shardings


def make_train_step(
    mesh: Mesh,
    config: network.T5Config,
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    num_microbatches: int = 1,
    seed: int = 0,
    skip_nonfinite: bool = False,
    weigh_alike: bool = False,
    num_loss_chunks: int = 1,
) -> StepFn:
    """Returns the compiled step; it donates the state it is given.

    Args:
      mesh: where state and batch live.
      config: dimensions of the network.
      loss_fn: `losses.sample_matching` or `losses.distribution_matching`, options bound.
      optimizer: an Optax transformation.
      num_microbatches: the batch is cut into this many parts along B, computed one after the other.
      seed: seed of dropout; the key of a step is folded from it and the step number.
      skip_nonfinite: a step whose loss or gradient is NaN or infinite counts, but leaves parameters and optimizer
        state as they were.
      weigh_alike: whether the microbatches count alike, see `weigh_microbatches_alike`.
      num_loss_chunks: the target positions are cut into this many parts for logits and loss, so that [B, L, V] is never
        held whole; must divide L.

    The metrics are float32 scalars: `loss` (weighted mean over target tokens), `nll` and `token_accuracy` (plain means over
    target tokens), `teacher_share` (share of target tokens with a teacher distribution), `grad_norm` (before
    clipping), `num_target_tokens`, `num_input_tokens`, `num_examples`.
    """

    def summed_loss(params: Any, batch: Batch, key: jax.Array) -> tuple[jax.Array, Metrics]:
        weights = batch["decoder_loss_weights"].astype(jnp.float32)
        total, parts = weighted_sum(config, loss_fn, params, batch, key, num_loss_chunks)
        return total, _sums(total, parts, weights, batch)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        if weigh_alike:
            batch = weigh_microbatches_alike(batch, num_microbatches)
        with partitioning.constrained_activations(mesh):
            gradients, sums = _accumulate(summed_loss, state.params, batch, key, num_microbatches)
        # A batch without target tokens gives 0, not NaN; a weight may be far below 1.
        weight = jnp.maximum(sums.pop("weight"), _TINY)
        count = jnp.maximum(sums["num_target_tokens"], 1.0)
        gradients = jax.tree.map(lambda gradient: gradient / weight, gradients)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = {
            name: value if name.startswith("num_") else value / count
            for name, value in sums.items()
        }
        metrics["loss"] = sums["loss"] / weight
        metrics["grad_norm"] = optax.tree.norm(gradients)
        if skip_nonfinite:
            finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["grad_norm"])
            params, opt_state = jax.tree.map(
                functools.partial(jnp.where, finite),
                (params, opt_state),
                (state.params, state.opt_state),
            )
        return TrainState(state.step + 1, params, opt_state), metrics

    shardings = state_shardings(mesh, config, optimizer)
    return jax.jit(
        step,
        in_shardings=(shardings, partitioning.batch_sharding(mesh)),
        out_shardings=(shardings, partitioning.replicated(mesh)),
        donate_argnums=0,
    )


def weighted_sum(
    config: network.T5Config,
    loss_fn: LossFn,
    params: Any,
    batch: Batch,
    dropout_key: jax.Array | None,
    num_loss_chunks: int,
) -> tuple[jax.Array, Parts]:
    """Returns the token losses of a batch times their weights, summed, float32 [], and their parts, [B, L] each.

    Args:
      config: dimensions of the network.
      loss_fn: as for `make_train_step`.
      params: parameters of the network.
      batch: with `decoder_loss_weights` [B, L].
      dropout_key: of dropout, where the network has any; None: without.
      num_loss_chunks: as for `make_train_step`.
    """
    model = network.Transformer(config)
    rngs = {}
    if config.dropout_rate > 0 and dropout_key is not None:
        rngs["dropout"] = dropout_key

    def project(head: Any, hidden: jax.Array) -> jax.Array:
        logits: Any = model.apply({"params": head}, hidden, method="logits")
        return logits

    hidden: Any = model.apply(
        {"params": params},
        batch,
        bool(rngs),
        rngs=rngs,
        method=_decoder_output,
    )
    head = _head(params, config)
    weights = batch["decoder_loss_weights"].astype(jnp.float32)
    if num_loss_chunks > 1:
        return chunked_sum(loss_fn, project, head, hidden, batch, weights, num_loss_chunks)
    token_loss, parts = loss_fn(project(head, hidden), batch)
    return jnp.sum(token_loss * weights), parts


def check_loss(loss_fn: LossFn, config: network.T5Config, element_spec: Mapping[str, Any]) -> None:
    """Checks, before anything compiles, that a batch holds what the loss reads.

    Args:
      loss_fn: as for `make_train_step`.
      config: dimensions of the network.
      element_spec: shape and dtype of every array of a batch.

    Raises:
      ValueError: it does not: no teacher features, or of a wrong shape.
    """
    batch = {
        name: jax.ShapeDtypeStruct(tuple(spec.shape), spec.dtype)
        for name, spec in element_spec.items()
    }
    targets = batch["decoder_target_tokens"].shape
    jax.eval_shape(loss_fn, jax.ShapeDtypeStruct((*targets, config.vocab_size), jnp.float32), batch)


def put_batch(mesh: Mesh, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
    """Returns the global arrays of a batch that every host holds whole; each host places its devices' rows."""
    sharding = partitioning.batch_sharding(mesh)
    return {
        name: jax.make_array_from_process_local_data(sharding, rows, rows.shape)
        for name, rows in batch.items()
    }


def weigh_microbatches_alike(batch: Batch, num_microbatches: int) -> dict[str, Any]:
    """Returns `batch` with token weights under which every microbatch adds the mean over its own target tokens.

    By default the weights of a batch are those of its data, whatever microbatch they fall into.

    Args:
      batch: `decoder_loss_weights` [B, L], 0 on padding; row i belongs to microbatch i % `num_microbatches`.
      num_microbatches: parts of the batch, a divisor of B.

    Example: two microbatches, weights [[1, 1, 1], [1, 0, 0]]: [[2/3, 2/3, 2/3], [2, 0, 0]].
    """
    weights = batch["decoder_loss_weights"].astype(jnp.float32)
    of_row = jnp.sum(weights, axis=-1).reshape(-1, num_microbatches)
    counts = jnp.sum(of_row, axis=0)
    scale = jnp.sum(counts) / num_microbatches / jnp.maximum(counts, _TINY)
    of_each = jnp.broadcast_to(scale, of_row.shape).reshape(-1, 1)
    return {**batch, "decoder_loss_weights": weights * of_each}


def in_order_of_microbatches(batch: Batch, num_microbatches: int) -> Batch:
    """Returns the rows in an order whose equal parts are the microbatches: rows i % n = 0, then 1, ...

    Args:
      batch: arrays [B, ...].
      num_microbatches: n, a divisor of B.

    Example: six rows, two microbatches: rows 0, 2, 4, 1, 3, 5.
    """
    if num_microbatches == 1:
        return batch
    parts = _microbatches(batch, num_microbatches)
    return jax.tree.map(lambda rows: rows.reshape(-1, *rows.shape[2:]), parts)


def _microbatches(batch: Batch, num_microbatches: int) -> Batch:
    """Returns arrays [n, B / n, ...]. Row i goes to microbatch i % n: every device keeps the rows it holds."""
    return jax.tree.map(
        lambda rows: jnp.swapaxes(rows.reshape(-1, num_microbatches, *rows.shape[1:]), 0, 1), batch
    )


def _decoder_output(model: network.Transformer, batch: Batch, use_dropout: bool) -> jax.Array:
    """Returns the hidden states [B, L, D] that `Transformer.logits` maps to the vocabulary."""
    inputs, segments = batch["encoder_input_tokens"], batch.get("encoder_segment_ids")
    return model.decode_hidden(
        model.encode(inputs, segments, use_dropout),
        inputs,
        batch["decoder_input_tokens"],
        batch["decoder_target_tokens"],
        segments,
        batch.get("decoder_segment_ids"),
        batch.get("decoder_positions"),
        use_dropout,
    )


def _head(params: Any, config: network.T5Config) -> dict[str, Any]:
    """Returns the part of `params` that `Transformer.logits` reads."""
    if config.logits_via_embedding:
        return {"token_embedder": params["token_embedder"]}
    return {"decoder": {"logits_dense": params["decoder"]["logits_dense"]}}


def _accumulate(
    summed_loss: Callable[..., tuple[jax.Array, Metrics]],
    params: Any,
    batch: Batch,
    key: jax.Array,
    num_microbatches: int,
) -> tuple[Any, Metrics]:
    """Returns the gradient of the summed loss and the summed metrics of all microbatches."""
    gradient = jax.grad(summed_loss, has_aux=True)
    if num_microbatches == 1:
        return gradient(params, batch, key)
    parts = _microbatches(batch, num_microbatches)
    keys = jax.random.split(key, num_microbatches)
    first = functools.partial(jax.tree.map, lambda rows: rows[0])
    zeros = jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape, leaf.dtype),
        jax.eval_shape(gradient, params, first(parts), keys[0]),
    )

    def add(total: Any, part: Any) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, gradient(params, *part)), None

    return jax.lax.scan(add, zeros, (parts, keys))[0]


def _sums(total: jax.Array, parts: Metrics, weights: jax.Array, batch: Batch) -> Metrics:
    """Returns sums over one (micro)batch; `step` divides those that are means over target tokens."""
    inputs = batch["encoder_input_tokens"]
    segments = batch.get("decoder_segment_ids")
    if segments is None:
        examples = jnp.any(inputs > 0, axis=-1)
    else:
        examples = (segments > 0) & (batch["decoder_positions"] == 0)
    real = (weights > 0).astype(jnp.float32)
    return {
        "loss": total,
        "nll": jnp.sum(parts["nll"] * real),
        "token_accuracy": jnp.sum(parts["correct"] * real),
        "teacher_share": jnp.sum(parts["has_teacher"] * real),
        "weight": jnp.sum(weights),
        "num_target_tokens": jnp.sum(real),
        "num_input_tokens": jnp.sum(inputs > 0).astype(jnp.float32),
        "num_examples": jnp.sum(examples).astype(jnp.float32),
    }
