"""The step: loss in chunks, one compilation, bfloat16, donation."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cotdistill_jax import losses, network, partitioning
from cotdistill_jax.checkpoints import TrainState
from cotdistill_jax.train import step

CONFIG = network.T5Config(
    vocab_size=64,
    emb_dim=16,
    num_heads=2,
    head_dim=8,
    mlp_dim=32,
    num_encoder_layers=1,
    num_decoder_layers=1,
)


def _batch(seed: int = 0) -> dict[str, np.ndarray]:
    """Four packed rows of 12 positions, two segments each, every other row without a teacher."""
    rng = np.random.default_rng(seed)
    tokens = {
        name: rng.integers(2, CONFIG.vocab_size, (4, 12)).astype(np.int32)
        for name in ("encoder_input_tokens", "decoder_input_tokens", "decoder_target_tokens")
    }
    segments = np.repeat([[1] * 6 + [2] * 6], 4, axis=0).astype(np.int32)
    probs = rng.dirichlet(np.ones(6), (4, 12))[..., :5].astype(np.float32)
    probs[::2] = 0
    return tokens | {
        "encoder_segment_ids": segments,
        "decoder_segment_ids": segments,
        "decoder_positions": np.tile(np.arange(6), (4, 2)).astype(np.int32),
        "decoder_loss_weights": np.ones((4, 12), np.int32),
        "decoder_teacher_ids": np.argsort(rng.random((4, 12, 64)))[..., :5].astype(np.int32),
        "decoder_teacher_probs": probs,
    }


def _steps(
    config: network.T5Config,
    num_steps: int,
    optimizer: optax.GradientTransformation | None = None,
    seed_of_batch: int | None = 0,
    **options: int,
) -> tuple[TrainState, list[float], step.StepFn]:
    """Returns the state, the losses and the compiled function after `num_steps` steps."""
    optimizer = optimizer or optax.sgd(0.1)
    mesh = partitioning.make_mesh()
    train_step = step.make_train_step(
        mesh, config, losses.distribution_matching, optimizer, **options
    )
    state = step.init_state(mesh, config, optimizer, seed=0)
    found = []
    for number in range(num_steps):
        rows = _batch(number if seed_of_batch is None else seed_of_batch)
        state, metrics = train_step(state, step.put_batch(mesh, rows))
        found.append(float(metrics["loss"]))
    return state, found, train_step


@pytest.mark.parametrize("tied", [False, True])
def test_loss_in_chunks_gives_the_same_loss_and_parameters(tied):
    config = dataclasses.replace(CONFIG, logits_via_embedding=tied)
    whole, whole_losses, _ = _steps(config, 2)
    chunked, chunked_losses, _ = _steps(config, 2, num_loss_chunks=4, num_microbatches=2)
    # float32 sums in another order
    np.testing.assert_allclose(chunked_losses, whole_losses, rtol=2e-6)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=2e-6),
        chunked.params,
        whole.params,
    )


@pytest.mark.parametrize("remat", ["dots", "full"])
def test_scanned_layers_computed_again_in_microbatches_give_the_same_parameters(remat):
    config = dataclasses.replace(CONFIG, num_encoder_layers=2, num_decoder_layers=2)
    scanned = dataclasses.replace(config, scan_layers=True, remat=remat)
    optimizer, mesh, found = optax.sgd(0.1), partitioning.make_mesh(), []
    start = step.init_state(mesh, config, optimizer, seed=0).params
    for network_config, options in (
        (config, {}),
        (scanned, {"num_microbatches": 2, "num_loss_chunks": 4}),
    ):
        params = network.stack_layers(start) if network_config.scan_layers else start
        state = step.init_state(mesh, network_config, optimizer, seed=0, params=params)
        train_step = step.make_train_step(
            mesh, network_config, losses.distribution_matching, optimizer, **options
        )
        for _ in range(2):
            state, _ = train_step(state, step.put_batch(mesh, _batch()))
        found.append(network.unstack_layers(state.params))
    # float32 sums in another order
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=2e-6), *found)


def test_chunks_that_do_not_divide_the_targets_are_refused():
    with pytest.raises(ValueError, match="num_chunks 5 does not divide the 12 target positions"):
        _steps(CONFIG, 1, num_loss_chunks=5)


def test_nothing_is_compiled_again_after_the_first_step():
    _, _, train_step = _steps(CONFIG, 4, seed_of_batch=None)
    assert train_step._cache_size() == 1


def test_the_state_given_to_a_step_is_donated():
    mesh = partitioning.make_mesh()
    optimizer = optax.adamw(1e-3)
    state = step.init_state(mesh, CONFIG, optimizer, seed=0)
    train_step = step.make_train_step(mesh, CONFIG, losses.sample_matching, optimizer)
    batch = step.put_batch(mesh, _batch())
    aliased = train_step.lower(state, batch).compile().memory_analysis().alias_size_in_bytes
    assert aliased >= sum(leaf.nbytes for leaf in jax.tree.leaves((state.params, state.opt_state)))
    train_step(state, batch)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.params))


def test_a_step_that_is_not_finite_counts_but_changes_nothing():
    mesh = partitioning.make_mesh()
    optimizer = optax.adamw(1e-3)
    train_step = step.make_train_step(
        mesh, CONFIG, losses.sample_matching, optimizer, skip_nonfinite=True
    )
    state = step.init_state(mesh, CONFIG, optimizer, seed=0)
    weights = np.ones((4, 12), np.float32)
    poisoned = np.where(np.arange(12) == 3, np.float32(np.nan), weights)
    before = jax.device_get((state.params, state.opt_state))
    state, metrics = train_step(
        state, step.put_batch(mesh, {**_batch(), "decoder_loss_weights": poisoned})
    )
    assert np.isnan(float(metrics["loss"]))
    assert int(state.step) == 1
    jax.tree.map(
        np.testing.assert_array_equal, jax.device_get((state.params, state.opt_state)), before
    )
    state, metrics = train_step(
        state, step.put_batch(mesh, {**_batch(), "decoder_loss_weights": weights})
    )
    assert np.isfinite(float(metrics["loss"]))
    assert int(state.opt_state[0].count) == 1


def test_bfloat16_activations_learn_with_float32_parameters():
    config = dataclasses.replace(CONFIG, dtype="bfloat16", remat="dots")
    state, found, _ = _steps(config, 30, optax.adamw(1e-2))
    assert np.isfinite(found).all()
    assert found[-1] < 0.8 * found[0]
    assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {jnp.dtype("float32")}
    _, exact, _ = _steps(CONFIG, 30, optax.adamw(1e-2))
    # bfloat16 has 8 bits of mantissa; thirty steps apart
    assert found[-1] == pytest.approx(exact[-1], rel=0.05)


def test_microbatches_alike_weigh_each_mean_alike():
    weights = np.array([[1, 1, 1], [1, 0, 0]], np.int32)
    found = step.weigh_microbatches_alike({"decoder_loss_weights": weights}, 2)
    np.testing.assert_allclose(
        found["decoder_loss_weights"], [[2 / 3, 2 / 3, 2 / 3], [2, 0, 0]], rtol=1e-6
    )


def test_rows_in_the_order_of_microbatches():
    rows = {"rows": np.arange(6)}
    assert step.in_order_of_microbatches(rows, 2)["rows"].tolist() == [0, 2, 4, 1, 3, 5]
    assert step.in_order_of_microbatches(rows, 1) is rows
