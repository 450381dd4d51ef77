# Sourced by the other scripts: makes the virtual environment once, then activates it.
#   source scripts/environment.sh [EXTRA]      EXTRA of setup.py, e.g. dev
# COTDISTILL_VENV names the folder (default .venv), PYTHON the interpreter (default: the oldest of 3.11 and later found).
# COTDISTILL_ACCELERATOR=none|cuda|tpu says for what JAX is installed (default: what cotdistill_jax/accelerators.py finds).
# Needs no compiler, no root and no git. Packages come by uv, which is asked for by pip and told of pip's indexes, or else by pip.

_root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
_extra="${1:-}"
_venv="${COTDISTILL_VENV:-$_root/.venv}"

_find_python() {
  local candidate
  for candidate in ${PYTHON:-python3.11 python3.12 python3.13 python3.14 python3}; do
    if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      command -v "$candidate"
      return
    fi
  done
  echo "environment: no Python 3.11+ with venv found; install one (Debian: apt-get install python3-venv) or name it with PYTHON=/path/to/python" >&2
  return 1
}

_of_pip() {
  "$_venv/bin/python" -m pip config get "global.$1" 2>/dev/null
}

_install() { # PIP ARGUMENTS; uv takes the same, but reads its own configuration
  local python="$_venv/bin/python"
  if "$python" -m uv --version > /dev/null 2>&1 \
    || "$python" -m pip install --quiet --disable-pip-version-check --constraint "$_root/scripts/constraints.txt" uv; then
    UV_DEFAULT_INDEX="${UV_DEFAULT_INDEX:-${PIP_INDEX_URL:-$(_of_pip index-url)}}" \
      UV_EXTRA_INDEX_URL="${UV_EXTRA_INDEX_URL:-${PIP_EXTRA_INDEX_URL:-$(_of_pip extra-index-url)}}" \
      UV_FIND_LINKS="${UV_FIND_LINKS:-${PIP_FIND_LINKS:-$(_of_pip find-links)}}" UV_INDEX_STRATEGY="${UV_INDEX_STRATEGY:-unsafe-best-match}" \
      "$python" -m uv pip install --quiet --python "$python" "$@" && return
    echo "environment: uv did not install it (its reason above); pip tries, which takes longer" >&2
  fi
  "$python" -m pip install --quiet --disable-pip-version-check "$@"
}

_stamp="$(cat "$_root"/setup.py "$_root"/scripts/constraints.txt "$_root"/scripts/stand_ins/*/*.py | sha256sum | cut -c1-16)"
if ! grep -qs "^$_stamp " "$_venv/.installed" && ! "$_venv/bin/python" -m pip --version > /dev/null 2>&1; then
  _python="$(_find_python)" || return 1
  "$_python" -m venv --clear "$_venv" || return 1
fi
case ",$_extra," in
  *,cuda,* | *,tpu,*) ;; # asked for by name
  *)
    _accelerator="$("$_venv/bin/python" -I -S "$_root/cotdistill_jax/accelerators.py")" || return 1
    _extra="${_accelerator}${_accelerator:+${_extra:+,}}$_extra"
    ;;
esac
if ! grep -qs "^$_stamp .*$_extra" "$_venv/.installed"; then
  echo "environment: installing${_extra:+ [$_extra]} into $_venv (once, a few minutes)"
  _stand_ins=()
  "$_venv/bin/python" -c 'import sys; sys.exit(sys.version_info < (3, 13))' && _stand_ins+=("$_root/scripts/stand_ins/editdistance")
  "$_venv/bin/python" -c 'import sys; sys.exit(sys.version_info < (3, 14))' && _stand_ins+=("$_root/scripts/stand_ins/tensorflow_text")
  _install --constraint "$_root/scripts/constraints.txt" "${_stand_ins[@]}" --editable "$_root${_extra:+[$_extra]}" || return 1
  "$_venv/bin/python" -c 'import sys; sys.path.insert(0, sys.argv[1]); from cotdistill_jax import devices; devices.announce()' "$_root" || return 1
  echo "$_stamp $_extra" >> "$_venv/.installed"
fi
# shellcheck disable=SC1091
source "$_venv/bin/activate"
export PYTHONPATH="$_root${PYTHONPATH:+:$PYTHONPATH}"  # tasks/ and gin/ are used from the checkout
export TF_CPP_MIN_LOG_LEVEL="${TF_CPP_MIN_LOG_LEVEL:-3}"
# Huge pages for the arrays of a step, kept between steps: 1.45 times the quickstart's steps per second on 2 CPU cores. glibc
# reads it when a process starts; other C libraries ignore it.
export GLIBC_TUNABLES="${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=1073741824:glibc.malloc.trim_threshold=4294967296}"
