#!/usr/bin/env bash
# The paper's job from its released data to its table, in one command:
#   bash scripts/reproduce_paper.sh --size=tiny|base|large|xl|xxl --release=processed_data [--output_dir=runs/paper_SIZE]
# The folder processed_data is what the original's README links to; its layout is in ours. Run again, it goes on.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
extra=""
if nvidia-smi -L > /dev/null 2>&1; then extra=cuda; fi
source scripts/environment.sh "$extra"
exec python scripts/reproduce_paper.py "$@"
