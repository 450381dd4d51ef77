# Sourced by the other scripts: makes the virtual environment once, then activates it.
#   source scripts/environment.sh [EXTRA]      EXTRA of setup.py, e.g. dev
# COTDISTILL_VENV names the folder (default .venv), PYTHON the interpreter (default: the newest of 3.11 and later found).

_root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
_extra="${1:-}"
_venv="${COTDISTILL_VENV:-$_root/.venv}"

_find_python() {
  local candidate
  for candidate in ${PYTHON:-python3.11 python3.12 python3.13 python3}; do
    if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      command -v "$candidate"
      return
    fi
  done
  echo "environment: no Python 3.11+ with venv found; install one or name it with PYTHON=/path/to/python" >&2
  return 1
}

_stamp="$(cat "$_root/setup.py" "$_root/scripts/constraints.txt" | sha256sum | cut -c1-16)"
if ! grep -qs "^$_stamp .*$_extra" "$_venv/.installed"; then
  if ! "$_venv/bin/python" -m pip --version > /dev/null 2>&1; then
    _python="$(_find_python)" || return 1
    "$_python" -m venv --clear "$_venv" || return 1
  fi
  echo "environment: installing into $_venv (once, about 2 minutes)"
  "$_venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    --constraint "$_root/scripts/constraints.txt" --editable "$_root${_extra:+[$_extra]}" || return 1
  echo "$_stamp $_extra" >> "$_venv/.installed"
fi
# shellcheck disable=SC1091
source "$_venv/bin/activate"
export PYTHONPATH="$_root${PYTHONPATH:+:$PYTHONPATH}"  # tasks/ and gin/ are used from the checkout
export TF_CPP_MIN_LOG_LEVEL="${TF_CPP_MIN_LOG_LEVEL:-3}"
# Huge pages for the arrays of a step, kept between steps: 1.45 times the quickstart's steps per second on 2 CPU cores. glibc
# reads it when a process starts; other C libraries ignore it.
export GLIBC_TUNABLES="${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=1073741824:glibc.malloc.trim_threshold=4294967296}"
