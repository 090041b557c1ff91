#!/usr/bin/env bash
# Real, unmodified client programs against `cachalot serve` with the demo model: the SDKs of OpenAI (Python, Node) and
# Anthropic, langchain-deepseek, litellm, and schemathesis over the published OpenAPI document.
# In the end OpenAI's SDK asks a server on two ranks and one on the software GPU.
#   scripts/client-tests.sh [BINARY] [PYTEST ARGUMENT]...
# BINARY defaults to target/release/cachalot. With arguments for pytest only those tests run, and nothing of Node's.
# Needs Python 3.11 and node 20 or newer; fetches what crates/server/tests/clients pins into target/clients, about
# 500 MB; root on a Debian gets what is missing. Exits with 3 if that or the package indexes cannot be had.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
tests=$root/crates/server/tests/clients
target=${CARGO_TARGET_DIR:-$root/target}
home=$target/clients
binary=$(realpath -m "${1:-$target/release/cachalot}")
shift || true
[ -x "$binary" ] || { echo "no program at $binary: cargo build --release --bin cachalot" >&2; exit 1; }
mkdir -p "$home"

if ! { python3 -c 'import ensurepip, venv' && command -v node && command -v npm; } > /dev/null 2>&1 &&
  [ "$(id -u)" = 0 ] && command -v apt-get > /dev/null; then
  { apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends \
    python3 python3-venv nodejs npm > /dev/null; } || echo "client tests: not everything could be installed" >&2
fi
missing() { echo "client tests: $1" >&2; exit 3; }
python=$(command -v python3) || missing "no python3; Python 3.11 or newer is needed"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
  missing "$("$python" --version) is too old; Python 3.11 or newer is needed"
"$python" -c 'import ensurepip, venv' || missing "python3 lacks its module venv (python3-venv)"
{ command -v node && command -v npm; } > /dev/null || missing "no node or npm; node 20 or newer is needed"
node -e 'process.exit(process.versions.node.split(".")[0] < 20 ? 1 : 0)' ||
  missing "node $(node --version) is too old; node 20 or newer is needed"

# fresh STAMP FILE...: whether what the files pin is what was installed. The stamp is written last, so that an
# installation that was interrupted starts anew.
fresh() { local stamp=$1; shift; [ "$(cat "$stamp" 2> /dev/null)" = "$(cat "$@" | sha256sum)" ]; }

if ! fresh "$home/python.txt" "$tests/requirements.txt"; then
  rm -rf "$home/venv"
  "$python" -m venv "$home/venv"
  pip=("$home/venv/bin/python" -m pip --quiet --disable-pip-version-check)
  if ! "${pip[@]}" install --no-compile --no-deps -r "$tests/requirements.txt"; then
    # With an index that lacks a pinned version, something is wrong; without any index there are no clients.
    "${pip[@]}" download --no-deps --dest "$(mktemp -d)" wheel && exit 1
    missing "no Python package index can be reached"
  fi
  sha256sum < "$tests/requirements.txt" > "$home/python.txt"
fi
cp "$tests/package.json" "$tests/package-lock.json" "$home/"
if ! fresh "$home/node.txt" "$home/package.json" "$home/package-lock.json"; then
  if ! (cd "$home" && npm ci --silent --no-audit --no-fund); then
    npm view openai version && exit 1
    missing "no npm registry can be reached"
  fi
  cat "$home/package.json" "$home/package-lock.json" | sha256sum > "$home/node.txt"
fi

declare -A servers=()
stop_all() { for name in "${!servers[@]}"; do kill -KILL "${servers[$name]}" 2> /dev/null || true; done; }
trap stop_all EXIT

# start NAME ARGUMENT...: a server on a free port; sets `url` once it is ready.
start() {
  local name=$1 log=$home/$1.log
  shift
  "$binary" serve --port 0 "$@" > "$home/$name.out" 2> "$log" &
  servers[$name]=$!
  for _ in $(seq 300); do
    kill -0 "${servers[$name]}" 2> /dev/null || { cat "$log" >&2; echo "the server $name ended at once" >&2; exit 1; }
    url=$(grep -om1 'http://[0-9.:]*' "$home/$name.out" || true)
    if [ -n "$url" ] && "$python" -c 'import sys, urllib.request as r; r.urlopen(sys.argv[1])' "$url/ready" 2> /dev/null; then
      return
    fi
    sleep 0.2
  done
  cat "$log" >&2
  echo "the server $name is not ready after a minute" >&2
  exit 1
}

# stop NAME: SIGTERM must end it with 0, and it must never have panicked.
stop() {
  local name=$1 status=0
  kill -TERM "${servers[$name]}"
  wait "${servers[$name]}" || status=$?
  unset "servers[$name]"
  [ "$status" = 0 ] || { tail -n 40 "$home/$name.log" >&2; echo "the server $name ended with $status after SIGTERM" >&2; return 1; }
  if grep -n 'panicked' "$home/$name.log" >&2; then echo "the server $name panicked" >&2; return 1; fi
}

CLIENT_TESTS_KEY=client-tests-key CLIENT_TESTS_LIMITED_KEY=client-tests-limited-key CLIENT_TESTS_MODEL=demo
export CLIENT_TESTS_KEY CLIENT_TESTS_LIMITED_KEY CLIENT_TESTS_MODEL
cat > "$home/keys.toml" << KEYS
[[key]]
name = "limited"
sha256 = "$(printf %s "$CLIENT_TESTS_LIMITED_KEY" | sha256sum | cut -d ' ' -f 1)"
requests_per_minute = 1
KEYS
start openai --api-key "$CLIENT_TESTS_KEY" --keys "$home/keys.toml" --served-model-name demo
export CLIENT_TESTS_OPENAI_URL=$url
start deepseek --api-key "$CLIENT_TESTS_KEY" --served-model-name demo --dialect deepseek
export CLIENT_TESTS_DEEPSEEK_URL=$url

failed=0
(cd "$tests" && "$home/venv/bin/python" -B -m pytest -q -p no:cacheprovider --durations=5 "${@:-.}") || failed=1
if [ $# = 0 ]; then
  # Node looks for packages beside the importing file and above it: the test runs from a copy next to them.
  cp "$tests/openai.test.mjs" "$home/"
  (cd "$home" && node --test --test-reporter=spec openai.test.mjs) || failed=1
fi
stop openai || failed=1
stop deepseek || failed=1
if [ $# = 0 ]; then
  # Two ranks, and a GPU of software, which only the program that `cargo test` builds has the backend for.
  (cd "$root" && CACHALOT_CLIENT_PYTHON=$home/venv/bin/python \
    cargo test --quiet --locked --workspace --test serve devices::) || failed=1
fi
exit $failed
