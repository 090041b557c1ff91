"""Trains the demo model on a CPU and exports it.

Usage: python scripts/train_demo.py --minutes 85            train, then write models/demo
       python scripts/train_demo.py --minutes 85 --resume   go on after an interruption
       python scripts/train_demo.py --export                write models/demo from the last checkpoint

The learning rate follows the clock, not a step count: it warms up, stays, and falls to zero as the minutes run
out, so the run ends when it should on any machine. Worker processes with one thread each share the batch; on a
busy machine that is faster than one process with many threads, whose every operation waits for the slowest core.
"""

import argparse
import os
import random
import sys
import time
from pathlib import Path

# Large blocks stay in the process: returning them to the system after each operation costs more than the operation.
os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", str(1 << 32))
os.environ.setdefault("MALLOC_TRIM_THRESHOLD_", str(1 << 33))
if __name__ == "__main__" and "MALLOC_TOP_PAD_" not in os.environ:
    os.environ["MALLOC_TOP_PAD_"] = str(1 << 28)
    os.execv(sys.executable, [sys.executable, *sys.argv])

ROOT = Path(__file__).parent
sys.path.insert(0, str(ROOT / "demo"))
sys.path.insert(0, str(ROOT))

import torch
import torch.distributed as dist
import torch.nn.functional as F

import demo_corpus
import export
import tokenizer
from model import Model, causal
from optimizer import Optimizer

CONFIG = {
    "architectures": ["DeepseekV3ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "ep_size": 1,
    "first_k_dense_replace": 1,
    "hidden_act": "silu",
    "hidden_size": 192,
    "initializer_range": 0.02,
    "intermediate_size": 512,
    "kv_lora_rank": 64,
    "max_position_embeddings": 2048,
    "model_type": "deepseek_v3",
    "moe_intermediate_size": 128,
    "moe_layer_freq": 1,
    "n_group": 4,
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "norm_topk_prob": True,
    "num_attention_heads": 4,
    "num_experts_per_tok": 2,
    "num_hidden_layers": 5,
    "num_key_value_heads": 4,
    "num_nextn_predict_layers": 1,
    "q_lora_rank": 96,
    "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 16,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 10000,
    "routed_scaling_factor": 2.5,
    "scoring_func": "sigmoid",
    "tie_word_embeddings": False,
    "topk_group": 2,
    "topk_method": "noaux_tc",
    "torch_dtype": "bfloat16",
    "transformers_version": "4.46.3",
    "use_cache": True,
    "v_head_dim": 48,
    "vocab_size": 1024,
}
MICRO_BATCH = 2048  # tokens in one forward pass
WIDTHS = (256, 512, 1024, 2048)  # of a row; shorter documents share one
MTP_WEIGHT, MTP_EVERY = 0.2, 2  # the MTP layer trains on every second step, with twice the weight
TRAINED_PER_PASS = 900  # about how many tokens of a pass are trained on: a constant, so that every token weighs the same
PEAK_RATE, WARM_UP, DECAY = 3.5e-3, 0.02, 0.4
BALANCE_RATE = 1e-3
AVERAGE, AVERAGE_EVERY = 0.99, 5  # of the weights: decay per step, steps between updates
CHECKPOINT_MINUTES = 4


def packed(documents, width):
    """(ids, targets, document numbers), each [rows, width]: documents side by side, -100 where nothing is trained."""
    rows = []
    for ids, trained in sorted(documents, key=lambda d: -len(d[0])):
        row = next((r for r in rows if len(r[0]) + len(ids) <= width), None)
        if row is None:
            row = ([], [], [])
            rows.append(row)
        row[0].extend(ids)
        row[1].extend([t if m else -100 for t, m in zip(ids[1:], trained[1:])] + [-100])
        row[2].extend([len(row[2])] * len(ids))
    fill = lambda values, filler: torch.tensor([v + [filler] * (width - len(v)) for v in values])
    return tuple(fill(values, filler) for values, filler in zip(zip(*rows), (2, -100, -1)))


def batches(encoder, seed, rank):
    """Endless packed (ids, targets, document numbers) of exactly MICRO_BATCH tokens, in few different shapes."""
    rng = random.Random(f"train {seed} {rank}")
    while True:
        by_width = {width: [] for width in WIDTHS}
        for _ in range(1000):
            ids, trained = encoder(demo_corpus.document(rng))
            ids, trained = ids[: WIDTHS[-1]], trained[: WIDTHS[-1]]
            by_width[next(w for w in WIDTHS if len(ids) <= w)].append((ids, trained))
        passes = []
        for width, documents in by_width.items():
            rng.shuffle(documents)
            if documents:
                rows = packed(documents, width)
                order = torch.tensor(rng.sample(range(len(rows[0])), len(rows[0])))
                count = MICRO_BATCH // width
                passes += [tuple(part[picked] for part in rows) for picked in order.split(count) if len(picked) == count]
        rng.shuffle(passes)
        yield from passes


def losses(model, ids, targets, numbers, with_mtp):
    """(next-token loss, MTP loss), both sums over trained tokens divided by a constant."""
    same = (numbers[:, :, None] == numbers[:, None, :]) & (causal(ids.shape[1]) == 0)
    mask = torch.zeros(same.shape, dtype=torch.bfloat16).masked_fill_(~same, -torch.inf).repeat_interleave(CONFIG["num_attention_heads"], 0)

    def loss(states, wanted):
        """Only trained positions go through the head, in blocks of a fixed size."""
        picked = (wanted.flatten() >= 0).nonzero()[:, 0]
        extra = -len(picked) % 256
        wanted = torch.cat([wanted.flatten()[picked], torch.full((extra,), -100)])
        states = states.flatten(0, 1)[torch.cat([picked, torch.zeros(extra, dtype=torch.long)])]
        return F.cross_entropy(model.logits(states).float(), wanted, reduction="sum") / TRAINED_PER_PASS

    states = model(ids, mask)
    main = loss(states, targets)
    if not with_mtp:
        return main, torch.zeros(())
    # At t the layer sees token t+1 and is to name t+2; across the end of a document there is nothing to train.
    inside = numbers == numbers.roll(-1, 1)
    following = targets.roll(-1, 1).masked_fill(~inside, -100)
    following[:, -1] = -100
    return main, loss(model.predict_next(states, ids.roll(-1, 1), mask), following)


def learning_rate(progress):
    """Warm-up, plateau, and a straight line to zero at the end of the planned time."""
    return PEAK_RATE * min(progress / WARM_UP + 0.01, 1.0, max(0.0, (1 - progress) / DECAY))


def work(rank, args):
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    if args.workers > 1:
        dist.init_process_group("gloo", init_method=f"file://{args.checkpoint.resolve()}.rendezvous", rank=rank, world_size=args.workers)
    encoder = tokenizer.Encoder(args.output / "tokenizer.json")
    model = Model(CONFIG).train()
    optimizer = Optimizer(list(model.named_parameters()))
    average = {n: p.detach().clone() for n, p in model.named_parameters()}
    model.compute_in(torch.bfloat16)
    parameters, moes = list(model.named_parameters()), model.moes()
    totals = {"step": 0, "seconds": 0.0, "tokens": 0}
    if args.resume:
        saved = torch.load(args.checkpoint)
        totals = saved["totals"]
        optimizer.load(saved["optimizer"], parameters)
        average = saved["average"]
        for moe, bias in zip(moes, saved["biases"]):
            moe.bias.copy_(bias)
    stream = batches(encoder, f"{args.seed} {totals['step']}", rank)
    sizes = [p.numel() for _, p in parameters]
    # One buffer goes round the workers: all gradients, then expert loads, tokens, losses and the first worker's clock.
    shared = torch.zeros(sum(sizes) + sum(m.load.numel() for m in moes) + 4)
    grads = {n: g.view(p.shape) for (n, p), g in zip(parameters, shared.split(sizes + [len(shared) - sum(sizes)]))}
    planned, start, saved_at, logged = args.minutes * 60, time.time() - totals["seconds"], time.time(), time.time()
    recent = torch.zeros(4)
    while totals["seconds"] < planned:
        ids, targets, numbers = next(stream)
        main, mtp = losses(model, ids, targets, numbers, with_mtp=totals["step"] % MTP_EVERY == 0)
        (main + MTP_EVERY * MTP_WEIGHT * mtp).backward()
        for n, p in parameters:
            grads[n].copy_(p.grad) if p.grad is not None else grads[n].zero_()
            p.grad = None
        clock = time.time() - start if rank == 0 else 0.0
        shared[sum(sizes) :] = torch.cat([m.load for m in moes] + [torch.tensor([main.item(), mtp.item(), (numbers >= 0).sum().item(), clock])])
        if args.workers > 1:
            dist.all_reduce(shared)
        loads = shared[sum(sizes) : -4].view(len(moes), -1)
        recent[:3] += shared[-4:-1]
        recent[3] += 1
        totals["step"] += 1
        totals["tokens"] += int(shared[-2])
        totals["seconds"] = shared[-1].item()
        progress = totals["seconds"] / planned
        rate = learning_rate(progress)
        optimizer.step(grads, rate)
        for moe, load in zip(moes, loads):
            moe.load.copy_(load)
            moe.balance(BALANCE_RATE * min(1, rate / PEAK_RATE * 2))
        if totals["step"] % AVERAGE_EVERY == 0:
            for n in average:
                average[n].lerp_(optimizer.master[n], AVERAGE_EVERY * (1 - AVERAGE))
        if rank == 0 and time.time() - logged > 20:
            uneven = (loads.max(1).values / loads.mean(1)).max().item()
            passes = recent[3] * args.workers
            print(f"step {totals['step']}  loss {recent[0] / passes:.4f}  mtp {recent[1] / passes * MTP_EVERY:.4f}  "
                  f"rate {rate:.1e}  uneven {uneven:.2f}  {recent[2] / (time.time() - logged):.0f} tokens/s  "
                  f"{totals['tokens'] / 1e6:.2f} M tokens  {totals['seconds'] / 60:.1f} min, {(planned - totals['seconds']) / 60:.1f} to go", flush=True)
            recent.zero_()
            logged = time.time()
        if rank == 0 and (time.time() - saved_at > CHECKPOINT_MINUTES * 60 or progress >= 1):
            state = {"optimizer": optimizer.state(), "average": average, "biases": [m.bias for m in moes], "totals": totals}
            torch.save(state, f"{args.checkpoint}.new")
            os.replace(f"{args.checkpoint}.new", args.checkpoint)
            saved_at = time.time()


def averaged_model(checkpoint):
    """The running average of the weights: what is exported, and better than the last step before the rate is zero."""
    saved = torch.load(checkpoint)
    model = Model(CONFIG)
    model.load_state_dict(saved["average"], strict=False)
    for moe, bias in zip(model.moes(), saved["biases"]):
        moe.bias.copy_(bias)
    return model


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=85)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--export", action="store_true")
    parser.add_argument("--checkpoint", type=Path, default=Path("demo.checkpoint"))
    parser.add_argument("--output", type=Path, default=ROOT.parent / "models/demo")
    args = parser.parse_args()
    if not args.export:
        if not args.resume:
            args.output.mkdir(parents=True, exist_ok=True)
            rng = random.Random(f"tokenizer {args.seed}")
            texts = ("".join(p.text for p in demo_corpus.document(rng)) for _ in range(20_000))
            tokenizer.train(texts, CONFIG["vocab_size"]).save(str(args.output / "tokenizer.json"))
        Path(f"{args.checkpoint}.rendezvous").unlink(missing_ok=True)
        torch.multiprocessing.spawn(work, (args,), nprocs=args.workers)
    export.write(averaged_model(args.checkpoint), args.output)


if __name__ == "__main__":
    main()
