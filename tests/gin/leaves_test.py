"""Every shipped experiment parses with the embedded runner's file, names a task that exists, and its model builds."""

import dataclasses
import pathlib
import re

import gin
import jax
import numpy as np
import pytest
import safetensors.numpy
import seqio

import tasks  # noqa: F401  (registers)
from cotdistill_jax import checkpoints, corpus, network, partitioning
from cotdistill_jax.checkpoints import huggingface, initial
from cotdistill_jax.seqio_tasks import seed_batches
from cotdistill_jax.train import gin_config, optimizers

ROOT = pathlib.Path(__file__).parents[2]
LEAVES = sorted(
    str(path.relative_to(ROOT)) for path in (ROOT / "gin" / "experiments").glob("*.gin")
)
MODELS = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "gin" / "models").glob("*.gin"))
RUN = "gin/runs/finetune.gin"
# Published sizes of T5 1.1 and 1.0; the tiny student is ours.
PARAMETERS = {
    "flan_t5_small": 76_961_152,
    "flan_t5_base": 247_577_856,
    "flan_t5_large": 783_150_080,
    "flan_t5_xl": 2_849_757_184,
    "flan_t5_xxl": 11_135_332_352,
    "t5_large": 737_668_096,
    "t5_3b": 2_851_598_336,
    "t5_11b": 11_307_321_344,
}


@pytest.fixture(autouse=True)
def clean_gin():
    yield
    gin.clear_config()


def _num_parameters():
    config = gin.get_configurable(network.T5Config)()
    params = checkpoints.abstract_variables(config)["params"]
    return sum(leaf.size for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize("leaf", LEAVES)
def test_leaf_parses_and_its_model_builds(leaf, tmp_path):
    gin_config.parse([leaf, RUN], [f"MODEL_DIR = '{tmp_path}'"])
    assert _num_parameters() > 10_000
    known = {*seqio.MixtureRegistry.names(), *seqio.TaskRegistry.names()}
    assert gin.query_parameter("MIXTURE_OR_TASK_NAME/macro.value") in known
    header = (ROOT / leaf).read_text().split("include")[0]
    assert all(word in header for word in ("What:", "Command:", "Hardware:", "ccuracy"))


PAPER_LEAVES = [leaf for leaf in LEAVES if re.search("gsm8k_teacher|seed_(?!tiny)", leaf)]


@pytest.mark.parametrize("leaf", PAPER_LEAVES)
def test_leaf_trains_as_long_as_the_original_on_any_number_of_devices(leaf):
    gin_config.parse([leaf, RUN], ["MODEL_DIR = 'x'"])
    names = ("TRAIN_STEPS", "SEED_SCHEDULE_STEPS", "BATCH_SIZE", "NUM_MICROBATCHES", "MESH_SHAPE")
    steps, schedule, rows, parts, shape = (
        gin.query_parameter(f"{name}/macro.value") for name in names
    )
    mixture = gin.query_parameter("MIXTURE_OR_TASK_NAME/macro.value")
    size, kind = re.fullmatch(r"(?:gsm8k_teacher|seed)_seed_(\d+[mb])_?(.*)_v2", mixture).groups()
    kind = kind if kind in ("in_context", "zero_shot") else ""
    examples = {k: n for k, n in seed_batches.NUM_EXAMPLES.items() if k.startswith(kind)}
    epoch = seed_batches.epoch(seed_batches.BATCH_SIZES[size], examples)
    assert schedule == 10 * epoch.total_micro_batches
    assert steps == 10 * epoch.optimizer_steps
    assert shape is None
    config = gin.get_configurable(network.T5Config)()
    for devices in (1, 2, 4, 8, 16):
        chosen, _ = partitioning.choose_shape(devices, config, _num_parameters(), rows, parts, 8e10)
        mesh = jax.sharding.AbstractMesh(chosen, partitioning.MESH_AXES)
        partitioning.check_mesh(mesh, config, rows, parts)
    lengths = gin.query_parameter("TASK_FEATURE_LENGTHS/macro.value")
    assert lengths["targets"] % gin.query_parameter("NUM_LOSS_CHUNKS/macro.value") == 0


@pytest.mark.parametrize("model", MODELS)
def test_sizes_are_the_published_ones(model, tmp_path):
    leaf = LEAVES[0]
    sizes = (ROOT / model).read_text().splitlines()
    bindings = [line.partition("#")[0] for line in sizes if "=" in line]
    gin_config.parse([leaf, RUN], [f"MODEL_DIR = '{tmp_path}'", *bindings])
    expected = PARAMETERS.get(pathlib.Path(model).stem)
    if expected is None:
        assert _num_parameters() < 20_000_000
    else:
        assert _num_parameters() == expected


@pytest.mark.parametrize(
    ("model", "golden"), [("flan_t5_xl", "flan_t5"), ("t5_3b", "t5_1_0"), ("t5_large", "t5_1_0")]
)
def test_a_size_is_the_network_of_its_generation(model, golden, tmp_path):
    """Hugging Face's models of T5 1.1 and 1.0, tiny ones, start a run whose gin file differs from the size's in numbers alone."""
    arrays = np.load(ROOT / "tests" / "golden" / f"{golden}.npz")
    names = [name for name in arrays if name.startswith("weights/")]
    weights = {name.removeprefix("weights/"): np.ascontiguousarray(arrays[name]) for name in names}
    safetensors.numpy.save_file(weights, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(str(arrays["config"]))
    published, params = huggingface.read(tmp_path)
    (tmp_path / "size.gin").write_text(f"include '{LEAVES[0]}'\ninclude 'gin/models/{model}.gin'\n")
    dimensions = {
        "VOCAB_SIZE": published.vocab_size, "EMB_DIM": published.emb_dim, "NUM_HEADS": published.num_heads,
        "HEAD_DIM": published.head_dim, "MLP_DIM": published.mlp_dim, "NUM_LAYERS": published.num_encoder_layers,
    }  # fmt: skip
    bindings = [f"{name} = {value}" for name, value in dimensions.items()]
    gin_config.parse([str(tmp_path / "size.gin"), RUN], ["MODEL_DIR = 'x'", *bindings])
    config = dataclasses.replace(
        gin.get_configurable(network.T5Config)(),
        num_decoder_layers=published.num_decoder_layers,
        relative_buckets=published.relative_buckets,
        relative_max_distance=published.relative_max_distance,
    )
    assert jax.tree.structure(
        checkpoints.abstract_variables(config)["params"]
    ) == jax.tree.structure(params)
    read, _ = initial.read(str(tmp_path), config, corpus.arith_vocabulary())
    assert jax.tree.all(jax.tree.map(np.array_equal, read, params))


def test_a_misspelled_macro_names_the_right_one(tmp_path):
    with pytest.raises(
        ValueError, match=r"TRAIN_STPES is bound but nothing uses it; did you mean TRAIN_STEPS"
    ):
        gin_config.parse([LEAVES[0], RUN], ["TRAIN_STPES = 5", f"MODEL_DIR = '{tmp_path}'"])


def test_a_misspelled_parameter_names_file_or_binding(tmp_path):
    with pytest.raises(ValueError, match="total_stepz"):
        gin_config.parse(
            [LEAVES[0], RUN], ["loop.train.total_stepz = 5", f"MODEL_DIR = '{tmp_path}'"]
        )


def test_a_missing_model_dir_is_required():
    gin_config.parse([LEAVES[0], RUN], ["MODEL_DIR = 'x'"])
    assert gin.query_parameter("MODEL_DIR/macro.value") == "x"
    with pytest.raises(ValueError, match="MODEL_DIR"):
        gin_config.parse([LEAVES[0], RUN])


def test_a_missing_file_lists_where_it_was_looked_for():
    with pytest.raises(FileNotFoundError, match=r"no file gin/experiments/nothing\.gin in any of"):
        gin_config.parse(["gin/experiments/nothing.gin", RUN])


def test_bindings_are_split_from_other_arguments():
    assert gin_config.split_bindings(["--gin.TRAIN_STEPS=5", "--gin_file=a.gin"]) == (
        ["TRAIN_STEPS = 5"],
        ["--gin_file=a.gin"],
    )
    with pytest.raises(ValueError, match=r"--gin\.NAME=VALUE"):
        gin_config.split_bindings(["--gin.TRAIN_STEPS"])


def test_every_loss_and_optimizer_overlay_binds(tmp_path):
    for overlay in sorted(
        f for room in ("losses", "optimizers", "schedules") for f in ROOT.glob(f"gin/{room}/*.gin")
    ):
        files = ["gin/defaults.gin", str(overlay.relative_to(ROOT)), "gin/models/tiny.gin", RUN]
        values = ["MIXTURE_OR_TASK_NAME = 'a'", "TASK_FEATURE_LENGTHS = {}", "TRAIN_STEPS = 20"]
        gin_config.parse(files, [f"MODEL_DIR = '{tmp_path}'", *values])
        optimizer = gin.get_configurable(optimizers.chain)()
        assert optimizer.init({"kernel": jax.numpy.ones((2, 2))})
        loss_fn = gin.query_parameter("LOSS_FN/macro.value").scoped_configurable_fn
        assert loss_fn.__name__ in {"sample_matching", "distribution_matching", "unlikelihood"}
