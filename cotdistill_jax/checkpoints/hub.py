"""Published weights by name: those of the Hugging Face Hub and of T5X's bucket.

A name stands wherever a checkpoint does: `google/flan-t5-base`, with a revision `google/flan-t5-base@main`, or T5X's
`flan_t5_base`, also written `t5x/flan_t5_base`. A folder of that name comes first. Files of the Hub lie in its own cache
(`HF_HOME`, default `~/.cache/huggingface`); `HF_ENDPOINT` names a mirror, `HF_TOKEN` a token, `HF_HUB_OFFLINE=1` forbids to ask. T5X's bucket is read where it is. Each host of a
pod fetches its own files; where hosts share a disk, the cache's locks let one of them do it. A connection that is cut is taken up where
it was; after a process that ended, files that were whole are not fetched again.
"""

import dataclasses
import hashlib
import importlib.util
import json
import os
import pathlib
import re
import socket
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from cotdistill_jax import files
from cotdistill_jax.files import file_sha256

_IDENTITY_BYTES = 1 << 22
_BUCKET = "gs://t5-data/pretrained_models/t5x"
_BUCKET_HOST = "storage.googleapis.com"
_CONNECT_SECONDS = 10.0
# TensorStore connects itself, or through these.
_OTHER_WAYS = ("TENSORSTORE_GCS_HTTP_URL", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")
BUCKET_NAMES: Mapping[str, str] = MappingProxyType(
    {
        f"{family}_{size}": f"{_BUCKET}/{family}_{size}/checkpoint_{step}"
        for family, steps in {
            "flan_t5": {"small": 1198000, "base": 1184000, "large": 1164000, "xl": 1138000, "xxl": 1114000},
            "t5_1_1": dict.fromkeys(("small", "base", "large", "xl", "xxl"), 1000000),
            "t5_1_1_lm100k": dict.fromkeys(("small", "base", "large", "xl", "xxl"), 1100000),
            "t5": {"small": 1000000, "base": 999900, "large": 1000700, "3B": 1000000, "11B": 1000000},
        }.items()
        for size, step in steps.items()
    }
)  # fmt: skip
"""T5X's names of its published checkpoints, and where they lie.

Source: docs/models.md of T5X at commit cc342d4."""

_BUCKET_VOCABULARY = "gs://t5-data/vocabs/cc_all.32000"
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?")
_NAMES_WITHOUT_OWNER = re.compile(r"t5-(small|base|large|3b|11b)(@[\w./-]+)?")
_STEP = re.compile(r"checkpoint_\d+")
_CONFIG, _VOCABULARY, _TOKENIZER = "config.json", "spiece.model", "tokenizer_config.json"
# The first kind that is there is taken: the index of several files, or the one file.
_WEIGHTS = (
    "model.safetensors.index.json",
    "model.safetensors",
    "pytorch_model.bin.index.json",
    "pytorch_model.bin",
)


@dataclasses.dataclass(frozen=True)
class Fetched:
    """Files of a published checkpoint on this machine.

    Attributes:
      folder: where they lie.
      files: their names and sizes in bytes.
      source: what was asked: the Hub with the commit, or the cache.
    """

    folder: pathlib.Path
    files: Mapping[str, int]
    source: str


def local(path: str) -> str:
    """Returns where the weights lie that a path or name stands for; a Hub's are fetched first, said in a line.

    Args:
      path: a local or `gs://` path, a name of `BUCKET_NAMES`, or one of the Hub. What is neither there nor a name is returned as
        it is.

    Raises:
      FileNotFoundError: the Hub has no such weights, or can't be reached and the cache lacks them; or T5X's bucket can't be.
      ValueError: a file is not the one that the Hub lists.
    """
    if os.path.lexists(path):
        return path
    in_bucket = BUCKET_NAMES.get(path.removeprefix("t5x/"), path)
    if in_bucket.startswith(f"{_BUCKET}/"):
        _require_bucket(path)
    if files.is_remote(in_bucket):
        return in_bucket
    if not is_hub_name(path):
        return path
    fetched = fetch(path)
    print(f"checkpoints: {path} is in {fetched.folder} ({fetched.source})")
    return os.fspath(fetched.folder)


def bucket_vocabulary(path: str) -> tuple[str, str] | None:
    """Returns folder and file of the vocabulary of T5X's published checkpoints; None for a path elsewhere."""
    return (_BUCKET_VOCABULARY, "sentencepiece.model") if path.startswith(f"{_BUCKET}/") else None


def _require_bucket(path: str) -> None:
    """Raises FileNotFoundError where T5X's bucket can't be reached: TensorStore would try for minutes, without a word."""
    if any(os.environ.get(name) for name in _OTHER_WAYS):
        return
    try:
        socket.create_connection((_BUCKET_HOST, 443), _CONNECT_SECONDS).close()
    except OSError as error:
        raise FileNotFoundError(
            f"checkpoints: no folder {path} here, and {_BUCKET_HOST}, where T5X's is, can't be reached ({_reason(error)}). On a machine with "
            f"a network `python scripts/convert_checkpoint.py --input={path} --output=FOLDER --to=huggingface --vocabulary=SPIECE_MODEL` "
            "copies it; name FOLDER here"
        ) from error


def is_hub_name(path: str) -> bool:
    """Returns whether a path that does not exist may be a name of the Hub: `owner/model`, and no folder `owner` is here."""
    if _NAMES_WITHOUT_OWNER.fullmatch(path):
        return True
    owner, _, model = path.partition("/")
    is_name = bool(_NAME.fullmatch(path)) and not _STEP.fullmatch(model)
    return is_name and not os.path.lexists(owner)


def fetch(name: str, verify: bool = False) -> Fetched:
    """Returns the files of a Hub's checkpoint in its cache; what is missing there is downloaded, what broke off goes on.

    Sizes are compared with what the Hub lists, checksums of what was downloaded, too.

    Args:
      name: `owner/model` or `owner/model@revision`.
      verify: compare the checksums of all files.

    Raises:
      FileNotFoundError: as `local`.
      ValueError: a file is not the one that the Hub lists; it was removed from the cache.
    """
    import huggingface_hub
    from huggingface_hub import constants, errors

    repository, _, revision = name.partition("@")
    if "/" not in repository:
        repository = f"google-t5/{repository}"
    revision = revision or "main"
    try:
        listed = huggingface_hub.HfApi().model_info(
            repository, revision=revision, files_metadata=True
        )
    except errors.GatedRepoError as error:
        raise _unavailable(
            name,
            f"{constants.ENDPOINT} gives it only to those who accepted its terms; set HF_TOKEN",
        ) from error
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        raise _unavailable(
            name,
            f"{constants.ENDPOINT} has no model {repository} of revision {revision} (or wants a token: HF_TOKEN)",
        ) from error
    except (errors.HTTPError, OSError) as error:
        return _from_cache(name, repository, revision, error)
    sizes = {sibling.rfilename: sibling.size or 0 for sibling in listed.siblings or []}
    wanted = _wanted(sizes)
    if not wanted:
        raise _unavailable(
            name, f"{constants.ENDPOINT}/{repository} holds no weights that are read here"
        )
    if any(file.endswith(".bin") for file in wanted) and importlib.util.find_spec("torch") is None:
        raise ValueError(
            f"checkpoints: {name} has no safetensors at {constants.ENDPOINT}, only PyTorch's pickles, which only PyTorch reads safely: `pip "
            "install torch` first, or take T5X's weights of the same model, such as t5_3B"
        )
    known = {
        file: huggingface_hub.try_to_load_from_cache(repository, file, revision=listed.sha)
        for file in wanted
    }
    missing = [file for file in wanted if not isinstance(known[file], str)]
    if missing:
        size = sum(sizes[file] for file in missing) / 2**20
        print(
            f"checkpoints: fetching {repository} from {constants.ENDPOINT}: {len(missing)} files, {size:,.1f} MiB, to "
            f"{constants.HF_HUB_CACHE}"
        )
    try:
        folder = pathlib.Path(
            huggingface_hub.snapshot_download(repository, revision=revision, allow_patterns=wanted)
        )
    except (errors.HTTPError, OSError) as error:
        raise _unavailable(
            name, f"the download broke off ({_reason(error)}); the same command goes on with it"
        ) from error
    checksums = {
        sibling.rfilename: sibling.lfs.sha256 for sibling in listed.siblings or [] if sibling.lfs
    }
    for file in wanted:
        expected = checksums.get(file) if verify or file in missing else None
        _check(folder / file, sizes[file], expected)
    return Fetched(
        folder,
        {file: sizes[file] for file in wanted},
        f"{repository} at commit {str(listed.sha)[:12]}, "
        + (f"{len(missing)} files fetched" if missing else "from the cache"),
    )


def check_folder(folder: pathlib.Path) -> list[str]:
    """Returns the files that make a Hugging Face folder whole.

    Raises:
      FileNotFoundError: one is missing; the message names it.
    """
    there = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    found = _wanted(there)
    if not found:
        raise FileNotFoundError(
            f"checkpoints: {folder} is no Hugging Face folder: it needs {_CONFIG} and one of {', '.join(_WEIGHTS)}; it has "
            f"{', '.join(sorted(there)) or 'nothing'}"
        )
    index = next((name for name in found if name.endswith(".index.json")), None)
    if index is not None:
        shards = set(files.read_json(folder / index, "checkpoints")["weight_map"].values())
        lost = sorted(shards - there)
        if lost:
            raise FileNotFoundError(
                f"checkpoints: {folder} is incomplete: {len(lost)} of {len(shards)} files of weights are missing, such as {lost[0]}"
            )
        found = sorted({*found, *shards})
    return found


def _wanted(names: Iterable[str]) -> list[str]:
    """Returns the files of a repository that are needed here: no second copy of the weights for another framework."""
    names = set(names)
    kind = next((name for name in _WEIGHTS if name in names), None)
    if kind is None or _CONFIG not in names:
        return []
    stem, _, ending = kind.removesuffix(".index.json").rpartition(".")
    shards = re.compile(rf"{re.escape(stem)}-\d+-of-\d+\.{ending}")
    weights = [name for name in names if shards.fullmatch(name)] if kind.endswith(".json") else []
    others = [name for name in (_VOCABULARY, _TOKENIZER) if name in names]
    return sorted([_CONFIG, kind, *weights, *others])


def _from_cache(name: str, repository: str, revision: str, error: Exception) -> Fetched:
    """Returns what the cache has, where the Hub can't be asked."""
    import huggingface_hub
    from huggingface_hub import constants

    # Not by `snapshot_download`, which wants every file of the repository, also those that are not needed here.
    config = huggingface_hub.try_to_load_from_cache(repository, _CONFIG, revision=revision)
    found, problem = [], "not in"
    if isinstance(config, str):
        folder = pathlib.Path(config).parent
        try:
            found = check_folder(folder)
        except FileNotFoundError:
            problem = "incomplete in"
    if not found:
        raise _unavailable(
            name,
            f"it is {problem} the cache {constants.HF_HUB_CACHE}, and {constants.ENDPOINT} can't be asked ({_reason(error)})",
        ) from error
    sizes = {file: (folder / file).stat().st_size for file in found}
    return Fetched(folder, sizes, f"from the cache; {constants.ENDPOINT} can't be asked")


def _check(path: pathlib.Path, size: int, sha256: str | None) -> None:
    """Raises ValueError, and removes a file from the cache, where it is not the one that is listed."""
    found = path.stat().st_size
    fault = f"{found:,} bytes, {size:,} are listed" if found != size else ""
    if not fault and sha256 is not None and file_sha256(path) != sha256:
        fault = f"another checksum than the listed {sha256[:12]}..."
    if fault:
        path.resolve().unlink()
        path.unlink(missing_ok=True)
        raise ValueError(
            f"checkpoints: {path} has {fault}; it was removed. Run the same command again"
        )


def _unavailable(name: str, reason: str) -> FileNotFoundError:
    repository = name.partition("@")[0]
    return FileNotFoundError(
        f"checkpoints: no folder {name} here, and as a name of published weights: {reason}. On a machine with a network "
        f"`python scripts/fetch_weights.py --name={name} --output_dir=FOLDER` copies them (or take {_CONFIG}, {_VOCABULARY} and the weights of "
        f"https://huggingface.co/{repository}); name FOLDER here"
    )


def _reason(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def identity(folder: files.Path) -> str:
    """Returns a short name for the content of a Hugging Face folder, from names, sizes and times of its files; in a bucket, from names
    and what they begin with.
    """
    content: list[Any] = [str(folder.resolve())]
    if isinstance(folder, files.BucketPath):
        for path in folder.iterdir():
            if path.is_file():
                head = files.read_head(path, _IDENTITY_BYTES)
                content.append((path.name, hashlib.sha256(head).hexdigest()))
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
    for name in check_folder(folder):
        status = (folder / name).stat()
        content.append((name, status.st_size, status.st_mtime_ns))
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
