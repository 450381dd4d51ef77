"""Shows a training run in the terminal while it runs: loss, accuracy, tokens per second, time left, and where the time went.

    python scripts/watch_run.py --run=runs/quickstart

Ends with the run's last step. Reads the run folder only, so it can be started, stopped and run on another machine that sees
the folder at any time.
"""

import argparse
import contextlib
import sys
from collections.abc import Sequence

from rich.console import Console

from cotdistill_jax import command
from cotdistill_jax.report import watch


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", required=True, help="folder of the run")
    parser.add_argument("--every", type=float, default=2.0, help="seconds between two looks")
    parser.add_argument("--once", action="store_true", help="print once and end")
    flags = parser.parse_args(arguments)
    try:
        with contextlib.suppress(KeyboardInterrupt):
            watch.watch(flags.run, Console(), flags.every, flags.once)
    except FileNotFoundError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    command.run(main)
