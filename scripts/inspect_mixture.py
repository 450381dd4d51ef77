"""Shows what the model really sees: examples piece by piece, the effective mixture, leakage, packing.

    python scripts/inspect_mixture.py --mixture=arith_all_v1
    python scripts/inspect_mixture.py --mixture=gsm8k_gold_all_v1 --inputs_length=1024 --targets_length=384 --html=mixture.html

`--mixture` also takes a task. Needs the corpus (COTDISTILL_TFDS_DIR, see scripts/build_corpus.py); the leakage check compares with
every benchmark whose files COTDISTILL_DATA_DIR holds.
"""

import argparse
import sys
from collections.abc import Sequence

from cotdistill_jax import command

command.import_quietly("tensorflow")

from rich.console import Console

import tasks
from cotdistill_jax.inspection import mixture, terminal, web_page
from cotdistill_jax.report import page


def main(arguments: Sequence[str] | None = None) -> None:
    flags = _parser().parse_args(arguments)
    lengths = {"inputs": flags.inputs_length, "targets": flags.targets_length}
    if None in lengths.values() and any(lengths.values()):
        sys.exit("inspect_mixture: give both --inputs_length and --targets_length, or neither")
    try:
        inspection = mixture.inspect(
            flags.mixture,
            flags.split,
            flags.n,
            lengths if flags.inputs_length else None,
            flags.max_examples or None,
            flags.seed,
            flags.data_dir,
        )
    except (ValueError, FileNotFoundError) as error:
        sys.exit(str(error))
    if flags.html:
        page.write(web_page.render(inspection), flags.html)
        print(f"{flags.mixture}: {flags.html}")
        return
    console = Console()
    for part in terminal.show(inspection):
        console.print(part)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--mixture", required=True, help=f"task or mixture that `{tasks.__name__}` registers")
    add("--split", default="train", help="split to read")
    add("--n", type=int, default=4, help="examples to show, dealt to the tasks in turn")
    add("--inputs_length", type=int, help="input positions of a row; default: the longest input")
    add("--targets_length", type=int, help="target positions of a row; default: the longest target")
    add("--max_examples", type=int, default=2000, help="examples read per task; 0: all")
    add("--seed", type=int, default=0, help="seed of mixing and of drawing demonstrations")
    add("--data_dir", help="benchmark folder; default: COTDISTILL_DATA_DIR")
    add("--html", help="write one HTML page instead of printing")
    return parser


if __name__ == "__main__":
    command.run(main)
