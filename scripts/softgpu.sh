#!/usr/bin/env bash
# Runs any command with the software CUDA driver in place of a real one: no GPU needed, nothing said about speed.
#   scripts/softgpu.sh COMMAND [ARGUMENT]...
# For instance, with CUDA but without nvcc:
#   cargo build -p cachalot --features kernels/cuda-host
#   scripts/softgpu.sh target/debug/cachalot verify --device cuda DIR
# The kernels of kernels/cuda, or of the folder CACHALOT_KERNEL_SOURCES, are compiled as C++ where they have changed.
# SOFTGPU_DEVICES=2, SOFTGPU_SCHEDULE=random and the like are described in crates/softgpu/src/lib.rs.
set -euo pipefail
[ $# -gt 0 ] || { sed -n '2,8s/^# //p' "$0" >&2; exit 2; }
root=$(cd "$(dirname "$0")/.." && pwd)
sources=${CACHALOT_KERNEL_SOURCES:-$root/kernels/cuda}
# Two lines: the folder of the libraries, the kernels' shared objects.
paths=$(cargo run --quiet --locked --manifest-path "$root/Cargo.toml" -p softgpu --bin softgpu -- "$sources")
{ read -r libraries; read -r objects; } <<< "$paths"
# Kernels that the caller names come first, then the engine's own.
SOFTGPU_KERNELS=${SOFTGPU_KERNELS:+$SOFTGPU_KERNELS:}$objects \
  LD_LIBRARY_PATH=$libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH} exec "$@"
