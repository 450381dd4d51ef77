"""Parameters drawn by shape are those of Flax's `init`, and their programs do not grow with depth."""

import dataclasses
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from cotdistill_jax import checkpoints, network
from cotdistill_jax.network import drawing

ROOT = pathlib.Path(__file__).parents[2]
CONFIG = network.T5Config(
    vocab_size=64, emb_dim=16, num_heads=2, head_dim=4, mlp_dim=32, num_encoder_layers=3, num_decoder_layers=2
)  # fmt: skip
VARIANTS = {
    "unrolled": {},
    "scanned": {"scan_layers": True},
    "scanned, computed again": {"scan_layers": True, "remat": "dots"},
    "unrolled, computed again": {"remat": "full"},
    "T5 1.0": {"mlp_activations": ("relu",), "logits_via_embedding": True},
    "bfloat16": {"dtype": "bfloat16"},
    "dropout": {"dropout_rate": 0.1},
}


def by_flax(config, key):
    token = jnp.ones((1, 1), jnp.int32)
    init = network.Transformer(config).init
    return jax.jit(lambda key: init(key, token, token, token, enable_dropout=False)["params"])(key)


def check_equal(found, expected):
    found, expected = map(traverse_util.flatten_dict, (found, expected))
    assert found.keys() == expected.keys()
    for name, leaf in expected.items():
        assert found[name].dtype == leaf.dtype == np.float32
        np.testing.assert_array_equal(found[name], leaf, err_msg=str(name))


@pytest.mark.parametrize("variant", VARIANTS)
def test_values_are_those_of_flax(variant):
    config = dataclasses.replace(CONFIG, **VARIANTS[variant])
    key = jax.random.key(7)
    check_equal(checkpoints.init_variables(config, key)["params"], by_flax(config, key))


ON_A_MESH = """
import jax, numpy as np, optax
from cotdistill_jax import partitioning
from cotdistill_jax.train import step
from tests.network.drawing_test import CONFIG, by_flax, check_equal
import dataclasses

config = dataclasses.replace(CONFIG, scan_layers=True)
mesh = partitioning.make_mesh((2, 2, 2))
state = step.init_state(mesh, config, optax.adam(1e-3), seed=3)
check_equal(state.params, by_flax(config, jax.random.key(3)))
wide = state.params["encoder"]["layers"]["mlp"]["wo"]["kernel"]
print(wide.size // wide.addressable_shards[0].data.size)
"""


def test_each_device_of_a_mesh_draws_its_share():
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-c", ON_A_MESH]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "4", "split over fsdp and model, the same along data"


def test_it_may_be_part_of_another_program():
    key = jax.random.key(3)
    drawn = jax.jit(lambda key: checkpoints.init_variables(CONFIG, key)["params"])(key)
    check_equal(drawn, by_flax(CONFIG, key))


def test_layers_alike_share_their_programs():
    drawing._program.cache_clear()
    checkpoints.init_variables(CONFIG, jax.random.key(0))
    few = drawing._program.cache_info().currsize
    deeper = dataclasses.replace(CONFIG, num_encoder_layers=6, num_decoder_layers=9)
    checkpoints.init_variables(deeper, jax.random.key(0))
    assert drawing._program.cache_info().currsize == few < 10
