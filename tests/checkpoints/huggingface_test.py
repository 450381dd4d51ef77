"""Hugging Face folders: exact round trips, shards, old pickles, the library reads ours, clear errors."""

import dataclasses
import functools
import json
import pathlib

import flax.traverse_util
import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import sentencepiece
import transformers

from cotdistill_jax import network
from cotdistill_jax.checkpoints import huggingface

VOCABULARY = pathlib.Path(__file__).parents[2] / "cotdistill_jax" / "corpus" / "arith.spiece.model"
CONFIG = network.T5Config(
    vocab_size=20,
    emb_dim=8,
    num_heads=3,
    head_dim=4,
    mlp_dim=12,
    num_encoder_layers=2,
    num_decoder_layers=1,
    dropout_rate=0.1,
)
TIED = dataclasses.replace(CONFIG, logits_via_embedding=True, mlp_activations=("relu",))


def _params(config: network.T5Config = CONFIG) -> dict:
    rng = np.random.default_rng(0)
    shapes = huggingface.tensor_shapes(config)
    flat = {}
    for ours, (theirs, transposed) in huggingface.tensor_names(config).items():
        values = rng.standard_normal(shapes[theirs]).astype(np.float32)
        flat[ours] = values.T if transposed else values
    return flax.traverse_util.unflatten_dict(flat, sep="/")


def _assert_equal_trees(left: dict, right: dict) -> None:
    left, right = (flax.traverse_util.flatten_dict(tree, sep="/") for tree in (left, right))
    assert left.keys() == right.keys()
    for name, value in left.items():
        assert value.dtype == np.float32
        np.testing.assert_array_equal(value, right[name], err_msg=name)


@pytest.mark.parametrize("config", [CONFIG, TIED], ids=["flan_t5", "t5_1_0"])
def test_names_cover_the_networks_tree(config):
    tokens = np.ones((1, 2), np.int32)
    init = functools.partial(network.Transformer(config).init, enable_dropout=False)
    abstract = jax.eval_shape(init, jax.random.key(0), tokens, tokens, tokens)
    tree = flax.traverse_util.flatten_dict(abstract["params"], sep="/")
    names, shapes = huggingface.tensor_names(config), huggingface.tensor_shapes(config)
    assert names.keys() == tree.keys()
    for ours, (theirs, transposed) in names.items():
        expected = tree[ours].shape[::-1] if transposed else tree[ours].shape
        assert shapes[theirs] == expected, ours


def test_names_literal():
    names = huggingface.tensor_names(CONFIG)
    assert names["decoder/logits_dense/kernel"] == ("lm_head.weight", True)


@pytest.mark.parametrize("config", [CONFIG, TIED], ids=["flan_t5", "t5_1_0"])
@pytest.mark.parametrize("max_shard_bytes", [5_000_000_000, 2_000], ids=["single", "sharded"])
def test_round_trip_is_exact(tmp_path, config, max_shard_bytes):
    params = _params(config)
    huggingface.write(tmp_path, config, params, max_shard_bytes=max_shard_bytes)
    assert (len(list(tmp_path.glob("*.safetensors"))) > 2) == (max_shard_bytes == 2_000)
    got_config, got = huggingface.read(tmp_path)
    assert got_config == dataclasses.replace(config, dtype="float32")
    _assert_equal_trees(got, params)


def test_safetensors_library_reads_what_we_write(tmp_path):
    params = _params()
    huggingface.write(tmp_path, CONFIG, params)
    tensors = safetensors.numpy.load_file(tmp_path / "model.safetensors")
    assert tensors.keys() == huggingface.tensor_shapes(CONFIG).keys()
    np.testing.assert_array_equal(
        tensors["lm_head.weight"], params["decoder"]["logits_dense"]["kernel"].T
    )


def test_rewriting_in_fewer_shards_leaves_no_stale_file(tmp_path):
    huggingface.write(tmp_path, CONFIG, _params(), max_shard_bytes=2_000)
    huggingface.write(tmp_path, CONFIG, _params())
    assert [path.name for path in tmp_path.glob("model*")] == ["model.safetensors"]


def test_bfloat16_weights_become_float32_without_loss(tmp_path):
    huggingface.write(tmp_path, CONFIG, _params())
    path = tmp_path / "model.safetensors"
    exact = safetensors.numpy.load_file(path)
    header = {}
    body = b""
    for name, value in exact.items():
        data = value.astype(ml_dtypes.bfloat16).tobytes()
        offsets = [len(body), len(body) + len(data)]
        header[name] = {"dtype": "BF16", "shape": value.shape, "data_offsets": offsets}
        body += data
    encoded = json.dumps(header).encode()
    path.write_bytes(len(encoded).to_bytes(8, "little") + encoded + body)
    _, params = huggingface.read(tmp_path)
    embedding = params["token_embedder"]["embedding"]
    rounded = exact["shared.weight"].astype(ml_dtypes.bfloat16).astype(np.float32)
    assert embedding.dtype == np.float32
    np.testing.assert_array_equal(embedding, rounded)
    assert not np.array_equal(embedding, exact["shared.weight"])


def test_float32_weights_are_views_of_the_file(tmp_path):
    huggingface.write(tmp_path, CONFIG, _params())
    _, params = huggingface.read(tmp_path)
    owner = params["decoder"]["logits_dense"]["kernel"]
    while isinstance(owner.base, np.ndarray):
        owner = owner.base
    assert isinstance(owner, np.memmap)


def test_untied_config_without_lm_head_uses_the_embedding_unscaled(tmp_path):
    huggingface.write(tmp_path, CONFIG, _params())
    tensors = safetensors.numpy.load_file(tmp_path / "model.safetensors")
    del tensors["lm_head.weight"]
    safetensors.numpy.save_file(tensors, tmp_path / "model.safetensors")
    config, params = huggingface.read(tmp_path)
    assert not config.logits_via_embedding
    kernel = params["decoder"]["logits_dense"]["kernel"]
    np.testing.assert_array_equal(kernel, tensors["shared.weight"].T)


def test_tied_copies_are_accepted_and_a_scaled_head_of_its_own_is_not(tmp_path):
    huggingface.write(tmp_path, TIED, _params(TIED))
    path = tmp_path / "model.safetensors"
    tensors = safetensors.numpy.load_file(path)
    for copy in ("lm_head.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight"):
        tensors[copy] = tensors["shared.weight"].copy()
    safetensors.numpy.save_file(tensors, path)
    config, params = huggingface.read(tmp_path)
    assert config.logits_via_embedding
    _assert_equal_trees(params, _params(TIED))
    tensors["lm_head.weight"] += 1
    safetensors.numpy.save_file(tensors, path)
    with pytest.raises(ValueError, match=r"lm_head\.weight of its own.*scaled outputs"):
        huggingface.read(tmp_path)


def _corrupt(folder: pathlib.Path, change) -> None:
    path = folder / "model.safetensors"
    tensors = safetensors.numpy.load_file(path)
    change(tensors)
    safetensors.numpy.save_file(tensors, path)


def test_wrong_tensors_are_listed(tmp_path):
    huggingface.write(tmp_path, CONFIG, _params())

    def change(tensors):
        del tensors["encoder.final_layer_norm.weight"]
        tensors["adapter.weight"] = np.zeros((2, 2), np.float32)
        tensors["shared.weight"] = tensors["shared.weight"][:-1].copy()

    _corrupt(tmp_path, change)
    with pytest.raises(ValueError) as caught:
        huggingface.read(tmp_path)
    message = str(caught.value)
    assert "missing encoder.final_layer_norm.weight (8,)" in message
    assert "unexpected adapter.weight (2, 2)" in message
    assert "shared.weight is (19, 8), expected (20, 8)" in message


def test_wrong_parameters_are_not_written(tmp_path):
    params = _params()
    params["encoder"]["encoder_norm"]["scale"] = np.zeros(3, np.float32)
    with pytest.raises(ValueError, match=r"encoder/encoder_norm/scale is \(3,\), expected \(8,\)"):
        huggingface.write(tmp_path / "out", CONFIG, params)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("left", [0, 5, 40, -1])
def test_truncated_file(tmp_path, left):
    huggingface.write(tmp_path, CONFIG, _params())
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(ValueError, match=r"model\.safetensors is truncated"):
        huggingface.read(tmp_path)


def test_missing_files(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no .*config\.json"):
        huggingface.read(tmp_path)
    huggingface.write(tmp_path, CONFIG, _params(), max_shard_bytes=2_000)
    lost = sorted(tmp_path.glob("model-*"))[1]
    lost.unlink()
    with pytest.raises(FileNotFoundError, match=lost.name):
        huggingface.read(tmp_path)
    for path in tmp_path.glob("model*"):
        path.unlink()
    with pytest.raises(FileNotFoundError, match=r"holds no weights; looked for model\.safetensors"):
        huggingface.read(tmp_path)


def test_a_model_that_is_not_t5(tmp_path):
    huggingface.write(tmp_path, CONFIG, _params())
    path = tmp_path / "config.json"
    described = json.loads(path.read_text())
    path.write_text(json.dumps(described | {"feed_forward_proj": "gated-swish"}))
    with pytest.raises(ValueError, match=r"'gated-swish'; supported are \['gated-gelu'"):
        huggingface.read(tmp_path)
    del described["d_kv"]
    path.write_text(json.dumps(described))
    with pytest.raises(ValueError, match="has no 'd_kv'"):
        huggingface.read(tmp_path)


@pytest.mark.torch
def test_old_pickle_is_read_and_code_in_it_is_refused(tmp_path):
    torch = pytest.importorskip("torch")
    huggingface.write(tmp_path, CONFIG, _params())
    single = tmp_path / "model.safetensors"
    tensors = safetensors.numpy.load_file(single)
    single.unlink()
    old = tmp_path / "pytorch_model.bin"
    torch.save({name: torch.from_numpy(value) for name, value in tensors.items()}, old)
    _, params = huggingface.read(tmp_path)
    _assert_equal_trees(params, _params())
    shard = tmp_path / "pytorch_model-00001-of-00001.bin"
    old.rename(shard)
    placed = {"weight_map": dict.fromkeys(tensors, shard.name)}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(placed))
    _assert_equal_trees(huggingface.read(tmp_path)[1], _params())
    torch.save({"shared.weight": pathlib.Path("/")}, old)
    with pytest.raises(ValueError, match="holds more than tensors"):
        huggingface.read(tmp_path)


@pytest.mark.torch
@pytest.mark.parametrize("config", [CONFIG, TIED], ids=["flan_t5", "t5_1_0"])
def test_transformers_loads_the_written_folder(tmp_path, config):
    torch = pytest.importorskip("torch")
    params = _params(config)
    huggingface.write(tmp_path, config, params, VOCABULARY, extra_ids=0)
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path).eval()
    inputs = np.array([[5, 6, 7, 1]])
    targets = np.array([[3, 4, 1]])
    shifted = np.array([[0, 3, 4]])
    with torch.no_grad():
        theirs = model(
            input_ids=torch.tensor(inputs), decoder_input_ids=torch.tensor(shifted)
        ).logits
    ours = network.Transformer(config).apply(
        {"params": params}, inputs, shifted, targets, enable_dropout=False
    )
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)
    again = tmp_path / "again"
    model.save_pretrained(again)
    _, params_again = huggingface.read(again)
    _assert_equal_trees(params_again, params)


def _assert_tokenizes_like(vocabulary: pathlib.Path, folder: pathlib.Path, extra_ids: int):
    huggingface.write(folder, CONFIG, _params(), vocabulary, extra_ids)
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(vocabulary))
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    text = "Tom has 12 apples. The answer is 7"
    assert tokenizer(text)["input_ids"] == [*pieces.encode(text), 1]
    assert len(tokenizer) == len(pieces) + extra_ids


def test_written_tokenizer_gives_the_vocabularys_ids(tmp_path):
    vocabulary = tmp_path / "words.model"
    with vocabulary.open("wb") as model:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(["Tom has 12 apples. The answer is 7", "Ana has 3 apples"] * 9),
            **{"model_writer": model, "model_type": "unigram", "vocab_size": 24, "minloglevel": 2},
            **{"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1},
        )
    _assert_tokenizes_like(vocabulary, tmp_path, extra_ids=0)


def test_a_vocabulary_that_its_tokenizer_cannot_follow_is_warned_of(tmp_path):
    with pytest.warns(UserWarning, match="not unigram and made with the phrases .*The▁answer▁is"):
        huggingface.write(tmp_path, CONFIG, _params(), VOCABULARY, extra_ids=0)


@pytest.mark.real_data
def test_written_tokenizer_of_the_real_vocabulary(tmp_path, data_dir):
    _assert_tokenizes_like(data_dir / "t5" / "spiece.model", tmp_path, extra_ids=100)


def _written(folder, config=CONFIG, change=lambda tensors: tensors, **fields):
    """A folder of ours with other names of tensors, or other fields of config.json."""
    huggingface.write(folder, config, _params(config))
    path = folder / "model.safetensors"
    safetensors.numpy.save_file(change(dict(safetensors.numpy.load_file(path))), path)
    described = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**described, **fields}))
    return folder


@pytest.mark.parametrize("side", ["encoder", "decoder"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "model."])
def test_the_embedding_under_another_name_and_names_with_prefixes_are_read(tmp_path, side, prefix):
    def change(tensors):
        tensors[f"{side}.embed_tokens.weight"] = tensors.pop("shared.weight")
        return {prefix + name: tensor for name, tensor in tensors.items()}

    _, params = huggingface.read(_written(tmp_path, change=change))
    _assert_equal_trees(params, _params())


@pytest.mark.parametrize("shared", [True, False])
def test_embeddings_that_differ_are_refused_and_equal_copies_are_not(tmp_path, shared):
    def change(tensors, other=0.0):
        for side in ("encoder", "decoder"):
            tensors[f"{side}.embed_tokens.weight"] = tensors["shared.weight"].copy()
        tensors["decoder.embed_tokens.weight"] += other
        if not shared:
            del tensors["shared.weight"]
        return tensors

    _, params = huggingface.read(_written(tmp_path / "same", change=change))
    _assert_equal_trees(params, _params())
    differing = _written(tmp_path / "other", change=lambda tensors: change(tensors, 0.5))
    with pytest.raises(ValueError, match=r"another in decoder\.embed_tokens\.weight"):
        huggingface.read(differing)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("layer_norm_epsilon", 1e-5),
        ("model_type", "umt5"),
        ("model_type", "longt5"),
        ("model_type", "switch_transformers"),
        ("dense_act_fn", "gelu"),
        ("is_gated_act", False),
        ("is_encoder_decoder", False),
        ("decoder_start_token_id", 5),
        ("pad_token_id", 3),
        ("eos_token_id", 7),
        ("quantization_config", {"bits": 4}),
    ],
)
def test_a_field_that_changes_the_function_is_refused_by_name(tmp_path, field, value):
    with pytest.raises(ValueError, match=rf"config\.json describes a network.*{field}"):
        huggingface.read(_written(tmp_path, **{field: value}))


@pytest.mark.parametrize("tie", [True, False])
def test_mt5_is_never_scaled_whatever_its_config_says(tmp_path, tie):
    folder = _written(tmp_path, model_type="mt5", tie_word_embeddings=tie, dense_act_fn="gelu_new")
    config, params = huggingface.read(folder)
    assert not config.logits_via_embedding
    _assert_equal_trees(params, _params())


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 99\n", "Git LFS pointer"),
        (b"<!doctype html><title>Sign in</title>", "web page"),
        (b"\x1f\x8b\x08rest", "gzip"),
    ],
)
@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "pytorch_model.bin"])
def test_what_lies_there_instead_of_weights_is_named(tmp_path, name, content, named):
    folder = _written(tmp_path)
    if name == "pytorch_model.bin":
        (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name} holds .*{named}"):
        huggingface.read(folder)


@pytest.mark.torch
@pytest.mark.parametrize("zipped", [True, False], ids=["since 1.6", "before 1.6"])
@pytest.mark.parametrize("wrapped", ["plain", "parameters", "state_dict", "shards"])
def test_pytorch_files_of_every_age_and_wrapping_are_read(tmp_path, zipped, wrapped):
    torch = pytest.importorskip("torch")
    folder = _written(tmp_path)
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    state = {name: torch.tensor(tensor) for name, tensor in tensors.items()}
    if wrapped == "parameters":
        state = {name: torch.nn.Parameter(tensor) for name, tensor in state.items()}

    def save(content, path):
        torch.save(content, path, _use_new_zipfile_serialization=zipped)

    if wrapped == "shards":
        names = sorted(state)
        files = {
            name: f"pytorch_model-0000{1 + place % 2}-of-00002.bin"
            for place, name in enumerate(names)
        }
        for file in set(files.values()):
            save({name: state[name] for name in names if files[name] == file}, folder / file)
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": files}))
    else:
        save(
            {"state_dict": state} if wrapped == "state_dict" else state,
            folder / "pytorch_model.bin",
        )
    _, params = huggingface.read(folder)
    _assert_equal_trees(params, _params())


@pytest.mark.torch
@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("T5", {"feed_forward_proj": "relu"}),
        ("T5", {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}),
        ("T5", {"feed_forward_proj": "gated-silu"}),
        (
            "T5",
            {
                "feed_forward_proj": "relu",
                "relative_attention_max_distance": 20,
                "relative_attention_num_buckets": 8,
            },
        ),
        ("T5", {"feed_forward_proj": "gated-gelu", "num_decoder_layers": 3}),
        ("MT5", {"feed_forward_proj": "gated-gelu"}),
        ("MT5", {"feed_forward_proj": "relu"}),
        ("UMT5", {}),
    ],
)
def test_logits_are_those_of_transformers_or_the_model_is_refused(tmp_path, kind, fields):
    torch = pytest.importorskip("torch")
    dimensions = {
        "vocab_size": 24,
        "d_model": 8,
        "d_kv": 4,
        "d_ff": 16,
        "num_layers": 2,
        "num_heads": 2,
    }
    torch.manual_seed(0)
    described = getattr(transformers, f"{kind}Config")(
        **{**dimensions, **fields}, decoder_start_token_id=0
    )
    theirs = getattr(transformers, f"{kind}ForConditionalGeneration")(described).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.5)
    theirs.save_pretrained(tmp_path)
    if kind == "UMT5":
        with pytest.raises(ValueError, match="model_type 'umt5'"):
            huggingface.read(tmp_path)
        return
    inputs = np.random.default_rng(0).integers(2, 24, (2, 30))
    targets = np.random.default_rng(1).integers(2, 24, (2, 9))
    shifted = np.pad(targets, ((0, 0), (1, 0)))[:, :-1]
    with torch.no_grad():
        expected = theirs(
            input_ids=torch.tensor(inputs), decoder_input_ids=torch.tensor(shifted)
        ).logits.numpy()
    config, params = huggingface.read(tmp_path)
    logits = network.Transformer(config).apply(
        {"params": params}, inputs, shifted, targets, enable_dropout=False
    )
    np.testing.assert_allclose(np.asarray(logits), expected, atol=2e-5 * np.abs(expected).max())
