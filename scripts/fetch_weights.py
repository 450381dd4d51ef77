"""Fetches published weights, checks them, and says where they are and how to use them.

    python scripts/fetch_weights.py --name=google/flan-t5-base
    python scripts/fetch_weights.py --name=google/flan-t5-xl --output_dir=flan-t5-xl       # a folder to carry elsewhere
    python scripts/fetch_weights.py --source_dir=USB/flan-t5-xl --output_dir=flan-t5-xl    # from a folder instead

Without --output_dir they stay in the Hub's cache, from where every command takes them by name. An interrupted download goes on;
T5X's names (flan_t5_base) are read from their bucket and need no fetching: scripts/convert_checkpoint.py copies them.
"""

import os
import pathlib
import shutil
import sys

from absl import app, flags
from tqdm import tqdm

from cotdistill_jax import command, files
from cotdistill_jax.checkpoints import conversion, hub

_NAME = flags.DEFINE_string(
    "name", None, "Name on the Hugging Face Hub: owner/model, or owner/model@revision."
)
_SOURCE_DIR = flags.DEFINE_string(
    "source_dir", None, "Hugging Face folder to take instead of a name."
)
_OUTPUT_DIR = flags.DEFINE_string(
    "output_dir", None, "Folder to copy them to; default: they stay in the cache."
)
_BLOCK = 1 << 24


def copy(source: pathlib.Path, target: pathlib.Path) -> None:
    """Copies the files of a Hugging Face folder; one that is there in full size is left, each appears whole or not at all."""
    target.mkdir(parents=True, exist_ok=True)
    names = hub.check_folder(source)
    total = sum((source / name).stat().st_size for name in names)
    with tqdm(total=total, unit="B", unit_scale=True, desc=str(target)) as progress:
        for name in names:
            size, there = (source / name).stat().st_size, target / name
            if there.exists() and there.stat().st_size == size:
                progress.update(size)
                continue
            partial = target / f"{name}.partial"
            with (source / name).open("rb") as reading, partial.open("wb") as writing:
                while block := reading.read(_BLOCK):
                    writing.write(block)
                    progress.update(len(block))
            shutil.copystat(source / name, partial)
            partial.replace(there)


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}")
    if (_NAME.value is None) == (_SOURCE_DIR.value is None):
        raise app.UsageError("give either --name or --source_dir")
    plain = (_NAME.value or "").removeprefix("t5x/")
    if plain in hub.BUCKET_NAMES:
        sys.exit(
            f"fetch_weights: {_NAME.value} is {hub.BUCKET_NAMES[plain]}, which is read where it is; `python "
            f"scripts/convert_checkpoint.py --input={_NAME.value} --output=FOLDER --to=huggingface --vocabulary=SPIECE_MODEL` copies it"
        )
    if _NAME.value is not None:
        fetched = hub.fetch(_NAME.value, verify=True)
        folder, source = fetched.folder, fetched.source
    else:
        source = _SOURCE_DIR.value
        folder = files.local_path(source, "fetch", "the source folder")
    if _OUTPUT_DIR.value is not None:
        target = files.local_path(_OUTPUT_DIR.value, "fetch", "fetched weights")
        copy(folder, target)
        folder = target
    weights = conversion.open_weights(os.fspath(folder))
    names = hub.check_folder(folder)
    size = sum((folder / name).stat().st_size for name in names) / 2**20
    config = weights.config
    print(f"{folder}: {len(names)} files, {size:,.1f} MiB, whole ({source})")
    print(
        f"  a T5 of {config.num_encoder_layers} + {config.num_decoder_layers} layers, width {config.emb_dim}, {config.vocab_size:,} logits, "
        f"{'tied' if config.logits_via_embedding else 'untied'} embeddings; vocabulary: "
        f"{weights.vocabulary_file or 'none, take t5/spiece.model of the benchmark folder'}"
    )
    used = folder if _OUTPUT_DIR.value or _NAME.value is None else _NAME.value
    print(
        f"  to start a run from it: --gin.INITIAL_CHECKPOINT_PATH='\"{used}\"'; to evaluate it: --checkpoint={used}"
    )


if __name__ == "__main__":
    command.run(app.run, main)
