#!/usr/bin/env bash
# The README's first command on a machine that has nothing: a fresh Debian in a folder, git, ca-certificates and Python, no compiler.
#   sudo bash scripts/try_fresh_machine.sh FOLDER [SUITE] [COMMAND]     FOLDER: made, about 6 GB, and made anew where it is there
# SUITE of Debian: trixie (13, Python 3.13, the default), bookworm (3.11), forky (3.14). COMMAND: default `bash scripts/quickstart.sh`.
# Needs root and debootstrap. The commit of this checkout is tried, not what is not committed. The caller's settings of pip, uv, TLS and
# proxies go along: the variables PIP_*, UV_*, SSL_*, *_CA_BUNDLE, *_PROXY, and read-only the files that they and pip's configuration name.
# MIRROR names Debian's mirror, SHARE further folders that are to be seen inside, such as the whole of a package index on the disk.
set -euo pipefail

folder="${1:?usage: try_fresh_machine.sh FOLDER [SUITE] [COMMAND]}"
suite="${2:-trixie}"
command="${3:-bash scripts/quickstart.sh}"
checkout="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
[ "$(id -u)" = 0 ] || { echo "try_fresh_machine: needs root, for chroot" >&2; exit 1; }
command -v debootstrap > /dev/null || { echo "try_fresh_machine: no debootstrap; apt-get install debootstrap" >&2; exit 1; }
if [ -e "$folder" ] && [ ! -e "$folder/.try_fresh_machine" ] && [ -n "$(ls -A "$folder")" ]; then
  echo "try_fresh_machine: $folder was not made by this script; name another one, or an empty one" >&2
  exit 1
fi

mounted=()
leave() {
  local i
  for ((i = ${#mounted[@]} - 1; i >= 0; i--)); do # the last one first: it may lie in another
    umount --recursive --lazy "${mounted[i]}" || echo "try_fresh_machine: ${mounted[i]} is still mounted; unmount it before anything is removed there" >&2
  done
}
trap leave EXIT
share() { # SOURCE: the same path inside, read-only
  mkdir -p "$(dirname "$folder$1")"
  if [ -d "$1" ]; then mkdir -p "$folder$1"; else touch "$folder$1"; fi
  mount --bind "$1" "$folder$1"
  mounted+=("$folder$1")
  mount -o remount,bind,ro "$folder$1"
}

mkdir -p "$folder"
folder="$(cd "$folder" && pwd)"
if grep -q " $folder/" /proc/mounts; then
  echo "try_fresh_machine: something is still mounted in $folder (see /proc/mounts); unmount it first" >&2
  exit 1
fi
find "$folder" -xdev -mindepth 1 -delete
touch "$folder/.try_fresh_machine"
echo "try_fresh_machine: Debian $suite into $folder"
script=()
[ -e "/usr/share/debootstrap/scripts/$suite" ] || script=(sid) # newer than this debootstrap
debootstrap --variant=minbase --include=ca-certificates,git,python3,python3-venv "$suite" "$folder" \
  "${MIRROR:-http://deb.debian.org/debian}" "${script[@]}" > "$folder.log" 2>&1 || { tail -5 "$folder.log" >&2; exit 1; }
git clone --quiet --no-hardlinks "$checkout" "$folder/root/cotdistill_jax"

variables=(HOME=/root PATH=/usr/local/bin:/usr/bin:/bin LANG=C.UTF-8)
while IFS= read -r -d '' variable; do
  case "${variable%%=*}" in
    PIP_* | UV_* | SSL_* | *_CA_BUNDLE | *_PROXY | *_proxy | COTDISTILL_ACCELERATOR) variables+=("$variable") ;;
  esac
done < /proc/self/environ
# Every existing path in those variables and in pip's configuration, and the configuration itself.
configurations="$(for file in /etc/pip.conf /etc/xdg/pip "$HOME/.config/pip" "$HOME/.pip"; do if [ -e "$file" ]; then echo "$file"; fi; done)"
named="$(printf '%s\n' "${variables[@]:3}" "$(find $configurations -type f -exec cat {} + 2> /dev/null)" | grep -oE '(^|[= ]|file://)/[^ :]+' | sed -E 's/^[= ]//; s|^file://||' || true)"
while read -r path; do
  if [ -e "$path" ] && [[ "$path/" != "${shared:-//}"/* ]]; then
    share "$path"
    shared="$path" # sorted: what lies below it comes next
  fi
done < <(printf '%s\n' ${SHARE:-} "$configurations" "$named" | grep -v '^$' | LC_ALL=C sort -u)
cp /etc/resolv.conf /etc/hosts "$folder/etc/"
for place in proc sys dev; do
  mount --rbind "/$place" "$folder/$place"
  mount --make-rslave "$folder/$place"
  mounted+=("$folder/$place")
done

echo "try_fresh_machine: $(chroot "$folder" python3 --version), compiler: $(chroot "$folder" bash -c 'command -v cc gcc g++ c++ || echo none')"
echo "try_fresh_machine: \$ $command     (log: $folder.log)"
start=$SECONDS
status=0
chroot "$folder" env -i "${variables[@]}" bash -c "cd /root/cotdistill_jax && $command" 2>&1 < /dev/null | tee -a "$folder.log" || status=${PIPESTATUS[0]}
echo "try_fresh_machine: exit status $status after $((SECONDS - start)) s; environment $(du -sh "$folder/root/cotdistill_jax/.venv" 2> /dev/null | cut -f1)"
exit "$status"
