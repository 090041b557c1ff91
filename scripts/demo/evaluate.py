"""Answers the held-out prompts greedily and counts exact results, by the rules the engine's own evaluation uses.

Usage: python scripts/demo/evaluate.py [models/demo] [--show N] [--limit N]
"""

import argparse
import json
from collections import defaultdict
from pathlib import Path

import torch
from safetensors.torch import load_file

import prompt
from model import from_released
from tokenizer import Encoder

LIMIT = 240  # new tokens


class Cache:
    """Keys and values of a batch of sequences of unequal length, padded on the left, in buffers that are not moved."""

    def __init__(self, capacity):
        self.capacity, self.length = capacity, 0
        self.k = self.v = None

    def __call__(self, k, v):
        if self.k is None:
            self.k, self.v = (x.new_empty(*x.shape[:2], self.capacity, x.shape[3]) for x in (k, v))
        new = slice(self.length, self.length + k.shape[2])
        self.k[:, :, new], self.v[:, :, new] = k, v
        self.length = new.stop
        return self.k[:, :, : self.length], self.v[:, :, : self.length]


@torch.no_grad()
def generate(model, prompts, limit=LIMIT, eos=1):
    """Greedy continuations, without the end token. Scores depend on distances only, so left padding is harmless."""
    width, heads = max(map(len, prompts)), model.config["num_attention_heads"]
    ids = torch.tensor([[2] * (width - len(p)) + p for p in prompts])
    first = torch.tensor([width - len(p) for p in prompts])
    caches = [Cache(width + limit) for _ in model.layers]
    out, done = [[] for _ in prompts], torch.zeros(len(prompts), dtype=torch.bool)
    position = 0
    for _ in range(limit):
        new = torch.arange(position, position + ids.shape[1])
        past = torch.arange(position + ids.shape[1])
        seen = (past <= new[:, None]) & (past >= first[:, None, None])
        # A padding row sees itself, as a row without any key has no softmax.
        seen |= past == new[:, None]
        mask = torch.zeros(seen.shape).masked_fill_(~seen, -torch.inf).repeat_interleave(heads, 0)
        x = torch.nn.functional.embedding(ids, model.embed)
        for layer, cache in zip(model.layers, caches):
            x = layer(x, model.cos[new], model.sin[new], mask, cache)
        ids = model.logits(model.norm(x[:, -1])).argmax(-1, keepdim=True)
        position = len(past)
        for row, token in enumerate(ids[:, 0].tolist()):
            done[row] |= token == eos
            if not done[row]:
                out[row].append(token)
        if done.all():
            break
    return out


def pieces(case):
    if "prefix" in case:
        return prompt.fim(case["prefix"], case["suffix"], None, bos=False)
    messages = []
    for m in case["messages"]:
        calls = [{"name": c["function"]["name"], "arguments": json.loads(c["function"]["arguments"])} for c in m.get("tool_calls", [])]
        messages.append(m | {"tool_calls": calls})
    return prompt.conversation(messages, case["thinking"])


def correct(case, text):
    content, calls = prompt.parse(text, case["thinking"])
    expect = case["expect"]
    try:
        if "tool_calls" in expect:
            return [{"name": c["name"], "arguments": json.loads(c["arguments"])} for c in calls] == expect["tool_calls"]
        if "json" in expect:
            return json.loads(content) == expect["json"]
    except json.JSONDecodeError:
        return False
    if "contains" in expect:
        return all(s in content for s in expect["contains"])
    return content == expect["content"]


def evaluate(model, encoder, cases, batch=48):
    """[(case, generated text, whether it is correct)]."""
    encoded = [(encoder(pieces(c))[0], c) for c in cases]
    encoded.sort(key=lambda e: len(e[0]))
    results = []
    for i in range(0, len(encoded), batch):
        part = encoded[i : i + batch]
        for (_, case), ids in zip(part, generate(model, [ids for ids, _ in part])):
            text = encoder.decode(ids)
            results.append((case, text, correct(case, text)))
    return results


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path, nargs="?", default=Path("models/demo"))
    parser.add_argument("--show", type=int, default=0, help="failures to print per skill")
    parser.add_argument("--limit", type=int, help="cases per skill and mode")
    args = parser.parse_args()
    torch.set_num_threads(1)
    config = json.loads((args.directory / "config.json").read_text())
    model = from_released(config, load_file(args.directory / "model.safetensors"))
    groups = defaultdict(list)
    for line in (args.directory / "eval.jsonl").read_text().splitlines():
        case = json.loads(line)
        group = groups[case["skill"], case["thinking"]]
        if args.limit is None or len(group) < args.limit:
            group.append(case)
    results = evaluate(model, Encoder(args.directory / "tokenizer.json"), [c for g in groups.values() for c in g])
    for skill, thinking in groups:
        rows = [r for r in results if (r[0]["skill"], r[0]["thinking"]) == (skill, thinking)]
        right = sum(ok for _, _, ok in rows)
        print(f"{skill:20} {'thinking' if thinking else 'direct':9} {right:3} / {len(rows):3}  {right / len(rows):6.1%}")
        for case, text, _ in [r for r in rows if not r[2]][: args.show]:
            print("   ", repr(case.get("messages", [{"content": case.get("prefix")}])[-1]["content"]), "->", repr(text), "not", case["expect"])


if __name__ == "__main__":
    main()
