"""Parameters go from files to eight simulated devices and to a run's first state, bit for bit as through memory."""

import json
import os
import subprocess
import sys
import textwrap

import jax
import numpy as np
import pytest
from flax import traverse_util

from cotdistill_jax import corpus, network
from cotdistill_jax.checkpoints import conversion, huggingface, placement, stored, t5x_legacy
from cotdistill_jax.checkpoints.stored import StoredArray

CONFIG = network.T5Config(
    vocab_size=512, emb_dim=16, num_heads=4, head_dim=8, mlp_dim=32, num_encoder_layers=3, num_decoder_layers=3,
)  # fmt: skip
LAYOUTS = ("huggingface", "ours", "scanned", "t5x")

SCRIPT = """
import dataclasses, json, sys
import jax, numpy as np, optax
from cotdistill_jax import network, partitioning
from cotdistill_jax.checkpoints import abstract_variables, conversion, initial, placement
from cotdistill_jax.train import step

folder, vocabulary, layouts = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
mesh = partitioning.make_mesh((2, 2, 2))
differing = []

def compare(name, found, expected, shardings):
    for (path, leaf), other, sharding in zip(
        jax.tree.leaves_with_path(found), jax.tree.leaves(expected), jax.tree.leaves(shardings), strict=True
    ):
        if leaf.sharding != sharding or not np.array_equal(leaf, other) or leaf.dtype != other.dtype:
            differing.append(name + jax.tree_util.keystr(path))

for layout in layouts:
    path = f"{folder}/{layout}"
    weights = conversion.load(path)
    shardings = partitioning.param_shardings(mesh, abstract_variables(weights.config))
    compare(layout, placement.place(conversion.open_weights(path).params, shardings), weights.params, shardings)
    for scan in (False, True):
        config = dataclasses.replace(weights.config, scan_layers=scan)
        params, _ = initial.read(path, config, vocabulary)
        expected = network.stack_layers(weights.params) if scan else weights.params
        optimizer = optax.adamw(1e-3)
        state = step.init_state(mesh, config, optimizer, 0, params)
        shardings = step.state_shardings(mesh, config, optimizer)
        compare(f"{layout} scan={scan}", state.params, expected, shardings.params)
        compare(f"{layout} scan={scan} optimizer", state.opt_state, jax.jit(optimizer.init)(expected), shardings.opt_state)
print(json.dumps(differing))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The same weights in every layout."""
    folder = tmp_path_factory.mktemp("weights")
    rng = np.random.default_rng(0)
    shapes = huggingface.tensor_shapes(CONFIG)
    flat = {
        ours: rng.standard_normal(shapes[theirs][:: -1 if transposed else 1], np.float32)
        for ours, (theirs, transposed) in huggingface.tensor_names(CONFIG).items()
    }
    params = traverse_util.unflatten_dict(flat, sep="/")
    vocabulary = corpus.arith_vocabulary()
    huggingface.write(folder / "huggingface", CONFIG, params, vocabulary, 0, 40_000)
    weights = conversion.open_weights(str(folder / "huggingface"))
    conversion.save(weights, str(folder / "ours"), conversion.OURS, vocabulary, 0)
    t5x_legacy.write(str(folder / "t5x" / "checkpoint_3"), params, 3)
    scanned = network.stack_layers(params)
    config = {**vars(CONFIG), "scan_layers": True}
    conversion.save(
        conversion.Weights("ours", network.T5Config(**config), scanned, vocabulary, 0, 0),
        str(folder / "scanned"),
        conversion.OURS,
    )
    return folder


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:checkpoints. Hugging Face's T5 tokenizer")
def test_every_layout_is_placed_and_starts_a_run_bit_for_bit(folder):
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            textwrap.dedent(SCRIPT),
            str(folder),
            str(corpus.arith_vocabulary()),
            json.dumps(LAYOUTS),
        ],
        env={
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[-1]) == []


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.filterwarnings("ignore:checkpoints. Hugging Face's T5 tokenizer")
def test_a_part_of_a_tensor_is_that_part_of_the_whole(folder, layout):
    leaves = jax.tree.leaves(conversion.open_weights(str(folder / layout)).params)
    assert all(isinstance(leaf, StoredArray) for leaf in leaves)
    for leaf in leaves:
        whole = np.asarray(leaf)
        for index in (
            tuple(slice(length // 4, length // 2) for length in leaf.shape),
            (slice(0, leaf.shape[0] // 2),),
            (),
        ):
            part = leaf[index]
            assert part.dtype == np.float32
            np.testing.assert_array_equal(part, whole[index])


def test_tensors_are_stacked_one_at_a_time_and_parts_of_one_are_that_one():
    whole = np.arange(24, dtype=np.float32).reshape(4, 3, 2)
    read = []

    def reader(index):
        read.append(index)
        return whole[index]

    scanned = StoredArray(whole.shape, whole.dtype, reader)
    assert stored.stack(list(scanned)) is scanned
    turned = stored.stack(list(scanned)[::-1])
    index = (slice(1, 3), slice(0, 2), slice(1, 2))
    np.testing.assert_array_equal(turned[index], whole[::-1][index])
    assert read == [(slice(2, 3), *index[1:]), (slice(1, 2), *index[1:])]
    np.testing.assert_array_equal(np.asarray(turned), whole[::-1])


def test_a_part_of_a_transposed_array_is_read_alone():
    whole = np.arange(12, dtype=np.float32).reshape(4, 3)
    read = []

    def reader(index):
        read.append(index)
        return whole[index]

    turned = StoredArray(whole.shape, whole.dtype, reader).T
    np.testing.assert_array_equal(turned[slice(1, 3), slice(0, 2)], whole.T[1:3, 0:2])
    assert read == [(slice(0, 2), slice(1, 3))]


class _Share:
    """A sharding of which this process has the devices that hold these parts."""

    def __init__(self, *parts):
        self.parts = parts

    def addressable_devices_indices_map(self, shape):
        return dict(enumerate(self.parts))


def test_a_process_reads_the_box_around_what_its_devices_hold_and_layers_of_one_array_at_once():
    whole = np.arange(4 * 8 * 6, dtype=np.float32).reshape(4, 8, 6)
    read = []

    def reader(index):
        read.append(index)
        return whole[index]

    scanned = StoredArray(whole.shape, whole.dtype, reader)
    share = _Share(
        (slice(2, 4), slice(None)), (slice(4, 6), slice(None)), (slice(2, 4), slice(None))
    )
    layers = {f"layers_{number}": layer for number, layer in enumerate(scanned)}
    (group,) = placement._groups(layers, dict.fromkeys(layers, share))
    np.testing.assert_array_equal(group.read(), whole[:, 2:6])
    assert read == [(slice(0, 4), slice(2, 6), slice(0, 6))]


def test_one_array_under_two_names_is_placed_under_both():
    array = np.ones((2, 3), np.float32)
    placed = placement.place(
        {"a": array, "b": {"c": array}}, jax.sharding.SingleDeviceSharding(jax.devices()[0])
    )
    np.testing.assert_array_equal(placed["a"], placed["b"]["c"])
    array[:] = 2  # nothing is shared
    assert np.asarray(placed["a"]).sum() == 6
