#!/usr/bin/env bash
# Puts the pinned CUDA compiler and disassembler from the Python package index into a local folder: no GPU, driver or
# root needed.
#   scripts/cuda-toolkit.sh [FOLDER]               install (nothing to do if it is there already), then compile a probe
#   scripts/cuda-toolkit.sh --print-home [FOLDER]  print CUDA_HOME of an installed toolkit, or fail
# Exits with 3 if the package index cannot be reached. FOLDER defaults to target/cuda-toolkit. About 135 MB are downloaded, 350 MB installed.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)

# All five are pinned: the wheels depend on one another without versions, and a newer nvvm beside this nvcc emits
# PTX that its ptxas refuses.
wheels=(
  nvidia-cuda-nvcc==13.0.88
  nvidia-nvvm==13.0.88
  nvidia-cuda-crt==13.0.88
  nvidia-cuda-runtime==13.0.96
  nvidia-cuda-cccl==13.0.85
)
# Reads machine code back as text, for the kernels' budget. The index has no 13.0 of it; a newer one reads older code.
disassembler=nvidia-cuda-nvdisasm==13.2.51

print_home=false
if [ "${1:-}" = --print-home ]; then print_home=true; shift; fi
folder=${1:-${CARGO_TARGET_DIR:-$root/target}/cuda-toolkit}
home=$folder/nvidia/cu13
stamp=$folder/installed.txt
installed() { [ -x "$home/bin/nvcc" ] && [ "$(cat "$stamp" 2>/dev/null)" = "${wheels[*]}" ]; }

if $print_home; then
  installed || { echo "no CUDA toolkit in $folder: run scripts/cuda-toolkit.sh" >&2; exit 1; }
  echo "$home"
  exit
fi

fetch() {
  python3 -m pip install --quiet --disable-pip-version-check --no-deps --target "$@" && return
  # Without any index a machine has no CUDA steps; with an index that lacks a pinned wheel, something is wrong.
  python3 -m pip download --quiet --disable-pip-version-check --no-deps --dest "$(mktemp -d)" wheel && exit 1
  echo "no Python package index can be reached: no CUDA toolkit" >&2
  exit 3
}

if installed; then
  echo "already installed: $home"
else
  # The marker is written last, so an interrupted download is started afresh.
  rm -rf "$folder"
  mkdir -p "$folder"
  fetch "$folder" "${wheels[@]}"
fi

if [ "$(cat "$folder/disassembler.txt" 2>/dev/null)" != "$disassembler" ]; then
  # Unpacked apart: pip does not add to a package folder that is there already.
  unpacked=$(mktemp -d)
  fetch "$unpacked" "$disassembler"
  mv "$unpacked/nvidia/cu13/bin/nvdisasm" "$home/bin/"
  rm -rf "$unpacked"
  echo "$disassembler" > "$folder/disassembler.txt"
fi

probe=$(mktemp -d)
trap 'rm -rf "$probe"' EXIT
cat > "$probe/probe.cu" <<'CU'
#include <cuda_bf16.h>
extern "C" __global__ void probe(__nv_bfloat16* x) { x[threadIdx.x] = __float2bfloat16(2.0f * threadIdx.x); }
CU
for arch in sm_80 sm_90; do
  "$home/bin/nvcc" -std=c++17 -O3 -cubin -arch=$arch "$probe/probe.cu" -o "$probe/probe.cubin"
  [ -s "$probe/probe.cubin" ] || { echo "nvcc made no $arch code" >&2; exit 1; }
  "$home/bin/nvdisasm" -c "$probe/probe.cubin" | grep -q 'STG' || { echo "nvdisasm shows no $arch code" >&2; exit 1; }
done
echo "${wheels[*]}" > "$stamp"
echo "nvcc compiles for sm_80 and sm_90: $home"
