"""A plan against a real run at small size: bytes exactly, FLOPs against the whole compiled step, collectives by hand."""

import dataclasses

import jax
import optax
import pytest

from cotdistill_jax import losses, network, partitioning
from cotdistill_jax.train import chips, planning, step

CONFIG = network.T5Config(
    vocab_size=64, emb_dim=16, num_heads=2, head_dim=8, mlp_dim=32, num_encoder_layers=4, num_decoder_layers=4,
)  # fmt: skip
LENGTHS = {"inputs": 16, "targets": 8, "teacher_ids": 8, "teacher_probs": 8}


@pytest.fixture(scope="module")
def needs():
    mesh = partitioning.make_mesh((1, 1, 1), jax.devices()[:1])
    arguments = (
        losses.distribution_matching,
        optax.adamw(1e-3),
        planning.abstract_batch(LENGTHS, 4),
    )
    return (
        planning.measure(mesh, CONFIG, *arguments),
        planning.estimate(mesh, CONFIG, *arguments),
    )


def test_bytes_are_those_of_a_real_state(needs):
    mesh = partitioning.make_mesh((1, 1, 1), jax.devices()[:1])
    state = step.init_state(mesh, CONFIG, optax.adamw(1e-3), seed=0)
    for found in needs:
        for expected, tree in (
            (found.parameter_bytes, state.params),
            (found.optimizer_bytes, state.opt_state),
        ):
            assert expected == sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


def test_a_line_through_two_depths_meets_the_whole_network(needs):
    whole, line = needs
    assert line.flops == pytest.approx(whole.flops, rel=0.02)
    assert line.batch_bytes == whole.batch_bytes == 4 * 4 * (3 * 16 + 5 * 8 + 2 * 8 * 5)


def test_scanned_layers_need_the_same_flops_and_with_remat_less_memory(needs):
    mesh = partitioning.make_mesh((1, 1, 1), jax.devices()[:1])
    arguments = (
        losses.distribution_matching,
        optax.adamw(1e-3),
        planning.abstract_batch(LENGTHS, 4),
    )
    plain, remat = (
        planning.estimate(
            mesh, dataclasses.replace(CONFIG, scan_layers=True, remat=remat), *arguments
        )
        for remat in ("none", "full")
    )
    assert plain.flops == needs[1].flops
    assert plain.parameter_bytes == needs[0].parameter_bytes
    assert remat.flops > 1.15 * plain.flops
    assert remat.activation_bytes < 0.6 * plain.activation_bytes


def test_flops_are_at_least_those_of_the_products_with_weights(needs):
    whole, _ = needs
    kernels = 4 * 16 * 16  # query, key, value, out
    mlp = 3 * 16 * 32
    encoder, decoder = 4 * (kernels + mlp), 4 * (2 * kernels + mlp) + 16 * 64
    # 2 for a multiply and an add, 3 for the forward product and the two of the backward pass.
    least = 6 * 4 * (16 * encoder + 8 * decoder)
    assert least < whole.flops < 2 * least


def test_microbatches_multiply_flops_and_cost_one_gradient():
    mesh = partitioning.make_mesh((1, 1, 1), jax.devices()[:1])
    config = dataclasses.replace(CONFIG, num_encoder_layers=1, num_decoder_layers=1)
    arguments = (mesh, config, losses.sample_matching, optax.sgd(0.1))
    lengths = {"inputs": 16, "targets": 8}
    half = planning.estimate(*arguments, planning.abstract_batch(lengths, 2))
    two = planning.estimate(*arguments, planning.abstract_batch(lengths, 4), num_microbatches=2)
    assert two.flops == 2 * half.flops
    assert half.gradient_bytes == half.parameter_bytes
    assert two.gradient_bytes == 2 * two.parameter_bytes
    assert two.activation_bytes == half.activation_bytes
    with pytest.raises(ValueError, match="3 rows in 2 microbatches"):
        planning.estimate(*arguments, planning.abstract_batch(lengths, 3), num_microbatches=2)


def test_time_and_fit_follow_from_the_peaks():
    chip = chips.Chip("a", 100.0, 50.0, 1000.0, 10.0, "here")
    needs = planning.Needs(
        500.0, 200.0, 100.0, 40.0, 30.0, 60.0, 80.0, {"all-reduce": 10.0, "all-gather": 5.0}
    )
    assert needs.seconds(chip, "bfloat16") == pytest.approx(80 / 40 + 25 / 10)
    assert needs.seconds(chip, "float32") == pytest.approx(80 / 20 + 25 / 10)
    assert needs.fits(chip)
    assert not dataclasses.replace(needs, batch_bytes=101.0).fits(chip)
    assert dataclasses.replace(needs, batch_bytes=101.0).fits(
        dataclasses.replace(chip, name="TPU a")
    )


def test_stored_bfloat16_activations_count_less_on_a_tpu_than_the_cpus_program_holds():
    mesh = partitioning.make_mesh((1, 1, 1), jax.devices()[:1])
    arguments = (losses.sample_matching, optax.sgd(0.1), planning.abstract_batch({"inputs": 16, "targets": 8}, 4))  # fmt: skip
    config = dataclasses.replace(
        CONFIG, num_encoder_layers=1, num_decoder_layers=1, dtype="bfloat16"
    )
    state = step.init_state(mesh, config, arguments[1], seed=0)
    compiled = (
        step.make_train_step(mesh, config, *arguments[:2]).lower(state, arguments[2]).compile()
    )
    needs = planning.measure(mesh, config, *arguments)
    held = compiled.memory_analysis().temp_size_in_bytes - needs.gradient_bytes
    assert needs.activation_bytes == pytest.approx(0.47 * held)
    assert needs.gpu_activation_bytes == held
