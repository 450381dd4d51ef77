"""The compiled step on 8 simulated devices equals the one on a single device."""

import itertools
import json
import os
import re
import subprocess
import sys
import textwrap

import jax
import numpy as np
import optax
import pytest

from cotdistill_jax import losses, network, partitioning
from cotdistill_jax.train import step

SCRIPT = r"""
import contextlib, dataclasses, json, sys
import jax, numpy as np, optax
from cotdistill_jax import losses, network, partitioning
from cotdistill_jax.train import collectives, step

CONFIG = network.T5Config(vocab_size=64, emb_dim=16, num_heads=4, head_dim=8, mlp_dim=32,
                          num_encoder_layers=1, num_decoder_layers=1)

def batch(rows=8, length=12):
    rng = np.random.default_rng(0)
    tokens = lambda: rng.integers(2, 64, (rows, length)).astype(np.int32)
    probs = np.zeros((rows, length, 5), np.float32)
    probs[..., :2] = [0.7, 0.2]
    probs[::2] = 0  # answer-only rows
    segments = np.repeat([[1, 2, 3]], [5, 3, 4], axis=1) * np.ones((rows, 1), np.int32)
    positions = np.tile([*range(5), *range(3), *range(4)], (rows, 1))
    return {"encoder_segment_ids": segments, "decoder_segment_ids": segments, "decoder_positions": positions,
            "encoder_input_tokens": tokens(), "decoder_input_tokens": tokens(),
            "decoder_target_tokens": tokens(), "decoder_loss_weights": np.ones((rows, length), np.int32),
            "decoder_teacher_ids": np.argsort(rng.random((rows, length, 64)))[..., :5].astype(np.int32),
            "decoder_teacher_probs": probs}

def run(shape, optimizer, num_microbatches, attention_block):
    mesh = partitioning.make_mesh(shape)
    config = dataclasses.replace(CONFIG, attention_block=attention_block)
    train_step = step.make_train_step(mesh, config, losses.distribution_matching, optimizer, num_microbatches)
    state = step.init_state(mesh, CONFIG, optimizer, seed=0)
    compiled = train_step.lower(state, batch()).compile()
    for _ in range(3):
        state, metrics = compiled(state, step.put_batch(mesh, batch()))
    kernel = state.params["encoder"]["layers_0"]["mlp"]["wi_0"]["kernel"]
    total = sum(float(np.abs(leaf).sum()) for leaf in jax.tree.leaves(jax.device_get(state.params)))
    return {"loss": float(metrics["loss"]), "total": total, "shards": str(kernel.sharding.spec)}

def traffic(shape):
    # Bytes that collectives bring a device in a step.
    mesh, optimizer = partitioning.make_mesh(shape), optimizers["adamw"]
    train_step = step.make_train_step(mesh, CONFIG, losses.distribution_matching, optimizer)
    state = jax.eval_shape(lambda: step.init_state(mesh, CONFIG, optimizer, seed=0))
    compiled = train_step.lower(state, batch()).compile()
    return sum(collectives.once(compiled.as_text()).values())

optimizers = {"adamw": optax.adamw(1e-3), "adafactor": optax.adafactor(1e-3, min_dim_size_to_factor=8)}
jobs = json.loads(sys.argv[1])
found = [run(tuple(shape), optimizers[name], *rest) for shape, name, *rest in jobs]
if jax.device_count() == 8:
    found.append(traffic((1, 8, 1)))
    partitioning.constrained_activations = lambda mesh: contextlib.nullcontext()
    found.append(traffic((1, 8, 1)))
print(json.dumps(found))
"""

JOBS = [  # mesh, optimizer, microbatches, block of attention
    ((8, 1, 1), "adamw", 1, None),
    ((4, 1, 2), "adamw", 1, None),
    ((2, 2, 2), "adamw", 1, 4),
    ((2, 1, 4), "adamw", 2, None),
    ((2, 2, 2), "adafactor", 1, None),
]


def _run(jobs, devices):
    flags = f"--xla_force_host_platform_device_count={devices}"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    finished = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SCRIPT), json.dumps(jobs)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    return json.loads(finished.stdout.splitlines()[-1])


@pytest.mark.slow
def test_every_mesh_gives_the_losses_and_parameters_of_one_device():
    single = {name: _run([((1, 1, 1), name, 1, None)], 1)[0] for name in ("adamw", "adafactor")}
    *results, constrained, free = _run(JOBS, 8)
    for (shape, name, *_), found in zip(JOBS, results, strict=True):
        # Sums over devices and microbatches run in another order: float32 rounding, three steps of it.
        assert found["loss"] == pytest.approx(single[name]["loss"], rel=2e-5), (shape, name)
        assert found["total"] == pytest.approx(single[name]["total"], rel=2e-5), (shape, name)
        assert ("model" in found["shards"]) and ("fsdp" in found["shards"]), found["shards"]
    # Without its constraints XLA lays activations out like the parameters, along D, and sends them about.
    assert constrained < 0.5 * free, (constrained, free)


def test_mesh_that_does_not_divide_is_refused_with_every_reason():
    mesh = partitioning.make_mesh((1, 1, 1))
    partitioning.check_mesh(mesh, network.T5Config(), 8, 2)
    fake = jax.sharding.AbstractMesh((2, 3, 4), partitioning.MESH_AXES)
    with pytest.raises(
        ValueError, match=r"num_heads = 6 over model = 4; emb_dim = 512 over fsdp = 3"
    ):
        partitioning.check_mesh(fake, network.T5Config())
    with pytest.raises(
        ValueError, match=r"batch_size / num_microbatches = 4 over data \* fsdp = 6"
    ):
        partitioning.check_mesh(fake, network.T5Config(num_heads=8, emb_dim=768), 8, 2)


def test_two_axes_mean_data_and_model():
    assert dict(partitioning.make_mesh((1, 1)).shape) == {"data": 1, "fsdp": 1, "model": 1}


def test_optimizer_state_is_sharded_like_its_parameter():
    mesh = partitioning.make_mesh((1, 1, 1))
    config = network.T5Config(
        vocab_size=64, emb_dim=16, num_heads=2, head_dim=8, mlp_dim=32,
        num_encoder_layers=1, num_decoder_layers=1,
    )  # fmt: skip
    shardings = step.state_shardings(mesh, config, optax.adamw(1e-3))
    wi = shardings.params["encoder"]["layers_0"]["mlp"]["wi_0"]["kernel"]
    mu = shardings.opt_state[0].mu["encoder"]["layers_0"]["mlp"]["wi_0"]["kernel"]
    assert wi.spec == mu.spec == jax.sharding.PartitionSpec("fsdp", "model")


def test_step_weights_every_target_token_alike():
    mesh = partitioning.make_mesh()
    config = network.T5Config(
        vocab_size=32, emb_dim=8, num_heads=2, head_dim=4, mlp_dim=16,
        num_encoder_layers=1, num_decoder_layers=1,
    )  # fmt: skip
    tokens = np.arange(2, 18, dtype=np.int32).reshape(2, 8)
    weights = np.array([[1] * 8, [1, 1] + [0] * 6], np.int32)
    batch = {
        "encoder_input_tokens": tokens,
        "decoder_input_tokens": tokens,
        "decoder_target_tokens": tokens,
        "decoder_loss_weights": weights,
    }
    state = step.init_state(mesh, config, optax.sgd(0.0), seed=0)
    logits = network.Transformer(config).apply(
        {"params": state.params}, tokens, tokens, tokens, enable_dropout=False
    )
    token_loss, _ = losses.sample_matching(logits, batch)
    expected = float((token_loss * weights).sum() / 10)
    train_step = step.make_train_step(mesh, config, losses.sample_matching, optax.sgd(0.0))
    _, metrics = train_step(state, step.put_batch(mesh, batch))
    assert float(metrics["loss"]) == pytest.approx(expected, rel=1e-6)
    assert float(metrics["num_target_tokens"]) == 10
    assert float(metrics["num_input_tokens"]) == 16
    assert float(metrics["num_examples"]) == 2


BASE = network.T5Config(emb_dim=768, num_heads=12, mlp_dim=2048)
XL = network.T5Config(emb_dim=2048, num_heads=32, mlp_dim=5120)


@pytest.mark.parametrize(
    ("config", "parameters", "devices", "rows", "parts", "memory", "chosen"),
    [
        (BASE, 248e6, 8, 16, 2, 8e10, (8, 1, 1)),  # all along data where the state fits
        (BASE, 248e6, 8, 16, 4, 8e10, (4, 1, 2)),  # 4 rows a part for 8 devices
        (XL, 2.85e9, 8, 16, 2, 8e10, (4, 2, 1)),  # 45.6 GB of state for 80 GB
        (XL, 2.85e9, 8, 16, 2, 16e9, (1, 8, 1)),
        (XL, 2.85e9, 8, 16, 2, None, (8, 1, 1)),  # CPUs do not say
        (XL, 2.85e9, 1, 16, 2, 8e10, (1, 1, 1)),
    ],
)
def test_a_mesh_is_chosen_by_model_batch_and_devices(
    config, parameters, devices, rows, parts, memory, chosen
):
    shape, why = partitioning.choose_shape(devices, config, int(parameters), rows, parts, memory)
    assert shape == chosen and "GB of a device" in why
    if shape[2] > 1:
        assert "the model axis takes the rest: NUM_MICROBATCHES = 2 would put all of them" in why
    if devices == 1:
        assert "more than half, even so" in why
    mesh = jax.sharding.AbstractMesh(shape, partitioning.MESH_AXES)
    partitioning.check_mesh(mesh, config, rows, parts)


def test_parameters_that_are_only_read_take_a_quarter():
    shape, why = partitioning.choose_shape(
        8, XL, int(2.85e9), 16, 1, 16e9, partitioning.WEIGHT_BYTES
    )
    assert shape == (4, 2, 1)  # 11.4 GB for 8 GB
    assert why == "parameters take 5.7 GB of a device's 16.0 GB"


def test_where_nothing_divides_the_message_says_what_would():
    with pytest.raises(ValueError, match=r"no mesh of 7 devices .*BATCH_SIZE = 14 or 28 would"):
        partitioning.choose_shape(7, BASE, 248_000_000, 16, 2, None)
    mesh = jax.sharding.AbstractMesh((8, 1, 1), partitioning.MESH_AXES)
    with pytest.raises(
        ValueError, match=r"MESH_SHAPE = None chooses; .* that divide: .*\(4, 1, 2\)"
    ):
        partitioning.check_mesh(mesh, BASE, 16, 4)


@pytest.mark.parametrize("devices", [1, 3, 8, 16])
def test_every_chosen_mesh_divides_and_every_remedy_puts_all_devices_along_rows(devices):
    outcomes = set()
    for rows, parts in itertools.product((1, 2, 12, 16, 20, 100), (1, 2, 3, 4, 16)):
        try:
            shape, said = partitioning.choose_shape(devices, XL, 2_850_000_000, rows, parts, 8e10)
            mesh = jax.sharding.AbstractMesh(shape, partitioning.MESH_AXES)
            partitioning.check_mesh(mesh, XL, rows, parts)
        except ValueError as error:
            said, shape = str(error), (0, 0, 0)
        remedy = re.search(r"(NUM_MICROBATCHES|BATCH_SIZE) = ([\d or]+) would", said)
        outcomes.add((bool(remedy), shape[2] > 0))
        for number in map(int, remedy[2].split(" or ") if remedy else []):
            better = (number, parts) if remedy[1] == "BATCH_SIZE" else (rows, number)
            assert (devices, 1, 1) in partitioning.fitting_shapes(devices, XL, *better), said
    assert {(True, False), (False, True)} <= outcomes
