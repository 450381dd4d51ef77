#!/usr/bin/env bash
# Makes the environment (scripts/environment.sh) and installs T5X into it from pinned commits; needs git and github.com.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/environment.sh t5x

python -m pip install --quiet --disable-pip-version-check --no-deps --requirement scripts/requirements-t5x.txt
python -c "import cotdistill_jax.t5x_model, t5x.train" || {
  echo "install_t5x: T5X is installed but does not import; the versions that work together are in scripts/constraints.txt" >&2
  exit 1
}
echo "install_t5x: done. Try: bash scripts/run_tests.sh -m t5x"
