"""Writes SeqIO's offline cache of tasks: preprocessed once, read by both runners, no Apache Beam.

    python scripts/cache_tasks.py --tasks=gsm8k_gold_zero_shot_cot_v1 --cache_dir=cache

Only tasks with a `seqio.CacheDatasetPlaceholder` can be cached; mixtures are cached task by task.
T5X reads the result with `--seqio_additional_cache_dirs=cache --gin.USE_CACHED_TASKS=True`.
"""

import importlib
import pathlib
import sys

from absl import app, flags

from cotdistill_jax import command

_TASKS = flags.DEFINE_list("tasks", None, "Names of the tasks to cache.", required=True)
_CACHE_DIR = flags.DEFINE_string("cache_dir", None, "Folder of all caches.", required=True)
_NUM_SHARDS = flags.DEFINE_integer(
    "num_shards", 8, "Files per split; at least as many as hosts read it.", lower_bound=1
)
_IMPORT = flags.DEFINE_string("module_import", "tasks", "Module whose import registers the tasks.")


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}")
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
    command.import_quietly("tensorflow")
    from cotdistill_jax import features
    from cotdistill_jax.train import data

    importlib.import_module(_IMPORT.value)
    for name in _TASKS.value:
        data.check_registered(name)
    for name in _TASKS.value:
        try:
            counts = features.write_cache(name, _CACHE_DIR.value, _NUM_SHARDS.value)
        except (ValueError, OSError) as error:
            sys.exit(str(error))
        written = ", ".join(f"{split} {number:,}" for split, number in counts.items())
        print(f"{_CACHE_DIR.value}/{name}: examples written: {written}")


if __name__ == "__main__":
    command.run(app.run, main)
