"""Greedy continuations of a llama GGUF file in plain float32: what `cachalot run` is held against.

    smollm2_reference.py MODEL.gguf TOKENS < prompts.txt > reference.jsonl

One prompt per line in, one object per line out: the prompt, its text and the smallest gap between the best two logits.
Nothing is shared with the engine: PyPI's `gguf` dequantises every weight, `tokenizers` builds the vocabulary from the
metadata, and the forward is the formula in numpy, with queries and keys in the file's own order of rows.
"""

import json
import sys

import numpy as np
from gguf import GGUFReader
from gguf.quants import dequantize
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers


class Model:
    def __init__(self, path):
        reader = GGUFReader(path)
        self.meta = {key: field.contents() for key, field in reader.fields.items()}
        assert self.meta["general.architecture"] == "llama"
        self.weights = {t.name: dequantize(t.data, t.tensor_type).astype(np.float32) for t in reader.tensors}
        self.layers = self.meta["llama.block_count"]
        self.heads = self.meta["llama.attention.head_count"]
        self.kv_heads = self.meta["llama.attention.head_count_kv"]
        self.eps = self.meta["llama.attention.layer_norm_rms_epsilon"]
        self.head_dim = self.meta["llama.embedding_length"] // self.heads
        pairs = np.arange(self.head_dim // 2)
        self.inv_freq = self.meta["llama.rope.freq_base"] ** (-2.0 * pairs / self.head_dim)

    def tokenizer(self):
        meta = {key.removeprefix("tokenizer.ggml."): value for key, value in self.meta.items()}
        assert (meta["model"], meta["pre"]) == ("gpt2", "smollm")
        vocabulary = {token: index for index, token in enumerate(meta["tokens"])}
        merges = [tuple(merge.split(" ")) for merge in meta["merges"]]
        tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
        tokenizer.decoder = decoders.ByteLevel()
        control = [token for token, kind in zip(meta["tokens"], meta["token_type"]) if kind == 3]
        tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in control])
        return tokenizer

    def norm(self, x, name):
        scale = 1.0 / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + np.float32(self.eps))
        return (x * scale * self.weights[name]).astype(np.float32)

    def rotate(self, x, start):
        """Pairs of neighbours, as the file has them: `x` is [tokens, heads, head_dim]."""
        angle = np.arange(start, start + len(x))[:, None] * self.inv_freq
        cos, sin = (f(angle)[:, None].astype(np.float32) for f in (np.cos, np.sin))
        even, odd = x[..., 0::2], x[..., 1::2]
        return np.stack([even * cos - odd * sin, even * sin + odd * cos], axis=-1).reshape(x.shape)

    def forward(self, ids, cache):
        """Logits of the last of `ids`, which follow what `cache` has seen."""
        weights, start, count = self.weights, len(cache[0][0]), len(ids)
        x = weights["token_embd.weight"][ids]
        visible = np.arange(start + count)[None] <= np.arange(start, start + count)[:, None]
        for layer in range(self.layers):
            at = lambda name: weights[f"blk.{layer}.{name}.weight"]
            h = self.norm(x, f"blk.{layer}.attn_norm.weight")
            split = lambda name, heads: (h @ at(name).T).reshape(count, heads, self.head_dim)
            q = self.rotate(split("attn_q", self.heads), start)
            keys, values = cache[layer]
            keys = np.concatenate([keys, self.rotate(split("attn_k", self.kv_heads), start)])
            values = np.concatenate([values, split("attn_v", self.kv_heads)])
            cache[layer] = keys, values
            group = self.heads // self.kv_heads
            out = np.empty_like(q)
            for head in range(self.heads):
                scores = q[:, head] @ keys[:, head // group].T / np.float32(np.sqrt(self.head_dim))
                scores = np.where(visible, scores, -np.inf)
                scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
                out[:, head] = scores / scores.sum(axis=-1, keepdims=True) @ values[:, head // group]
            x = x + out.reshape(count, -1) @ at("attn_output").T
            h = self.norm(x, f"blk.{layer}.ffn_norm.weight")
            gate, up = h @ at("ffn_gate").T, h @ at("ffn_up").T
            x = x + (gate / (1.0 + np.exp(-gate)) * up) @ at("ffn_down").T
        head = weights.get("output.weight", weights["token_embd.weight"])
        return head @ self.norm(x[-1], "output_norm.weight")


def main():
    model, limit = Model(sys.argv[1]), int(sys.argv[2])
    tokenizer, end = model.tokenizer(), model.meta["tokenizer.ggml.eos_token_id"]
    for prompt in sys.stdin.read().splitlines():
        ids = tokenizer.encode(prompt, add_special_tokens=False).ids
        empty = np.zeros((0, model.kv_heads, model.head_dim), np.float32)
        cache = [(empty, empty) for _ in range(model.layers)]
        tokens, gap, feed = [], float("inf"), ids
        while len(tokens) < limit:
            logits = model.forward(feed, cache)
            second, best = np.sort(logits)[-2:]
            gap, token = min(gap, float(best - second)), int(logits.argmax())
            if token == end:
                break
            tokens.append(token)
            feed = [token]
        text = tokenizer.decode(tokens)
        print(json.dumps({"prompt": prompt, "prompt_tokens": len(ids), "text": text, "gap": gap}), flush=True)


main()
