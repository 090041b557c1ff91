#!/usr/bin/env bash
# Plants known bugs in the CUDA kernels, one at a time, and demands that the named test turns red on the software device.
#   scripts/planted-kernels.sh [PATCH]...        kernels/tests/planted/*.patch if none is named
# A patch is a diff against kernels/cuda whose first line says `# TEST: BUG`: the filter of the tests that must catch the
# bug, and the bug in words. Each test must be green without it. OPS=PATH names a test binary that is built already.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root"
patches=("$@")
[ ${#patches[@]} -gt 0 ] || patches=(kernels/tests/planted/*.patch)

# Always the same folder, so that kernels which a patch leaves alone are compiled once.
work=${CARGO_TARGET_DIR:-$root/target}/planted
sources=$work/cuda
export CACHALOT_KERNEL_SOURCES=$sources
mkdir -p "$work"
fresh_copy() { rm -rf "$sources"; cp -r kernels/cuda "$sources"; }
run_test() { if [ -n "${OPS:-}" ]; then "$OPS" "$1"; else cargo test --quiet --locked -p kernels --test ops -- "$1"; fi; }

declare -A green
failures=0
table=()
for patch in "${patches[@]}"; do
  name=$(basename "$patch" .patch)
  head=$(head -1 "$patch")
  filter=${head#\# }; filter=${filter%%: *}
  bug=${head#*: }
  log=$work/$name.log
  if [ -z "${green[$filter]:-}" ]; then
    fresh_copy
    green[$filter]=yes
    run_test "$filter" > "$work/clean.log" 2>&1 || green[$filter]="the test is red without the bug"
    # A filter that matches nothing would be green with any bug.
    grep -q '^running [1-9]' "$work/clean.log" || green[$filter]="no such test"
  fi
  fresh_copy
  if [ "${green[$filter]}" != yes ]; then
    verdict="INVALID: ${green[$filter]}"
  elif ! patch --quiet --strip=3 --fuzz=0 --directory="$sources" < "$patch" > "$log" 2>&1; then
    verdict="INVALID: the patch does not apply"
  elif run_test "$filter" > "$log" 2>&1; then
    verdict="MISSED"
  elif grep -q '"g++"' "$log"; then
    verdict="INVALID: it does not compile"
  elif grep -q '^test result: FAILED' "$log"; then
    # The first words of the panic: a fault of the device, or a wrong result.
    verdict="caught: $(grep -A1 -m1 ' panicked at ' "$log" | tail -1 | cut -c1-150)"
  else
    verdict="INVALID: the test did not run"
  fi
  case $verdict in caught:*) ;; *) failures=$((failures + 1)) ;; esac
  table+=("| $name | $bug | $filter | $verdict |")
  printf '%s: %s\n' "$name" "$verdict" >&2
done

printf '| patch | bug | test | verdict |\n|---|---|---|---|\n'
printf '%s\n' "${table[@]}"
printf '%s of %s bugs caught\n' $((${#patches[@]} - failures)) ${#patches[@]}
[ "$failures" -eq 0 ]
