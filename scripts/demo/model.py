"""DeepSeek-V3's architecture in PyTorch, written for training a very small model on a CPU.

The maths is that of the released models: latent attention with interleaved rotary pairs, a mixture of experts
that picks by sigmoid score plus a correction bias and weighs by the score alone, and one multi-token-prediction
layer. `check_golden.py` compares it with recorded logits. Expert weights are kept stacked, [expert, out, in],
because the optimizer and the grouped products want them so; `to_released` and `from_released` convert names.
"""

import torch
import torch.nn.functional as F
from torch import nn


class RMSNorm(nn.Module):
    def __init__(self, size, eps=1e-6):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x):
        return F.rms_norm(x.float(), self.weight.shape, self.weight, self.eps)


class Regroup(torch.autograd.Function):
    """Copies each token once per chosen expert, ordered by expert.

    Written by hand because the gradient of a plain gather is a scatter with atomic adds, which a CPU runs one
    element at a time; here both directions are gathers.
    """

    @staticmethod
    def forward(ctx, x, order, inverse, k):
        ctx.save_for_backward(inverse)
        ctx.k = k
        return x[order // k]

    @staticmethod
    def backward(ctx, grad):
        (inverse,) = ctx.saved_tensors
        return grad[inverse].view(-1, ctx.k, grad.shape[-1]).sum(1), None, None, None


class Restore(torch.autograd.Function):
    """Puts rows ordered by expert back in token order; the inverse permutation is its gradient."""

    @staticmethod
    def forward(ctx, y, order, inverse):
        ctx.save_for_backward(order)
        return y[inverse]

    @staticmethod
    def backward(ctx, grad):
        (order,) = ctx.saved_tensors
        return grad[order], None, None


def rope_tables(config, length):
    """cos and sin, [length, qk_rope_head_dim / 2], for the plain theta or DeepSeek's YaRN."""
    dim, theta = config["qk_rope_head_dim"], config["rope_theta"]
    freq = theta ** (-torch.arange(0, dim, 2, dtype=torch.float32) / dim)
    scaling = config.get("rope_scaling")
    if scaling:
        original = scaling["original_max_position_embeddings"]
        corr = lambda r: dim * torch.log(torch.tensor(original / (2 * torch.pi * r))) / (2 * torch.log(torch.tensor(float(theta))))
        low = max(int(torch.floor(corr(scaling["beta_fast"]))), 0)
        high = min(int(torch.ceil(corr(scaling["beta_slow"]))), dim - 1)
        ramp = ((torch.arange(dim // 2) - low) / max(high - low, 0.001)).clamp(0, 1)
        freq = freq / scaling["factor"] * ramp + freq * (1 - ramp)
    angle = torch.arange(length, dtype=torch.float32)[:, None] * freq
    return angle.cos(), angle.sin()


def softmax_scale(config):
    """1/sqrt(head size), times YaRN's squared temperature where the config asks for it."""
    scale = (config["qk_nope_head_dim"] + config["qk_rope_head_dim"]) ** -0.5
    scaling = config.get("rope_scaling")
    if scaling and scaling.get("mscale_all_dim"):
        mscale = 0.1 * scaling["mscale_all_dim"] * torch.log(torch.tensor(float(scaling["factor"]))).item() + 1
        scale *= mscale * mscale
    return scale


def rotate(x, cos, sin):
    """Rotates interleaved pairs (2i, 2i+1) of x [..., T, dim]; the output keeps evens first, as scores do not care."""
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.cat([even * cos - odd * sin, odd * cos + even * sin], -1)


class Attention(nn.Module):
    def __init__(self, config):
        super().__init__()
        linear = lambda i, o: nn.Linear(i, o, bias=False)
        self.heads = config["num_attention_heads"]
        self.nope, self.rope = config["qk_nope_head_dim"], config["qk_rope_head_dim"]
        self.v_dim, self.rank = config["v_head_dim"], config["kv_lora_rank"]
        hidden, q_rank = config["hidden_size"], config["q_lora_rank"]
        self.q_a_proj = linear(hidden, q_rank)
        self.q_a_layernorm = RMSNorm(q_rank)
        self.q_b_proj = linear(q_rank, self.heads * (self.nope + self.rope))
        self.kv_a_proj_with_mqa = linear(hidden, self.rank + self.rope)
        self.kv_a_layernorm = RMSNorm(self.rank)
        self.kv_b_proj = linear(self.rank, self.heads * (self.nope + self.v_dim))
        self.o_proj = linear(self.heads * self.v_dim, hidden)
        self.scale = softmax_scale(config)

    def forward(self, x, cos, sin, mask, cache=None):
        """`mask` [B, 1, T, S] is True where a query may look; `cache` maps (k, v) to the (k, v) to attend over."""
        b, t, _ = x.shape
        q = self.q_b_proj(self.q_a_layernorm(self.q_a_proj(x))).view(b, t, self.heads, -1).transpose(1, 2)
        q_nope, q_rope = q.split([self.nope, self.rope], -1)
        latent, k_rope = self.kv_a_proj_with_mqa(x).split([self.rank, self.rope], -1)
        kv = self.kv_b_proj(self.kv_a_layernorm(latent)).view(b, t, self.heads, -1).transpose(1, 2)
        k_nope, v = kv.split([self.nope, self.v_dim], -1)
        q = torch.cat([q_nope, rotate(q_rope, cos, sin).to(q.dtype)], -1)
        k_rope = rotate(k_rope[:, None], cos, sin).to(q.dtype)
        k = torch.cat([k_nope, k_rope.expand(-1, self.heads, -1, -1)], -1)
        if cache is not None:
            k, v = cache(k, v)
        # The fast kernel wants one head size for q, k and v.
        v = F.pad(v, (0, q.shape[-1] - self.v_dim))
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=self.scale)
        return self.o_proj(out[..., : self.v_dim].transpose(1, 2).reshape(b, t, -1))


class MLP(nn.Module):
    def __init__(self, hidden, inner):
        super().__init__()
        self.gate_up = nn.Parameter(torch.empty(2, inner, hidden))
        self.down = nn.Parameter(torch.empty(hidden, inner))

    def forward(self, x):
        gate, up = F.linear(x, self.gate_up.flatten(0, 1)).chunk(2, -1)
        return F.linear(F.silu(gate) * up, self.down)


class MoE(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        hidden, inner, experts = config["hidden_size"], config["moe_intermediate_size"], config["n_routed_experts"]
        self.gate = nn.Parameter(torch.empty(experts, hidden))
        self.register_buffer("bias", torch.zeros(experts))
        self.register_buffer("load", torch.zeros(experts), persistent=False)
        self.gate_up = nn.Parameter(torch.empty(experts, 2, inner, hidden))
        self.down = nn.Parameter(torch.empty(experts, hidden, inner))
        self.shared = MLP(hidden, inner * config["n_shared_experts"])

    def route(self, x):
        """Expert indices and weights [T, k]; in f32, since a rounded score picks another expert."""
        c = self.config
        with torch.autocast("cpu", enabled=False):
            scores = F.linear(x.float(), self.gate.float()).sigmoid()
        with torch.no_grad():
            biased = (scores + self.bias).view(len(x), c["n_group"], -1)
            groups = biased.topk(2, -1).values.sum(-1).topk(c["topk_group"], -1).indices
            closed = torch.ones(biased.shape[:2], dtype=torch.bool, device=x.device).scatter(1, groups, False)
            index = biased.masked_fill(closed[..., None], -torch.inf).flatten(1).topk(c["num_experts_per_tok"], -1).indices
        weight = scores.gather(1, index)
        if c["norm_topk_prob"]:
            weight = weight / (weight.sum(-1, keepdim=True) + 1e-20)
        return index, weight * c["routed_scaling_factor"]

    def forward(self, x):
        shape, x = x.shape, x.flatten(0, -2)
        index, weight = self.route(x)
        k = index.shape[1]
        order = index.flatten().argsort(stable=True)
        inverse = torch.empty_like(order)
        inverse[order] = torch.arange(len(order))
        counts = index.flatten().bincount(minlength=self.config["n_routed_experts"])
        if self.training:
            self.load += counts
        grouped = Regroup.apply(x, order, inverse, k).split(counts.tolist())
        out = []
        for rows, gate_up, down in zip(grouped, self.gate_up.unbind(0), self.down.unbind(0)):
            gate, up = F.linear(rows, gate_up.flatten(0, 1)).chunk(2, -1)
            out.append(F.linear(F.silu(gate) * up, down))
        routed = Restore.apply(torch.cat(out), order, inverse).view(len(x), k, -1)
        mixed = torch.einsum("tkd,tk->td", routed, weight.to(routed.dtype)) + self.shared(x)
        return mixed.view(shape)

    @torch.no_grad()
    def balance(self, rate):
        """Moves the selection bias towards an even load, as V3 does in place of an auxiliary loss."""
        self.bias += rate * torch.sign(self.load.mean() - self.load)
        self.load.zero_()


class Layer(nn.Module):
    def __init__(self, config, dense):
        super().__init__()
        hidden, eps = config["hidden_size"], config["rms_norm_eps"]
        self.input_layernorm = RMSNorm(hidden, eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = RMSNorm(hidden, eps)
        self.mlp = MLP(hidden, config["intermediate_size"]) if dense else MoE(config)

    def forward(self, x, *attention):
        x = x + self.self_attn(self.input_layernorm(x), *attention)
        return x + self.mlp(self.post_attention_layernorm(x))


class Predictor(Layer):
    """The MTP layer: from the state at t and the token at t+1, a state that predicts the token at t+2."""

    def __init__(self, config):
        super().__init__(config, dense=False)
        hidden, eps = config["hidden_size"], config["rms_norm_eps"]
        self.enorm, self.hnorm = RMSNorm(hidden, eps), RMSNorm(hidden, eps)
        self.eh_proj = nn.Linear(2 * hidden, hidden, bias=False)
        self.norm = RMSNorm(hidden, eps)

    def forward(self, state, following, *attention):
        x = self.eh_proj(torch.cat([self.enorm(following), self.hnorm(state)], -1))
        return self.norm(super().forward(x, *attention))


class Model(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        vocab, hidden = config["vocab_size"], config["hidden_size"]
        self.embed = nn.Parameter(torch.empty(vocab, hidden))
        self.layers = nn.ModuleList(
            Layer(config, i < config["first_k_dense_replace"]) for i in range(config["num_hidden_layers"])
        )
        self.norm = RMSNorm(hidden, config["rms_norm_eps"])
        self.head = nn.Parameter(torch.empty(vocab, hidden))
        self.mtp = Predictor(config) if config.get("num_nextn_predict_layers") else None
        cos, sin = rope_tables(config, config["max_position_embeddings"])
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        for name, p in self.named_parameters():
            if p.dim() > 1:
                nn.init.normal_(p, std=0.02 if name in ("embed", "head") else p.shape[-1] ** -0.5 * 0.5)

    def moes(self):
        return [m for m in self.modules() if isinstance(m, MoE)]

    def forward(self, ids, mask):
        """States after the final norm [B, T, hidden]."""
        attention = (self.cos[: ids.shape[1]], self.sin[: ids.shape[1]], mask)
        x = F.embedding(ids, self.embed)
        for layer in self.layers:
            x = layer(x, *attention)
        return self.norm(x)

    def predict_next(self, states, following_ids, mask):
        """MTP states for positions whose following token is known."""
        attention = (self.cos[: states.shape[1]], self.sin[: states.shape[1]], mask)
        return self.mtp(states, F.embedding(following_ids, self.embed), *attention)

    def logits(self, states):
        return F.linear(states, self.head)


def causal(length):
    return torch.ones(length, length, dtype=torch.bool).tril()[None, None]


def _names(config):
    """(our name, index into the stack, released name) of every tensor; the MTP layer comes last."""
    top = [("embed", (), "model.embed_tokens.weight"), ("norm.weight", (), "model.norm.weight"), ("head", (), "lm_head.weight")]
    layers = config["num_hidden_layers"]
    ours = [f"layers.{i}" for i in range(layers)] + ["mtp"] * config.get("num_nextn_predict_layers", 0)
    attention = "q_a_proj q_a_layernorm q_b_proj kv_a_proj_with_mqa kv_a_layernorm kv_b_proj o_proj".split()
    for i, our in enumerate(ours):
        theirs = f"model.layers.{i}"
        for name in ["input_layernorm", "post_attention_layernorm"] + [f"self_attn.{a}" for a in attention]:
            top.append((f"{our}.{name}.weight", (), f"{theirs}.{name}.weight"))
        mlp = lambda a, index, b: [
            (f"{our}.{a}gate_up", (*index, 0), f"{theirs}.{b}gate_proj.weight"),
            (f"{our}.{a}gate_up", (*index, 1), f"{theirs}.{b}up_proj.weight"),
            (f"{our}.{a}down", index, f"{theirs}.{b}down_proj.weight"),
        ]
        if i < config["first_k_dense_replace"]:
            top += mlp("mlp.", (), "mlp.")
        else:
            top += mlp("mlp.shared.", (), "mlp.shared_experts.")
            for e in range(config["n_routed_experts"]):
                top += mlp("mlp.", (e,), f"mlp.experts.{e}.")
            top.append((f"{our}.mlp.gate", (), f"{theirs}.mlp.gate.weight"))
            top.append((f"{our}.mlp.bias", (), f"{theirs}.mlp.gate.e_score_correction_bias"))
        if our == "mtp":
            top += [(f"mtp.{n}.weight", (), f"{theirs}.{n}.weight") for n in ("enorm", "hnorm", "eh_proj")]
            top.append(("mtp.norm.weight", (), f"{theirs}.shared_head.norm.weight"))
    return top


def to_released(model):
    """The released tensors: bf16, but f32 for the selection bias, as in DeepSeek's checkpoints."""
    state = model.state_dict()
    out = {}
    for ours, index, theirs in _names(model.config):
        value = state[ours][index]
        out[theirs] = value.float().clone() if ours.endswith(".bias") else value.bfloat16().clone()
    return out


def from_released(config, tensors):
    """A model in f32 with the values of released tensors."""
    model = Model(config)
    state = model.state_dict()
    for ours, index, theirs in _names(config):
        state[ours][index].copy_(tensors[theirs].float())
    return model.eval()
