# Sourced before scripts/environment.sh on a new machine: exports PYTHON where none of its own is 3.11 or later. The images of TPU VMs are
# Ubuntu 22.04, with Python 3.10; uv brings a newer one, into the home folder.
for _candidate in python3.11 python3.12 python3.13 python3.14 python3; do
  if "$_candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2> /dev/null; then
    _found="$_candidate"
    break
  fi
done
if [ -z "${PYTHON:-}${_found:-}" ]; then
  python3 -m pip --version > /dev/null 2>&1 || sudo apt-get -q -o DPkg::Lock::Timeout=300 install -y python3-pip
  python3 -m pip install --quiet --user uv
  python3 -m uv python install --quiet 3.12
  PYTHON="$(python3 -m uv python find 3.12)"
  export PYTHON
fi
