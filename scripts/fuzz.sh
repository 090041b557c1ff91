#!/usr/bin/env bash
# Every fuzz target under libFuzzer, one after the other, and how many inputs each of them ran.
#   scripts/fuzz.sh [RUNS|SECONDSs] [TARGET]...
# RUNS (200000) is a number of inputs per target, 20s a time per target. Needs Rust and g++, neither nightly nor cargo-fuzz:
# the flags below are cargo-fuzz's, whose layout crates/fuzz/libfuzzer has too, without a sanitizer, since what is tested
# is safe Rust. The corpus, the logs and inputs that fail stay in target/fuzz.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
work=${CARGO_TARGET_DIR:-$root/target}/fuzz
budget=${1:-200000}
shift || true
targets=("$@")
[ $# -gt 0 ] || targets=(scheduler output_parser detokenizer template request)
case $budget in
  *s) limit=-max_total_time=${budget%s} ;;
  *) limit=-runs=$budget ;;
esac

# Without the target `request` nothing of the server is built.
features=(--no-default-features)
[[ " ${targets[*]} " == *" request "* ]] && features=()
coverage=-Cllvm-args=-sanitizer-coverage
flags="--cfg fuzzing -Cdebug-assertions -Ccodegen-units=1 -Cpasses=sancov-module $coverage-level=4"
flags+=" $coverage-inline-8bit-counters $coverage-pc-table $coverage-trace-compares $coverage-stack-depth"
host=$(rustc -vV | sed -n 's/^host: //p')
# With a target of their own, build scripts and macros are built without the flags.
RUSTFLAGS=$flags cargo build --quiet --release --locked --manifest-path "$root/crates/fuzz/libfuzzer/Cargo.toml" \
  --target "$host" --target-dir "$work/build" "${features[@]}"

mkdir -p "$work/failures"
total=0
for target in "${targets[@]}"; do
  corpus=$work/corpus/$target log=$work/$target.log
  mkdir -p "$corpus"
  "$work/build/$host/release/$target" "$corpus" "$limit" -max_len=1000 -timeout=60 -rss_limit_mb=4096 \
    -print_final_stats=1 -artifact_prefix="$work/failures/$target-" > "$log" 2>&1 ||
    { tail -n 60 "$log"; echo "$target failed: the input is in $work/failures, the log is $log" >&2; exit 1; }
  runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
  rate=$(sed -n 's/^stat::average_exec_per_sec: *//p' "$log")
  printf '%-14s %9d inputs, %6d per second, none failed\n' "$target" "$runs" "$rate"
  total=$((total + runs))
done
printf '%-14s %9d inputs\n' total "$total"
