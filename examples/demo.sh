#!/usr/bin/env bash
# Brings up a network, runs programs in it, shows what was blocked and why, and
# takes everything away again. It needs no privilege and keeps its daemon and
# state in a directory of its own, so that nothing of yours is touched.
#
#   BRANE=path/to/brane examples/demo.sh
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
brane=${BRANE:-$(command -v brane)}

dir=$(mktemp -d /tmp/brane-demo.XXXXXX)
export BRANE_RUNTIME_DIR=$dir/run BRANE_STATE_DIR=$dir/state
started=()
cleanup() {
  local pid
  for pid in "${started[@]}"; do kill "$pid" 2>/dev/null && wait "$pid" 2>/dev/null; done
  "$brane" down --force office >/dev/null 2>&1
  "$brane" daemon stop >/dev/null 2>&1
  rm -rf "$dir"
}
trap 'cleanup || true' EXIT

if [ -t 1 ]; then bold=$'\e[1m' dim=$'\e[2m' plain=$'\e[0m'; else bold='' dim='' plain=''; fi
title() { printf '\n%s%s%s\n' "$bold" "$*" "$plain"; }
# prompt prints a command as one would type it.
prompt() {
  local word line=brane
  for word in "$@"; do
    word=${word/#$here/examples}
    case $word in *[\ \;\<\>\"\$]*) word="'$word'" ;; esac
    line+=" $word"
  done
  printf '%s$ %s%s\n' "$dim" "$line" "$plain"
}
show() {
  prompt "$@"
  "$brane" "$@" 2>&1 | sed 's/^/  /'
}
# blocked is show for what must not work.
blocked() {
  prompt "$@"
  if "$brane" "$@" >"$dir/out" 2>&1; then
    echo "  this should have been blocked" && exit 1
  fi
  grep -v '^bash: ' "$dir/out" | sed 's/^/  /'
}
have() { command -v "$1" >/dev/null; }
# Dials a TCP port and closes it again; fails with the network's answer.
dial() { echo "exec 3<>/dev/tcp/$1/$2"; }

title "A network from a libvirt file; nothing was configured, no daemon was running"
show up "$here/office.xml"
show net list

title "A program behind an address of its own: same user, same files, another network"
show run -n office --name first -- sh -c 'echo "$(id -un) on $(hostname)"; grep "$(hostname)" /etc/hosts'

if have python3; then
  title "Programs find each other by name"
  prompt run -n office --name web -- python3 -m http.server 80
  (cd "$here" && exec "$brane" run -n office --name web -- python3 -m http.server 80) >"$dir/web.log" 2>&1 &
  started+=($!)
  for _ in $(seq 100); do
    "$brane" run -n office -- bash -c "$(dial web.office 80)" 2>/dev/null && break
  done
  show run -n office -- bash -c 'exec 3<>/dev/tcp/web.office/80; printf "GET /office.xml HTTP/1.0\r\n\r\n" >&3; head -n 2 <&3'
  show list
fi

title "The machine below stays out of reach: its loopback at the gateway's alias, the cloud's metadata"
blocked run -n office -- bash -c "$(dial 10.20.0.1 22)"
blocked run -n office -- bash -c "$(dial 169.254.169.254 80)"

title "Your own rules, in the words of tcpdump"
blocked run -n office --send 'not tcp port 25' -- bash -c "$(dial 192.0.2.25 25)"

if have ip && have ping; then
  title "Even as root inside, a program speaks for itself only"
  blocked run -n office --as-root -- bash -c 'ip addr add 10.20.0.99/24 dev eth0 && ping -q -c 1 -W 1 -I 10.20.0.99 10.20.0.1'
fi

title "What was refused, by which rule, and who set it"
prompt why
"$brane" why | grep -v no-receiver | sed 's/^/  /'
"$brane" why -o json | grep -q '"guard"' || { echo "  the refusals were not recorded" && exit 1; }

title "And away with it"
[ ${#started[@]} -eq 0 ] || { kill "${started[@]}"; wait "${started[@]}" 2>/dev/null || true; started=(); }
show down office
show list
