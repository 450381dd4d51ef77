"""Checkpoints in a bucket, ours and T5X's, start runs and are evaluated as those in a folder."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
from flax import traverse_util

from cotdistill_jax import corpus, files, network
from cotdistill_jax.checkpoints import conversion, huggingface, train_state

CONFIG = network.T5Config(
    vocab_size=512,
    emb_dim=8,
    num_heads=2,
    head_dim=4,
    mlp_dim=16,
    num_encoder_layers=2,
    num_decoder_layers=1,
    relative_max_distance=64,  # which the shapes do not tell
)

SHOW = """
import dataclasses, json
from flax import traverse_util
from cotdistill_jax import network
from cotdistill_jax.checkpoints import conversion, initial
from cotdistill_jax.inference import selection

def sums(params):
    flat = traverse_util.flatten_dict(params, sep="/")
    return {name: float(abs(leaf).sum()) for name, leaf in flat.items()}

def show(path):
    weights = conversion.load(path)
    config = dataclasses.asdict(weights.config)
    chosen = selection.load(selection.select(path)[0]) if "checkpoint_" in path else None
    print(json.dumps([weights.layout, weights.step, weights.extra_ids, config["relative_max_distance"],
                      str(chosen.vocabulary_file) if chosen else None, sums(weights.params)]))
"""


@pytest.fixture
def params() -> dict:
    rng = np.random.default_rng(0)
    shapes = train_state.abstract_params(CONFIG)
    return jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape).astype(np.float32), shapes)


def _sums(params: dict) -> dict:
    flat = jax.tree_util.tree_leaves_with_path(params)
    return {"/".join(k.key for k in path): float(abs(leaf).sum()) for path, leaf in flat}


def test_a_run_and_t5x_checkpoints_in_a_bucket(tmp_path, params, in_bucket):
    vocabulary = corpus.arith_vocabulary()
    run = conversion.Weights("ours", CONFIG, params, vocabulary, 0, 7)
    conversion.save(run, str(tmp_path / "run"), "ours")
    conversion.save(dataclasses.replace(run, step=3), str(tmp_path / "t5x"), "t5x")
    shutil.copy(vocabulary, tmp_path / "t5x" / "spiece.model")
    shutil.copytree(tmp_path / "run" / "checkpoint_7", tmp_path / "theirs" / "checkpoint_7")
    paths = ["run", "run/checkpoint_7", "theirs", "t5x/checkpoint_3"]
    lines = in_bucket(f"{SHOW}\nfor at in {paths}: show('gs://bucket/' + at)")
    found = [json.loads(line) for line in lines]
    assert [one[:4] for one in found] == [
        ["ours", 7, 0, 64],
        ["ours", 7, 0, 64],
        ["t5x", 7, 100, 128],  # no model.json: what T5 has
        ["t5x", 3, 100, 128],
    ]
    expected = pytest.approx(_sums(params), rel=1e-6)
    assert all(one[5] == expected for one in found)
    for copy in (found[1][4], found[3][4]):
        assert copy.startswith(str(tmp_path / "home")) and copy.endswith("/spiece.model")


@pytest.mark.slow
def test_a_run_in_a_bucket_is_evaluated_and_starts_another(tmp_path, params, in_bucket):
    run = conversion.Weights("ours", CONFIG, params, corpus.arith_vocabulary(), 0, 7)
    conversion.save(run, str(tmp_path / "run"), "ours")
    script = f"""
from cotdistill_jax import network
from cotdistill_jax.checkpoints import initial
from cotdistill_jax.inference.__main__ import main
config = network.T5Config(**{ {**dataclasses.asdict(CONFIG), "dtype": "float32"}!r})
print(initial.read("gs://bucket/run", config, {str(corpus.arith_vocabulary())!r})[1])
print(initial.locate_t5x("gs://bucket/run", config))
main(["--checkpoint=gs://bucket/run/checkpoint_7", "--benchmarks=arith", "--prompt=zero_shot_cot", "--num_examples=2",
      "--max_new_tokens=8", "--output_dir={tmp_path}/evaluation"])
"""
    lines = in_bucket(script)
    assert "starts from the weights of gs://bucket/run (ours, step 7)" in lines[0]
    assert lines[1] == "gs://bucket/run/checkpoint_7"
    results = json.loads((tmp_path / "evaluation" / "results.json").read_text())
    assert results["checkpoint"] == "gs://bucket/run/checkpoint_7"


BY_NAME = """
from cotdistill_jax.checkpoints import conversion
from cotdistill_jax.inference import selection

(chosen,) = selection.select("flan_t5_base")
print(chosen.path, chosen.step, selection.load(chosen).vocabulary_file.name)
print(conversion.open_weights("flan_t5_base").layout)
"""


def test_names_of_t5x_bucket_find_weights_and_vocabulary(tmp_path, params, in_bucket):
    weights = conversion.Weights("t5x", CONFIG, params, None, 100, 1184000)
    conversion.save(weights, str(tmp_path / "t5-data/pretrained_models/t5x/flan_t5_base"), "t5x")
    vocabulary = tmp_path / "t5-data/vocabs/cc_all.32000/sentencepiece.model"
    vocabulary.parent.mkdir(parents=True)
    shutil.copy(corpus.arith_vocabulary(), vocabulary)
    assert in_bucket(BY_NAME) == [
        "gs://t5-data/pretrained_models/t5x/flan_t5_base/checkpoint_1184000 1184000 sentencepiece.model",
        "t5x",
    ]


@pytest.mark.parametrize("shard_bytes", [10_000_000, 2_000])
def test_hugging_face_weights_in_a_bucket_are_those_of_the_folder(
    tmp_path, bucket, params, shard_bytes
):
    local = tmp_path / "hf"
    huggingface.write(local, CONFIG, params, corpus.arith_vocabulary(), 0, shard_bytes)
    remote = files.as_path(f"{bucket.url}/hf")
    for path in local.iterdir():
        (remote / path.name).write_bytes(path.read_bytes())
    here, there = (conversion.open_weights(str(folder)) for folder in (local, remote))
    assert here.config == there.config and there.vocabulary_file.read_bytes()
    assert conversion.differences(here.params, there.params) == []
    whole = traverse_util.flatten_dict(here.params)
    for name, leaf in traverse_util.flatten_dict(there.params).items():
        part = (slice(1, 3), slice(0, 2))[: len(leaf.shape)]
        np.testing.assert_array_equal(leaf[part], whole[name][part])


def test_a_cut_off_file_of_weights_in_a_bucket_is_named(tmp_path, bucket, params):
    huggingface.write(tmp_path, CONFIG, params)
    remote = files.as_path(f"{bucket.url}/hf")
    for path in tmp_path.iterdir():
        content = path.read_bytes()
        cut = len(content) // 2 if path.suffix == ".safetensors" else len(content)
        (remote / path.name).write_bytes(content[:cut])
    with pytest.raises(files.BucketError, match=r"model\.safetensors.*OUT_OF_RANGE"):
        conversion.load(str(remote))
