#!/usr/bin/env bash
# Builds a release and installs it: DEST/bin/cachalot, DEST/share/cachalot/{serve.toml,grafana.json}.
#   [FEATURES=cuda] scripts/deploy/build.sh DEST
# With cuda the pinned compiler is fetched unless CUDA_HOME names one.
set -euo pipefail
dest=${1:?usage: scripts/deploy/build.sh DEST}
cd "$(dirname "$0")/../.."
if [ "${FEATURES:-}" = cuda ] && [ -z "${CUDA_HOME:-}${CUDA_PATH:-}" ]; then scripts/cuda-toolkit.sh; fi
# As README's first command builds it, so that both share what is built.
cargo build --release --locked --bin cachalot ${FEATURES:+--features "cachalot/$FEATURES"}
install -D -m 755 "${CARGO_TARGET_DIR:-target}/release/cachalot" "$dest/bin/cachalot"
install -D -m 644 -t "$dest/share/cachalot" scripts/deploy/serve.toml scripts/deploy/grafana.json
