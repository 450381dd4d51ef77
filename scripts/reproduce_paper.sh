#!/usr/bin/env bash
# The paper's job from its released data to its table, in one command:
#   bash scripts/reproduce_paper.sh --size=tiny|base|large|xl|xxl --release=processed_data [--output_dir=runs/paper_SIZE]
# The folder processed_data is what the original's README links to; its layout is in ours. Run again, it goes on.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/environment.sh ""  # an empty extra: without it, bash would pass on this script's own arguments
exec python scripts/reproduce_paper.py "$@"
