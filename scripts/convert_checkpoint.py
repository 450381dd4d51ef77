"""Converts a checkpoint between Hugging Face's layout, ours and T5X's, exactly.

    python scripts/convert_checkpoint.py --input=google/flan-t5-small --output=runs/flan_t5_small --to=ours
    python scripts/convert_checkpoint.py --input=runs/my_run --output=my_hf_model --to=huggingface --check
    python scripts/convert_checkpoint.py --input=gs://t5-data/pretrained_models/t5x/flan_t5_small/checkpoint_1198000 \\
        --output=runs/flan_t5_small --to=ours --vocabulary=data/t5/spiece.model

What the input is, is told by its files. PyTorch is needed only for an old `pytorch_model.bin` and for comparing
logits under `--check`.
"""

import importlib.util
import sys

import jax
import numpy as np
from absl import app, flags, logging

from cotdistill_jax import command, devices, network
from cotdistill_jax.checkpoints import conversion, stored

_INPUT = flags.DEFINE_string("input", None, "Folder to read, or a published name.", required=True)
_OUTPUT = flags.DEFINE_string("output", None, "Folder to write.", required=True)
_TO = flags.DEFINE_enum("to", None, conversion.LAYOUTS, "Layout to write.", required=True)
_VOCABULARY = flags.DEFINE_string(
    "vocabulary", None, "SentencePiece model; default: the one beside the input."
)
_EXTRA_IDS = flags.DEFINE_integer(
    "extra_ids", None, "Sentinel ids above the vocabulary; default: the input's, 100 for T5."
)
_DTYPE = flags.DEFINE_enum(
    "dtype", "float32", ["float32", "bfloat16"], "Activation type to record; weights stay float32."
)
_CHECK = flags.DEFINE_bool(
    "check",
    False,
    "Read the output back and compare every tensor; with PyTorch, compare logits with Hugging Face's too.",
)
_LOGITS_ATOL = 1e-4  # the project's bound for float32 logits of the same weights


def compare_logits(folder: str, weights: conversion.Weights) -> float:
    """Returns the largest difference between our logits and those of a Hugging Face folder.

    Args:
        folder: a folder that `AutoModelForSeq2SeqLM` reads.
        weights: ours, compared in float32 on two random rows, one of them padded.
    """
    import torch
    import transformers

    devices.announce()
    rng = np.random.default_rng(0)
    size = weights.config.vocab_size
    inputs, targets = rng.integers(2, size, (2, 32)), rng.integers(2, size, (2, 16))
    inputs[1, 20:] = 0
    shifted = np.pad(targets, ((0, 0), (1, 0)))[:, :-1]
    model = network.Transformer(weights.config)
    ours = jax.jit(
        lambda params: model.apply(
            {"params": params}, inputs, shifted, targets, enable_dropout=False
        )
    )(stored.materialise(weights.params))
    reference = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        theirs = reference.eval()(
            input_ids=torch.tensor(inputs),
            attention_mask=torch.tensor((inputs != 0).astype(np.int64)),
            decoder_input_ids=torch.tensor(shifted),
        ).logits.numpy()
    return float(np.abs(np.asarray(ours) - theirs).max())


def check(weights: conversion.Weights, written: str) -> str:
    """Returns a sentence on how the output was found equal to the input.

    Raises:
        ValueError: a tensor differs, or the logits differ by more than 1e-4.
    """
    again = conversion.open_weights(written, _DTYPE.value)
    differing = conversion.differences(weights.params, again.params)
    if differing:
        raise ValueError(f"convert_checkpoint: {len(differing)} tensors differ: {differing[:8]}")
    folders = [(_INPUT.value, weights.layout), (written, again.layout)]
    theirs = [folder for folder, layout in folders if layout == conversion.HUGGING_FACE]
    if not theirs or not importlib.util.find_spec("torch"):
        why = "PyTorch is not installed" if theirs else "no Hugging Face folder is involved"
        return f"every tensor is bit-equal; logits were not compared ({why})"
    largest = compare_logits(theirs[0], again)
    if largest > _LOGITS_ATOL:
        raise ValueError(f"convert_checkpoint: logits differ by {largest:.2e} > {_LOGITS_ATOL}")
    return f"every tensor is bit-equal; logits differ from PyTorch's by at most {largest:.1e}"


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}")
    logging.set_verbosity(logging.ERROR)  # Orbax tells its life
    try:
        weights = conversion.open_weights(_INPUT.value, _DTYPE.value)
        written = conversion.save(
            weights, _OUTPUT.value, _TO.value, _VOCABULARY.value, _EXTRA_IDS.value
        )
        print(f"{_INPUT.value} ({weights.layout}) -> {written} ({_TO.value})")
        if _TO.value == conversion.T5X:
            print(
                "It holds parameters and no optimizer state. This project's gin/t5x/finetune.gin takes it as INITIAL_CHECKPOINT_PATH; T5X's own "
                "finetune.gin needs besides --gin.utils.RestoreCheckpointConfig.assignment_map=\"((r'^state.*', None),)\" "
                "--gin.utils.RestoreCheckpointConfig.fallback_to_scratch=True"
            )
        if _CHECK.value:
            print(check(weights, written))
    except (ValueError, OSError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    command.run(app.run, main)
