"""Hugging Face T5 folders <-> our parameter tree, exactly and without PyTorch.

`open_params` reads the tensors lazily (`tensor_files`). `write` takes one tensor after the other and adds the config and
tokenizer files, so that `AutoModelForSeq2SeqLM.from_pretrained(folder)` works.

Both sides compute the same function of the same numbers: neither scales attention scores at run time, so the only
difference is that Hugging Face stores linear maps as [out, in] and ours are [in, out].

| Hugging Face | ours | |
|---|---|---|
| `shared.weight` | `token_embedder/embedding` | |
| `lm_head.weight` | `decoder/logits_dense/kernel` | transposed; absent if tied |
| `S.block.0.layer.0.SelfAttention.relative_attention_bias.weight` | `S/relpos_bias/rel_embedding` | transposed |
| `S.final_layer_norm.weight` | `S/S_norm/scale` | |
| `S.block.i.layer.j.layer_norm.weight` | `S/layers_i/pre_*_layer_norm/scale` | |
| `S.block.i.layer.j.{SelfAttention,EncDecAttention}.{q,k,v,o}.weight` | `S/layers_i/*attention/*/kernel` | transposed |
| `S.block.i.layer.j.DenseReluDense.{wi,wi_0,wi_1,wo}.weight` | `S/layers_i/mlp/*/kernel` | transposed |
"""

import pathlib
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import traverse_util
from sentencepiece import sentencepiece_model_pb2

from cotdistill_jax import files, network
from cotdistill_jax.checkpoints import stored, tensor_files
from cotdistill_jax.files import write_json_atomically

_FEED_FORWARD = {
    "gated-gelu": ("gelu", "linear"),
    "gated-silu": ("silu", "linear"),
    "relu": ("relu",),
}
_VOCABULARY_FILE = "spiece.model"
# What the fields of `config.json` beside the dimensions must say, where they are there: another value is another function.
_FIXED_FIELDS: Mapping[str, tuple[Any, ...]] = {
    "model_type": ("t5", "mt5"),
    "layer_norm_epsilon": (1e-6,),
    "is_encoder_decoder": (True,),
    "is_decoder": (False,),
    "pad_token_id": (0, None),
    "decoder_start_token_id": (0, None),
    "eos_token_id": (1, None, [1]),
    "quantization_config": (None,),
}
_DENSE_ACTIVATIONS = {"gated-gelu": "gelu_new", "gated-silu": "silu", "relu": "relu"}
# Copies of `shared.weight`; some exports hold one of them alone.
_EMBEDDING_COPIES = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
# A table old exports hold though nothing reads it.
_IGNORED = ("decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",)


def tensor_names(config: network.T5Config) -> dict[str, tuple[str, bool]]:
    """Returns our parameter names, each with Hugging Face's name and whether it is transposed there.

    Example:
      `tensor_names(config)["decoder/logits_dense/kernel"]` is `("lm_head.weight", True)`.
    """
    names = {"token_embedder/embedding": ("shared.weight", False)}
    if not config.logits_via_embedding:
        names["decoder/logits_dense/kernel"] = ("lm_head.weight", True)
    gated = len(config.mlp_activations) > 1
    mlp = [f"wi_{i}" for i in range(len(config.mlp_activations))] if gated else ["wi"]
    stacks: dict[str, tuple[int, list[tuple[str, str, str]]]] = {
        "encoder": (
            config.num_encoder_layers,
            [("attention", "SelfAttention", "pre_attention_layer_norm")],
        ),
        "decoder": (
            config.num_decoder_layers,
            [
                ("self_attention", "SelfAttention", "pre_self_attention_layer_norm"),
                ("encoder_decoder_attention", "EncDecAttention", "pre_cross_attention_layer_norm"),
            ],
        ),
    }
    for stack, (num_layers, attentions) in stacks.items():
        table = f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        names[f"{stack}/relpos_bias/rel_embedding"] = (table, True)
        names[f"{stack}/{stack}_norm/scale"] = (f"{stack}.final_layer_norm.weight", False)
        for layer in range(num_layers):
            ours = f"{stack}/layers_{layer}"
            theirs = f"{stack}.block.{layer}.layer"
            for j, (attention, their_attention, norm) in enumerate(attentions):
                names[f"{ours}/{norm}/scale"] = (f"{theirs}.{j}.layer_norm.weight", False)
                for part in ("query", "key", "value", "out"):
                    their_part = f"{theirs}.{j}.{their_attention}.{part[0]}.weight"
                    names[f"{ours}/{attention}/{part}/kernel"] = (their_part, True)
            last = f"{theirs}.{len(attentions)}"
            names[f"{ours}/pre_mlp_layer_norm/scale"] = (f"{last}.layer_norm.weight", False)
            for part in [*mlp, "wo"]:
                their_part = f"{last}.DenseReluDense.{part}.weight"
                names[f"{ours}/mlp/{part}/kernel"] = (their_part, True)
    return names


def tensor_shapes(config: network.T5Config) -> dict[str, tuple[int, ...]]:
    """Returns Hugging Face's tensor names of a network of this size with their shapes."""
    width, joined = config.emb_dim, config.num_heads * config.head_dim
    ends = {
        "shared.weight": (config.vocab_size, width),
        "lm_head.weight": (config.vocab_size, width),
        "relative_attention_bias.weight": (config.relative_buckets, config.num_heads),
        "layer_norm.weight": (width,),
        "o.weight": (width, joined),
        "wo.weight": (width, config.mlp_dim),
    }

    def shape(name: str) -> tuple[int, ...]:
        for end, of_end in ends.items():
            if name == end or name.endswith(("." + end, "_" + end)):
                return of_end
        return (config.mlp_dim if ".DenseReluDense.wi" in name else joined, width)

    return {name: shape(name) for name, _ in tensor_names(config).values()}


def read(folder: files.AnyPath, dtype: str = "float32") -> tuple[network.T5Config, dict[str, Any]]:
    """Returns the network's dimensions and its float32 parameters, a nested dict of NumPy arrays.

    Those of float32 safetensors are views of the mapped files. Args and exceptions are those of `open_params`.
    """
    config, params = open_params(folder, dtype)
    return config, stored.materialise(params)


def open_params(
    folder: files.AnyPath, dtype: str = "float32"
) -> tuple[network.T5Config, dict[str, Any]]:
    """Returns the network's dimensions and its parameters, a nested dict of float32 `StoredArray`s.

    Whether the output layer is tied is told by the tensors, not by the config, because newer versions of
    `transformers` write `tie_word_embeddings: true` for every T5.

    Args:
      folder: holds `config.json` and `model.safetensors`, `model.safetensors.index.json` with its shards, or
        `pytorch_model.bin`.
      dtype: activation type of the returned config.

    Raises:
      FileNotFoundError: a file is missing.
      ValueError: a file is truncated or holds something else (an LFS pointer, a web page), a field of `config.json` asks for
        another function than ours, copies of the embedding differ, or tensors are missing, unexpected or of another shape than
        `config.json` says; the message lists them.
    """
    folder = files.as_path(folder)
    described = tensor_files.read_json(folder / "config.json", "a Hugging Face T5 folder")
    _check_fields(described, folder)
    tensors = _one_embedding(tensor_files.read(folder), folder)
    scaled = described.get("scale_decoder_outputs")
    if scaled is None:
        scaled = described.get("tie_word_embeddings", True)
    if described.get("model_type") == "mt5":  # never scaled, whatever the config says
        scaled = False
    shared = tensors.get("shared.weight")
    if shared is not None:
        head: Any = tensors.setdefault("lm_head.weight", shared)
        if scaled and head is not shared and not np.array_equal(head, shared):
            raise ValueError(
                f"checkpoints: {folder} holds an lm_head.weight of its own, but config.json has scaled outputs "
                "(tie_word_embeddings is not false), which no T5 release combines; correct config.json"
            )
        if scaled:
            del tensors["lm_head.weight"]
    config = _config(described, bool(scaled), dtype, folder)
    _check(tensors, tensor_shapes(config), folder)
    params = {}
    for ours, (theirs, transposed) in tensor_names(config).items():
        params[ours] = tensors[theirs].T if transposed else tensors[theirs]
    return config, stored.as_float32(traverse_util.unflatten_dict(params, sep="/"))


def write(
    folder: files.AnyPath,
    config: network.T5Config,
    params: Mapping[str, Any],
    vocabulary_file: files.AnyPath | None = None,
    extra_ids: int = 100,
    max_shard_bytes: int = 5_000_000_000,
) -> None:
    """Writes a folder that `AutoModelForSeq2SeqLM` and `AutoTokenizer` read.

    Args:
      folder: made where missing; files of the same name are replaced.
      config: dimensions of the network.
      params: nested dict of arrays, the collection "params".
      vocabulary_file: SentencePiece model to copy beside the weights, or None for weights only.
      extra_ids: sentinel ids above the pieces of the vocabulary (100 for T5).
      max_shard_bytes: size from which on the weights are split into several files.

    Warns:
      UserWarning: Hugging Face's tokenizer gives other ids than this vocabulary (no unigram model of single words).

    Raises:
      ValueError: parameters are missing, unexpected or of another shape than `config` says.
    """
    folder = files.local_path(folder, "checkpoints", "a Hugging Face folder that is written")
    ours = traverse_util.flatten_dict(dict(params), sep="/")
    names = tensor_names(config)
    shapes = tensor_shapes(config)
    wanted = {
        name: shapes[theirs][::-1] if transposed else shapes[theirs]
        for name, (theirs, transposed) in names.items()
    }
    _check(ours, wanted, "the parameter tree")
    folder.mkdir(parents=True, exist_ok=True)
    tensor_files.write(folder, shapes, ours, names, max_shard_bytes)
    write_json_atomically(folder / "config.json", describe(config))
    start = {"decoder_start_token_id": 0, "eos_token_id": 1, "pad_token_id": 0}
    write_json_atomically(folder / "generation_config.json", start)
    if vocabulary_file is not None:
        files.write_atomically(
            folder / _VOCABULARY_FILE, files.as_path(vocabulary_file).read_bytes()
        )
        write_json_atomically(folder / "tokenizer_config.json", _tokenizer(extra_ids))
        _warn_of_other_ids(folder / _VOCABULARY_FILE)


def _config(
    described: Mapping[str, Any], tied: bool, dtype: str, folder: files.Path
) -> network.T5Config:
    feed_forward = _feed_forward(described)
    if feed_forward not in _FEED_FORWARD:
        raise ValueError(
            f"checkpoints: {folder}/config.json has feed_forward_proj {feed_forward!r}; "
            f"supported are {sorted(_FEED_FORWARD)}"
        )
    try:
        return network.T5Config(
            vocab_size=described["vocab_size"],
            emb_dim=described["d_model"],
            num_heads=described["num_heads"],
            head_dim=described["d_kv"],
            mlp_dim=described["d_ff"],
            num_encoder_layers=described["num_layers"],
            num_decoder_layers=described.get("num_decoder_layers") or described["num_layers"],
            dropout_rate=described.get("dropout_rate", 0.1),
            dtype=dtype,
            mlp_activations=_FEED_FORWARD[feed_forward],
            logits_via_embedding=tied,
            relative_buckets=described.get("relative_attention_num_buckets", 32),
            relative_max_distance=described.get("relative_attention_max_distance", 128),
        )
    except KeyError as error:
        raise ValueError(
            f"checkpoints: {folder}/config.json has no {error.args[0]!r}; expected the config of a T5 model"
        ) from error


def _feed_forward(described: Mapping[str, Any]) -> str:
    default = "gated-gelu" if described.get("model_type") == "mt5" else "relu"
    return str(described.get("feed_forward_proj", default))


def _check_fields(described: Any, folder: files.Path) -> None:
    """Raises ValueError where `config.json` describes another function than our network computes."""
    if not isinstance(described, Mapping):
        raise ValueError(
            f"checkpoints: {folder}/config.json holds {type(described).__name__}, expected an object"
        )
    feed_forward = _feed_forward(described)
    expected = {
        **_FIXED_FIELDS,
        "dense_act_fn": (_DENSE_ACTIVATIONS.get(feed_forward),),
        "is_gated_act": (feed_forward.startswith("gated-"),),
    }
    wrong = [
        f"{name} {described[name]!r} (supported: {allowed[0]!r})"
        for name, allowed in expected.items()
        if name in described and described[name] not in allowed
    ]
    if wrong and feed_forward in _FEED_FORWARD:
        raise ValueError(
            f"checkpoints: {folder}/config.json describes a network that is not ours: {'; '.join(wrong)}. Only T5 and mT5 as released "
            "convert to the same logits; correct config.json if the field is wrong."
        )


def _one_embedding(tensors: tensor_files.Tensors, folder: files.Path) -> tensor_files.Tensors:
    """Returns the tensors with the embedding as `shared.weight` alone.

    Raises:
      ValueError: encoder, decoder and `shared.weight` have embeddings that differ.
    """
    names = [name for name in ("shared.weight", *_EMBEDDING_COPIES) if name in tensors]
    for name in names[1:]:
        first, other = tensors[names[0]], tensors[name]
        if first is not other and not np.array_equal(first, other):
            raise ValueError(
                f"checkpoints: {folder} has one embedding in {names[0]} and another in {name}; T5 has one for both sides. Our network "
                "cannot compute this model; keep the copy that was trained."
            )
    others = {name: tensor for name, tensor in tensors.items() if name not in names}
    return {"shared.weight": tensors[names[0]], **others} if names else others


def describe(config: network.T5Config) -> dict[str, Any]:
    """Returns the content of Hugging Face's `config.json` for a network of ours."""
    kinds = {activations: name for name, activations in _FEED_FORWARD.items()}
    return {
        "architectures": ["T5ForConditionalGeneration"],
        "model_type": "t5",
        "vocab_size": config.vocab_size,
        "d_model": config.emb_dim,
        "d_kv": config.head_dim,
        "d_ff": config.mlp_dim,
        "num_heads": config.num_heads,
        "num_layers": config.num_encoder_layers,
        "num_decoder_layers": config.num_decoder_layers,
        "feed_forward_proj": kinds[config.mlp_activations],
        "relative_attention_num_buckets": config.relative_buckets,
        "relative_attention_max_distance": config.relative_max_distance,
        "dropout_rate": config.dropout_rate,
        "layer_norm_epsilon": 1e-6,
        "tie_word_embeddings": config.logits_via_embedding,
        "is_encoder_decoder": True,
        "use_cache": True,
        "decoder_start_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 0,
        "torch_dtype": "float32",
    }


def _tokenizer(extra_ids: int) -> dict[str, Any]:
    return {
        "tokenizer_class": "T5Tokenizer",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "pad_token": "<pad>",
        "extra_ids": extra_ids,
        "additional_special_tokens": [f"<extra_id_{i}>" for i in range(extra_ids)],
        "model_max_length": 512,
    }


def _warn_of_other_ids(vocabulary_file: pathlib.Path) -> None:
    """Warns where Hugging Face's T5 tokenizer gives other ids than SentencePiece: it is a unigram model of words."""
    model: Any = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]  # made at run time
    model.ParseFromString(vocabulary_file.read_bytes())
    is_unigram = model.trainer_spec.model_type == model.trainer_spec.UNIGRAM
    phrases = [p.piece for p in model.pieces if "▁" in p.piece[1:].lstrip("▁")]
    if not is_unigram or phrases:
        warnings.warn(
            f"checkpoints: Hugging Face's T5 tokenizer is a unigram model of single words; {vocabulary_file.name} is "
            f"{'' if is_unigram else 'not unigram and '}made with the phrases {phrases}: take this model's ids from "
            "sentencepiece instead",
            stacklevel=3,
        )


def _check(
    found: Mapping[str, Any], expected: Mapping[str, tuple[int, ...]], where: str | files.Path
) -> None:
    faults = [f"missing {name} {expected[name]}" for name in sorted(expected.keys() - found.keys())]
    extra = sorted(found.keys() - expected.keys() - set(_IGNORED))
    faults += [f"unexpected {name} {tuple(found[name].shape)}" for name in extra]
    faults += [
        f"{name} is {tuple(found[name].shape)}, expected {expected[name]}"
        for name in sorted(expected.keys() & found.keys())
        if tuple(found[name].shape) != expected[name]
    ]
    if faults:
        shown = "; ".join(faults[:8]) + (f"; and {len(faults) - 8} more" if faults[8:] else "")
        raise ValueError(f"checkpoints: {where} does not hold the T5 its config describes: {shown}")
