"""A tiny run compiled by the TPU's own compiler, where libtpu is installed; skipped with a word where it is not."""

import dataclasses
import importlib.util

import jax
import jax.numpy as jnp
import optax
import pytest
from jax.sharding import AbstractMesh

from cotdistill_jax import losses, network, partitioning
from cotdistill_jax.train import compiled_plan, planning, tpu_compile, tpu_topologies
from cotdistill_jax.train.recipe import Recipe

LENGTHS = {"inputs": 64, "targets": 32, "teacher_ids": 32, "teacher_probs": 32}
RECIPE = Recipe(
    config=network.T5Config(
        vocab_size=256, emb_dim=128, num_heads=2, head_dim=64, mlp_dim=256, num_encoder_layers=2,
        num_decoder_layers=2, dtype=jnp.bfloat16, scan_layers=True, remat="full",
    ),
    loss_fn=losses.distribution_matching,
    optimizer=optax.adamw(1e-3),
    mixture_or_task_name="none",
    batch=planning.abstract_batch(LENGTHS, 8),
    batch_size=8,
    num_microbatches=2,
    num_loss_chunks=2,
    weigh_alike=False,
    skip_nonfinite=False,
    seed=0,
    mesh_shape=None,
    eval_lengths={"inputs": 32, "targets": 16},
    eval_batch_size=6,
)  # fmt: skip


def test_the_layout_of_a_restored_state_is_counted_by_device():
    whole, quarter = (
        tpu_compile.abstract_state(AbstractMesh(shape, partitioning.MESH_AXES), RECIPE)
        for shape in ((1, 1, 1), (1, 2, 2))
    )
    on_one, on_four = (tpu_compile.restored_layout(state, None) for state in (whole, quarter))
    # Parameters and two moments of float32, and three counters.
    parameters = sum(leaf.size for leaf in jax.tree.leaves(whole.params))
    assert 12 * parameters < on_one.bytes < 12 * parameters + 20
    assert on_one.num_arrays == on_four.num_arrays == len(jax.tree.leaves(whole))
    # All but the norms are split over four devices, or those of biases over two.
    assert on_one.bytes / 4 < on_four.bytes < on_one.bytes / 3.8
    assert on_four.as_in_step is None


@pytest.mark.slow
@pytest.mark.tpu_compile
@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason='no libtpu, which has the TPU\'s compiler: pip install "jax[tpu]"',
)
def test_a_tiny_run_compiles_for_tpus_and_one_that_is_too_large_is_refused():
    topology = tpu_topologies.parse("v5e:2x2")
    found = compiled_plan.make(RECIPE, topology, (1, 2, 2), plan=False)
    assert found.fits
    assert found.restored.as_in_step
    assert found.usable_bytes == 15.75 * 2**30
    # All that the step is given, and more.
    assert found.restored.bytes < found.step.argument_bytes < found.step.peak_bytes < 2**30
    # Parameters are gathered over fsdp, in each of two microbatches and two layers.
    assert found.step.collectives["all-gather"].count >= 2 * 2
    assert set(found.decoding) == {"unstack", "encode", "advance"}
    assert found.decoding["advance"].beside_bytes > found.restored.bytes * 0.9
    # The same on one device with 200 times the rows.
    huge = dataclasses.replace(
        RECIPE,
        batch=planning.abstract_batch({**LENGTHS, "inputs": 8192}, 64),
        batch_size=64,
        num_microbatches=1,
    )
    refused = compiled_plan.make(
        huge, tpu_topologies.parse("v5e:1x1"), (1, 1, 1), plan=False, decode=False
    )
    assert not refused.fits
    assert refused.step.peak_bytes > refused.usable_bytes
    assert refused.step.collectives == {}
