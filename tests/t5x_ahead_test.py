"""T5X's own step compiled for TPUs that need not be there; skipped where t5x or libtpu is not installed."""

import importlib.util

import jax
import optax
import pytest

from cotdistill_jax import losses, network, partitioning
from cotdistill_jax.train import planning, tpu_compile, tpu_topologies


@pytest.mark.slow
@pytest.mark.t5x
@pytest.mark.tpu_compile
@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason='no libtpu, which has the TPU\'s compiler: pip install "jax[tpu]"',
)
def test_the_step_of_t5x_compiles_on_a_mesh_of_a_slice():
    pytest.importorskip("t5x", reason="t5x is not installed (bash scripts/install_t5x.sh)")
    import tasks  # noqa: F401  (registers the mixtures)
    from cotdistill_jax.t5x_model import ahead

    config = network.T5Config(
        vocab_size=512, emb_dim=128, num_heads=2, head_dim=64, mlp_dim=256, num_encoder_layers=1,
        num_decoder_layers=1,
    )  # fmt: skip
    mesh = partitioning.make_mesh(
        (1, 2, 2), tpu_topologies.devices(tpu_topologies.parse("v5e:2x2"))
    )
    lowered = ahead.lower_step(
        mesh,
        config,
        "arith_all_v1",
        optax.adamw(1e-3),
        losses.sample_matching,
        planning.abstract_batch({"inputs": 32, "targets": 16}, 8),
        num_microbatches=2,
        num_loss_chunks=1,
    )
    program, compiled = tpu_compile.compile_program(lowered)
    assert program.fits
    assert program.collectives["all-gather"].count >= 2
    kernel = compiled.input_shardings[0][0].params["decoder"]["layers_0"]["mlp"]["wi_0"]["kernel"]
    assert kernel.spec == jax.sharding.PartitionSpec("fsdp", "model")
