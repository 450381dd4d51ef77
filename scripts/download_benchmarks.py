"""Fetches the benchmark files (10 MB) into a folder, checks every one and writes `manifest.json`.

    python scripts/download_benchmarks.py --data_dir=data
    python scripts/download_benchmarks.py --data_dir=data --source_dir=/mnt/benchmarks   # no network

Then set `COTDISTILL_DATA_DIR=data`. Running it again checks what is there and fetches what is missing.
ASDiv is licensed for non-commercial use (CC BY-NC 4.0); see `cotdistill_jax/benchmarks/sources.py`.
"""

import sys

from absl import app, flags

from cotdistill_jax import command
from cotdistill_jax.benchmarks import download

_DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder to fill; made if missing.", required=True)
_SOURCE_DIR = flags.DEFINE_string(
    "source_dir", None, "Local folder of the same layout to copy from, instead of downloading."
)


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}")
    try:
        counts = download.fetch(_DATA_DIR.value, _SOURCE_DIR.value)
    except OSError as error:
        sys.exit(str(error))
    done = ", ".join(f"{number} {how}" for how, number in counts.items())
    print(f"{_DATA_DIR.value}: {sum(counts.values())} benchmark files complete ({done})")


if __name__ == "__main__":
    command.run(app.run, main)
