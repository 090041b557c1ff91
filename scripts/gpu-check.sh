#!/usr/bin/env bash
# The proof on a machine with a real GPU (sm_80 or newer): the test suites that otherwise run on the software device, the
# fixtures through the binary, and a short benchmark. Prints what it ran on; stops at the first failure.
#   scripts/gpu-check.sh
# Needs the driver (branch 580 or newer for the pinned compiler) and either network for that compiler or CUDA_HOME.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root"
step() { printf '\n== %s (%ss)\n' "$1" "$SECONDS"; }

step "machine"
command -v nvidia-smi > /dev/null || { echo "no nvidia-smi: is an NVIDIA driver installed?" >&2; exit 1; }
nvidia-smi --query-gpu=index,name,compute_cap,driver_version,memory.total --format=csv
uname -srm
rustc --version
if [ -z "${CUDA_HOME:-}${CUDA_PATH:-}" ]; then scripts/cuda-toolkit.sh; fi
git log -1 --format='%h %s' || true

step "kernels on the GPU"
export CACHALOT_TEST_GPU=1
cargo test --locked --release -p kernels --features cuda --test ops

step "models on the GPU"
cargo test --locked --release -p models --features kernels/cuda

step "the binary on every fixture"
cargo build --locked --release -p cachalot --features cuda
for fixture in crates/testkit/fixtures/*/golden.safetensors; do
  # Goldens are held in f32: the same kernels with f32 operands. bf16 is held per op, above.
  echo "-- ${fixture%/*}"
  target/release/cachalot verify --device cuda --precision f32 "${fixture%/*}"
done

step "the demo model"
target/release/cachalot run --device cuda --think "What is 128 + 256?"

step "done: this output is the evidence"
