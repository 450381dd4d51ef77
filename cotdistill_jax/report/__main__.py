"""Writes one self-contained HTML report of a run.

    python -m cotdistill_jax.report --run=runs/quickstart --output=runs/quickstart/report.html

The page needs no network. It holds the configuration, data counts with manifests, training curves, results with intervals beside
the accuracies the paper's code printed, and every prediction in a table that can be searched, filtered and sorted.
"""

import argparse
import sys
from collections.abc import Sequence

from cotdistill_jax import command, files
from cotdistill_jax.report.run_report import write_report


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", required=True, help="folder of the run")
    parser.add_argument("--output", help="HTML file to write; default: report.html in the run")
    flags = parser.parse_args(arguments)
    output = files.as_path(flags.output or files.as_path(flags.run) / "report.html")
    try:
        counts = write_report(flags.run, output)
    except (FileNotFoundError, ValueError) as error:
        sys.exit(str(error))
    print(
        f"report: {output} ({counts['bytes'] / 1e6:.1f} MB): {counts['evaluations']} evaluations, "
        f"{counts['predictions']:,} predictions ({counts['with_token_probs']:,} with token probabilities), "
        f"{counts['log_lines']:,} log lines"
    )


if __name__ == "__main__":
    command.run(main)
