"""T5X checkpoints: legacy and Orbax layouts read without T5X, damage found, T5X reads ours."""

import ast
import functools
import pathlib

import flax.serialization
import flax.traverse_util
import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from cotdistill_jax import network
from cotdistill_jax.checkpoints import t5x_legacy

CONFIG = network.T5Config(
    vocab_size=20,
    emb_dim=8,
    num_heads=3,
    head_dim=4,
    mlp_dim=12,
    num_encoder_layers=2,
    num_decoder_layers=1,
)


def _params(config: network.T5Config = CONFIG) -> dict:
    tokens = np.ones((1, 2), np.int32)
    model = network.Transformer(config)
    init = functools.partial(model.init, enable_dropout=False)
    abstract = jax.eval_shape(init, jax.random.key(0), tokens, tokens, tokens)["params"]
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape).astype(np.float32), abstract)


@pytest.fixture(scope="module")
def params() -> dict:
    return _params()


def _assert_equal_trees(left: dict, right: dict) -> None:
    left, right = (flax.traverse_util.flatten_dict(tree, sep="/") for tree in (left, right))
    assert left.keys() == right.keys()
    for name, value in left.items():
        np.testing.assert_array_equal(value, right[name], err_msg=name)


def test_legacy_round_trip_is_exact(tmp_path, params):
    path = str(tmp_path / "checkpoint_7")
    t5x_legacy.write(path, params, step=7)
    _assert_equal_trees(t5x_legacy.read(path), params)
    assert t5x_legacy.read(path, "state")["step"] == 7


def test_zeros_survive_the_round_trip(tmp_path):
    tree = {"a": {"scale": np.zeros(3, np.float32)}}
    t5x_legacy.write(str(tmp_path / "checkpoint_0"), tree)
    _assert_equal_trees(t5x_legacy.read(str(tmp_path / "checkpoint_0")), tree)


def _rewrite_index(path: pathlib.Path, change) -> None:
    index = flax.serialization.msgpack_restore((path / "checkpoint").read_bytes())
    change(index)
    (path / "checkpoint").write_bytes(flax.serialization.msgpack_serialize(index))


def test_google_written_specs_name_gfile_and_absolute_paths(tmp_path, params):
    path = tmp_path / "checkpoint_7"
    t5x_legacy.write(str(path), params)

    def as_google(index):
        flat = flax.traverse_util.flatten_dict(index["optimizer"]["target"])
        for key in flat:
            if key[-2:] == ("kvstore", "driver"):
                flat[key] = "gfile"
            if key[-2:] == ("kvstore", "path"):
                flat[key] = "/cns/x/checkpoint_7/" + flat[key]
        index["optimizer"]["target"] = flax.traverse_util.unflatten_dict(flat)

    _rewrite_index(path, as_google)
    _assert_equal_trees(t5x_legacy.read(str(path)), params)


def test_single_file_with_inline_arrays(tmp_path, params):
    path = tmp_path / "checkpoint_0"
    tree = {"version": 3, "optimizer": {"target": params, "state": {"step": np.int32(0)}}}
    path.write_bytes(flax.serialization.msgpack_serialize(tree))
    _assert_equal_trees(t5x_legacy.read(str(path)), params)


ORBAX_LAYOUTS: dict[str, dict] = {
    "ocdbt": {},
    "plain": {"use_ocdbt": False},
    "zarr3": {"use_zarr3": True},
    "plain_zarr3": {"use_ocdbt": False, "use_zarr3": True},
}


def _write_orbax(folder: pathlib.Path, params: dict, step: int, **options) -> None:
    state = {"target": params, "state": {"step": np.int32(step), "param_states": {"m": params}}}
    handlers = {"state": ocp.PyTreeCheckpointHandler(**options)}
    with ocp.CheckpointManager(
        folder,
        options=ocp.CheckpointManagerOptions(step_prefix="checkpoint"),
        item_handlers=handlers,
    ) as manager:
        manager.save(step, args=ocp.args.Composite(state=ocp.args.PyTreeSave(state)))


@pytest.mark.parametrize("layout", ORBAX_LAYOUTS)
def test_orbax_layouts(tmp_path, params, layout):
    _write_orbax(tmp_path, params, 3, **ORBAX_LAYOUTS[layout])
    path = str(tmp_path / "checkpoint_3")
    _assert_equal_trees(t5x_legacy.read(path), params)
    assert t5x_legacy.step_of(path) == 3
    _assert_equal_trees(t5x_legacy.read(path, "state")["param_states"]["m"], params)
    with pytest.raises(ValueError, match=r"no 'optimizer'; it has \['state', 'target'\]"):
        t5x_legacy.read(path, "optimizer")


def test_orbax_layout_of_before_it_had_a_description(tmp_path, params):
    _write_orbax(tmp_path, params, 3, use_ocdbt=False)
    state = tmp_path / "checkpoint_3" / "state"
    names = flax.traverse_util.flatten_dict({"target": params}, sep="/")
    leaves = {name: "PLACEHOLDER://" + name.replace("/", ".") for name in names}
    inline = np.arange(8, dtype=np.float32)
    leaves |= {"target/encoder/encoder_norm/scale": inline, "state/step": np.int32(3)}
    tree = flax.traverse_util.unflatten_dict(leaves, sep="/")
    (state / "checkpoint").write_bytes(flax.serialization.msgpack_serialize(tree))
    (state / "_METADATA").unlink()
    with ocp.PyTreeCheckpointer() as checkpointer:
        expected = checkpointer.restore(state)
    np.testing.assert_array_equal(expected["target"]["encoder"]["encoder_norm"]["scale"], inline)
    _assert_equal_trees(t5x_legacy.read(str(state.parent)), expected["target"])
    assert t5x_legacy.step_of(str(state.parent)) == 3


def test_damage_of_the_orbax_layout_is_named(tmp_path, params):
    for layout, options in ORBAX_LAYOUTS.items():
        _write_orbax(tmp_path / layout, params, 3, **options)
    whole = tmp_path / "ocdbt" / "checkpoint_3" / "state"
    (tmp_path / "plain/checkpoint_3/state/target.encoder.encoder_norm.scale/0").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of 38 arrays lack data: target/encoder/enc"):
        t5x_legacy.read(str(tmp_path / "plain" / "checkpoint_3"))
    chunk = tmp_path / "plain_zarr3/checkpoint_3/state/target.token_embedder.embedding/c/0/0"
    chunk.write_bytes(chunk.read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"array target/token_embedder/embedding .* is damaged"):
        t5x_legacy.read(str(tmp_path / "plain_zarr3" / "checkpoint_3"))
    (lost,) = (tmp_path / "zarr3" / "checkpoint_3" / "state" / "d").iterdir()
    lost.unlink()
    with pytest.raises(ValueError, match="is damaged"):
        t5x_legacy.read(str(tmp_path / "zarr3" / "checkpoint_3"))
    (cut,) = (whole / "d").iterdir()
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    with pytest.raises(ValueError, match="is damaged"):
        t5x_legacy.read(str(whole.parent))
    description = whole / "_METADATA"
    description.write_bytes(description.read_bytes()[:-10])
    with pytest.raises(ValueError, match=r"state/_METADATA is truncated or damaged"):
        t5x_legacy.read(str(whole.parent))


def test_latest_passes_over_half_written_steps(tmp_path, params):
    t5x_legacy.write(str(tmp_path / "checkpoint_9"), params)
    t5x_legacy.write(str(tmp_path / "checkpoint_10"), params)
    t5x_legacy.write(str(tmp_path / "checkpoint_100"), params)
    (tmp_path / "checkpoint_100" / "checkpoint").unlink()
    (tmp_path / "checkpoint_200.tmp-123").mkdir()
    assert t5x_legacy.latest(str(tmp_path)) == str(tmp_path / "checkpoint_10")
    for number in (9, 10):
        (tmp_path / f"checkpoint_{number}" / "checkpoint").unlink()
    with pytest.raises(FileNotFoundError, match=r"half-written steps: \[9, 10, 100\]"):
        t5x_legacy.latest(str(tmp_path))


def test_missing_arrays_are_listed(tmp_path, params):
    path = tmp_path / "checkpoint_7"
    t5x_legacy.write(str(path), params)
    (path / "target.encoder.encoder_norm.scale" / "0").unlink()
    with pytest.raises(
        FileNotFoundError, match="1 of 38 arrays lack data: target/encoder/encoder_norm/scale"
    ):
        t5x_legacy.read(str(path))


def test_damaged_array_is_named(tmp_path, params):
    path = tmp_path / "checkpoint_7"
    t5x_legacy.write(str(path), params)
    chunk = path / "target.token_embedder.embedding" / "0.0"
    chunk.write_bytes(chunk.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"array target/token_embedder/embedding .* is damaged"):
        t5x_legacy.read(str(path))


def test_truncated_index_and_no_checkpoint(tmp_path, params):
    path = tmp_path / "checkpoint_7"
    t5x_legacy.write(str(path), params)
    index = path / "checkpoint"
    index.write_bytes(index.read_bytes()[:-10])
    with pytest.raises(ValueError, match="is truncated or not msgpack"):
        t5x_legacy.read(str(path))
    index.unlink()
    with pytest.raises(FileNotFoundError, match="holds neither 'checkpoint'"):
        t5x_legacy.read(str(path))


@pytest.mark.parametrize("tied", [False, True])
def test_config_is_inferred_from_the_shapes(tied):
    activations = ("relu",) if tied else ("gelu", "linear")
    config = network.T5Config(
        20, 8, 3, 4, 12, 2, 1, mlp_activations=activations, logits_via_embedding=tied
    )
    assert t5x_legacy.infer_config(_params(config), "float32") == network.T5Config(
        20, 8, 3, 4, 12, 2, 1, 0.0, "float32", activations, tied
    )


def test_config_of_another_tree(params):
    broken = {name: value for name, value in params.items() if name != "token_embedder"}
    with pytest.raises(ValueError, match="no token_embedder/embedding among the"):
        t5x_legacy.infer_config(broken)


@pytest.fixture(scope="module")
def t5x_checkpoints():
    return pytest.importorskip("t5x.checkpoints")


@pytest.mark.t5x
def test_googles_tiny_checkpoint_equals_what_t5x_reads(t5x_checkpoints):
    folder = pathlib.Path(t5x_checkpoints.__file__).parent / "testdata"
    found = t5x_legacy.read(str(folder / "test_t5_tiny.checkpoint_0"))
    theirs = t5x_checkpoints.load_t5x_checkpoint(str(folder / "test_t5_tiny.checkpoint_0"))
    _assert_equal_trees(found, theirs["target"])
    config = t5x_legacy.infer_config(found)
    assert (config.vocab_size, config.emb_dim, config.num_heads, config.head_dim) == (
        32128,
        8,
        4,
        3,
    )


@pytest.mark.t5x
def test_t5x_reads_what_we_write(t5x_checkpoints, tmp_path, params):
    path = str(tmp_path / "checkpoint_7")
    t5x_legacy.write(path, params, step=7)
    theirs = t5x_checkpoints.load_t5x_checkpoint(path)
    _assert_equal_trees(theirs["target"], params)
    assert theirs["state"]["step"] == 7


_SUMS = """
import sys
from flax import traverse_util
from cotdistill_jax.checkpoints import t5x_legacy

def show(run):
    at = t5x_legacy.latest(run)
    flat = traverse_util.flatten_dict(t5x_legacy.read(at), sep="/")
    print(at, t5x_legacy.step_of(at))
    print({name: float(abs(leaf).sum()) for name, leaf in flat.items()})
"""


def test_google_cloud_storage_is_read_like_a_folder(tmp_path, params, in_bucket):
    for step in (10, 20):
        t5x_legacy.write(str(tmp_path / "legacy" / f"checkpoint_{step}"), params, step)
    for layout, options in ORBAX_LAYOUTS.items():
        _write_orbax(tmp_path / layout, params, 30, **options)
    # In a bucket a step is written under its name, and whole when a file says so.
    _write_orbax(tmp_path / "ocdbt", params, 40)
    (tmp_path / "ocdbt" / "checkpoint_40" / "commit_success.txt").unlink()
    layouts = ["legacy", *ORBAX_LAYOUTS]
    lines = in_bucket(f"{_SUMS}\nfor name in {layouts}: show(f'gs://bucket/{{name}}')")
    flat = flax.traverse_util.flatten_dict(params, sep="/")
    sums = {name: float(abs(leaf).sum()) for name, leaf in flat.items()}
    for layout, at, found in zip(layouts, lines[::2], lines[1::2], strict=True):
        step = 20 if layout == "legacy" else 30
        assert at == f"gs://bucket/{layout}/checkpoint_{step} {step}"
        assert ast.literal_eval(found) == sums
