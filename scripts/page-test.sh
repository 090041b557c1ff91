#!/usr/bin/env bash
# The web page of `cachalot serve` in a real headless Chromium, on a server with the demo model.
#   scripts/page-test.sh [BINARY] [UNITTEST ARGUMENT]...
# BINARY defaults to target/debug/cachalot. Screenshots and the server's log go to target/page. Exits with 3 if there is
# no Chromium; root on a Debian gets one.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
binary=$(realpath "${1:-$target/debug/cachalot}")
shift || true
[ -x "$binary" ] || { echo "no program at $binary: cargo build --bin cachalot" >&2; exit 1; }

if ! command -v chromium > /dev/null; then
  if [ "$(id -u)" != 0 ] || ! command -v apt-get > /dev/null; then
    echo "there is no chromium, and only root can install it" >&2
    exit 3
  fi
  apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends chromium > /dev/null ||
    { echo "chromium cannot be installed" >&2; exit 3; }
fi

mkdir -p "$target/page"
PYTHONDONTWRITEBYTECODE=1 exec python3 "$root/crates/server/tests/page/run.py" "$binary" "$target/page" "$@"
