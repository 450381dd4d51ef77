#!/usr/bin/env bash
# The tests marked t5x, which need T5X beside this project:  bash scripts/run_t5x_tests.sh [PYTEST ARGUMENTS]
# T5X comes from GitHub by `bash scripts/install_t5x.sh`, or is a source tree on PYTHONPATH (its commit: scripts/requirements-t5x.txt).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/environment.sh dev,t5x
if ! python -c 'import t5x' 2> /dev/null; then
  echo "run_t5x_tests: T5X can't be imported. Run \`bash scripts/install_t5x.sh\`, or put source trees of t5x, airio and jestimator at the" \
    "commits of scripts/requirements-t5x.txt on PYTHONPATH" >&2
  exit 1
fi
python -m pytest -m t5x --numprocesses=auto --dist=loadfile "$@"
