#!/usr/bin/env bash
# Makes its own environment, then: formatting, lint, types, tests.  bash scripts/run_tests.sh [PYTEST ARGUMENTS]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/environment.sh dev

echo "== formatting" && ruff format --check .
echo "== lint" && ruff check .
echo "== types" && mypy
echo "== tests" && python -m pytest --durations=15 --numprocesses=auto --dist=loadfile "$@"
