#!/usr/bin/env bash
# Runs any command with the software CUDA driver in place of a real one: no GPU needed, nothing said about speed.
#   scripts/softgpu.sh COMMAND [ARGUMENT]...
# SOFTGPU_DEVICES=2, SOFTGPU_SCHEDULE=random and the like are described in crates/softgpu/src/lib.rs.
set -euo pipefail
[ $# -gt 0 ] || { sed -n '2,4s/^# //p' "$0" >&2; exit 2; }
manifest=$(cd "$(dirname "$0")/.." && pwd)/Cargo.toml
folder=$(cargo run --quiet --locked --manifest-path "$manifest" -p softgpu --bin softgpu)
LD_LIBRARY_PATH=$folder${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH} exec "$@"
