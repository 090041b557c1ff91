#!/usr/bin/env bash
# Holds the deployment files to what the program does, without Docker and without installing anything: builds as the
# Dockerfile builds, starts what its ENTRYPOINT and the systemd unit start, and looks for every metric of the dashboard.
#   scripts/deploy/check.sh            exit status 3: there is no curl to ask the server with
set -euo pipefail
cd "$(dirname "$0")/../.."
here=scripts/deploy
work=$(mktemp -d)
server=
cleanup() { [ -z "$server" ] || kill "$server" 2> /dev/null || true; rm -rf "$work"; }
trap cleanup EXIT
fail() { echo "$*" >&2; exit 1; }
command -v curl > /dev/null || exit 3

grep -qx "RUN $here/build.sh /opt/cachalot" $here/Dockerfile || fail "the Dockerfile does not build with $here/build.sh"
$here/build.sh "$work/opt/cachalot"

# Starts a command line with another prefix, on a free port, and waits until it is ready. Sets server and base.
start() {
  local -a line=("${@//\/opt\/cachalot/$work/opt/cachalot}")
  line=("${line[@]//\/etc\/cachalot/$work/etc/cachalot}")
  CACHALOT_API_KEY=check "${line[@]}" --port 0 > "$work/out" 2> "$work/log" &
  server=$!
  base=
  for _ in $(seq 100); do
    base=$(sed -n 's/^serving .* at //p' "$work/out")
    if [ -n "$base" ] && curl -sf "$base/ready" > /dev/null; then return; fi
    kill -0 "$server" 2> /dev/null || { cat "$work/log" >&2; fail "did not start: ${line[*]}"; }
    sleep 0.1
  done
  fail "not ready within 10 s: ${line[*]}"
}
stop() {
  kill -TERM "$server"
  wait "$server" || { cat "$work/log" >&2; fail "SIGTERM: exit status $?"; }
  server=
}

read -ra entry <<< "$(sed -n 's/^ENTRYPOINT //p' $here/Dockerfile | tr -d '[]",')"
[ ${#entry[@]} -gt 1 ] || fail "the Dockerfile has no ENTRYPOINT"
start "${entry[@]}"
# 0.0.0.0 is where it listens; a client needs an address.
base=${base/0.0.0.0/127.0.0.1}
answer=$(curl -sf "$base/v1/completions" -H 'Authorization: Bearer check' -H 'Content-Type: application/json' \
  -d '{"model": "demo", "prompt": "2 + 2 =", "max_tokens": 4}')
grep -q '"text_completion"' <<< "$answer" || fail "no completion: $answer"
curl -sf "$base/metrics" -H 'Authorization: Bearer check' > "$work/metrics"
stop

# Histograms are read by their buckets, which /metrics names only by the family.
names=$(grep -oE 'vllm:[a-z0-9_]+' $here/grafana.json | sort -u)
[ "$(wc -w <<< "$names")" -gt 10 ] || fail "the dashboard names hardly any metric"
for name in $names; do
  grep -qE "^${name}(\{| )" "$work/metrics" || fail "the dashboard's $name is not in /metrics"
done

mkdir -p "$work/etc/cachalot"
cp $here/serve.toml "$work/etc/cachalot/serve.toml"
read -ra unit <<< "$(sed -n 's/^ExecStart=//p' $here/cachalot.service)"
start "${unit[@]}"
stop
if command -v systemd-analyze > /dev/null; then
  # The program is not installed where the unit says; everything else must hold.
  sed "s|/opt/cachalot|$work/opt/cachalot|" $here/cachalot.service > "$work/cachalot.service"
  systemd-analyze verify "$work/cachalot.service" 2> "$work/verify" || true
  if grep -v 'cachalot.service: Command' "$work/verify" | grep -q 'cachalot.service'; then cat "$work/verify" >&2; exit 1; fi
fi
echo "the Dockerfile's steps, the unit, its config file and the dashboard hold"
