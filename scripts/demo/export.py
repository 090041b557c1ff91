"""Writes a trained model as DeepSeek releases one, with recorded logits to test an engine against."""

import json

import torch
from safetensors.torch import save_file

import tokenizer
from model import causal, from_released, to_released

GENERATION = {"bos_token_id": 0, "eos_token_id": 1, "do_sample": True, "temperature": 0.3, "top_p": 0.95}


@torch.no_grad()
def golden(model, ids):
    """Logits in f32 of the rounded weights: prompts of 1, 7 and 33 tokens, MTP, and 32 greedy steps."""
    out = {}
    for n in (1, 7, 33):
        states = model(ids[None, :n], causal(n))
        out[f"p{n}.ids"] = ids[:n].clone()
        out[f"p{n}.logits"] = model.logits(states)[0]
    predicted = model.predict_next(states[:, :-1], ids[None, 1:], causal(len(ids) - 1))
    out["p33.mtp_logits"] = model.logits(predicted)[0]
    grown, steps = ids[None], []
    for _ in range(32):
        logits = model.logits(model(grown, causal(grown.shape[1])))[0, -1]
        steps.append(logits)
        grown = torch.cat([grown, logits.argmax()[None, None]], 1)
    out |= {"greedy.prompt": ids, "greedy.tokens": grown[0, len(ids) :].clone(), "greedy.logits": torch.stack(steps)}
    return {name: value.contiguous() for name, value in out.items()}


def write(model, directory):
    tensors = to_released(model)
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})
    (directory / "config.json").write_text(json.dumps(model.config, indent=2) + "\n")
    (directory / "generation_config.json").write_text(json.dumps(GENERATION, indent=2) + "\n")
    tokenizer.save_config(directory / "tokenizer_config.json", model.config["max_position_embeddings"])
    encoder = tokenizer.Encoder(directory / "tokenizer.json")
    prompt = ("<｜begin▁of▁sentence｜>You are a helpful assistant.<｜User｜>Hello!<｜Assistant｜></think>Hello! How can I help you?"
              "<｜end▁of▁sentence｜><｜User｜>What is 347 + 85?<｜Assistant｜><think>347 + 085\nones:")
    ids = torch.tensor(encoder.control.encode(prompt).ids)[-33:]
    ids = torch.cat([torch.zeros(1, dtype=torch.long), ids[1:]])
    save_file(golden(from_released(model.config, tensors), ids), directory / "golden.safetensors")
