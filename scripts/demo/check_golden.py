"""Compares `model.py` with recorded reference logits.

Usage: python scripts/demo/check_golden.py DIR...
Each DIR holds config.json, model.safetensors and golden.safetensors (p<n>.ids, p<n>.logits, and p33.mtp_logits
where the checkpoint has an MTP layer). Exits with an error when any logit is off by more than 1e-4.
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

from model import causal, from_released

TOLERANCE = 1e-4


@torch.no_grad()
def check(directory):
    config = json.loads((directory / "config.json").read_text())
    golden = load_file(directory / "golden.safetensors")
    # The rotary tables are built to the declared length; these prompts are short.
    model = from_released(config | {"max_position_embeddings": 256}, load_file(directory / "model.safetensors"))
    worst = {}
    for n in (1, 7, 33, 130):
        if f"p{n}.ids" not in golden:
            continue
        ids = golden[f"p{n}.ids"][None]
        states = model(ids, causal(n))
        worst[f"p{n}"] = (model.logits(states)[0] - golden[f"p{n}.logits"]).abs().max().item()
        if n == 33 and model.mtp is not None:
            predicted = model.predict_next(states[:, :-1], ids[:, 1:], causal(n - 1))
            worst["mtp"] = (model.logits(predicted)[0] - golden["p33.mtp_logits"]).abs().max().item()
    print(directory.name, "  ".join(f"{k} {v:.1e}" for k, v in worst.items()))
    return max(worst.values()) <= TOLERANCE


if __name__ == "__main__":
    results = [check(Path(d)) for d in sys.argv[1:]]
    sys.exit(0 if results and all(results) else 1)
