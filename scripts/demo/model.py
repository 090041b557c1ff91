"""DeepSeek-V3's architecture in PyTorch, written for training a very small model on a CPU.

The maths is that of the released models: latent attention with interleaved rotary pairs, a mixture of experts
that picks by sigmoid score plus a correction bias and weighs by the score alone, and one multi-token-prediction
layer. `check_golden.py` compares it with recorded logits. Expert weights are kept stacked, [expert, out, in],
because the optimizer and the grouped products want them so; `to_released` and `from_released` convert names.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

SLOTS = 128  # an expert's tokens come in whole blocks of this many rows


class Normalize(torch.autograd.Function):
    """RMS normalisation in f32, returned in `dtype`.

    Written by hand, like the functions below, because training on a CPU spends its time in element-wise passes:
    each saves several over what automatic differentiation would run.
    """

    @staticmethod
    def forward(ctx, x, weight, eps, dtype):
        x = x.float()
        inverse = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        unit = x * inverse
        ctx.save_for_backward(unit, inverse, weight)
        return (unit * weight).to(dtype)

    @staticmethod
    def backward(ctx, grad):
        unit, inverse, weight = ctx.saved_tensors
        grad = grad.float()
        product = grad * unit
        grad_weight = product.flatten(0, -2).sum(0)
        mean = (product @ weight).div_(unit.shape[-1]).unsqueeze(-1)
        return (grad * weight).addcmul_(unit, mean, value=-1).mul_(inverse), grad_weight, None, None


class RMSNorm(nn.Module):
    """Weight in f32; the result has the dtype the matrices compute in."""

    def __init__(self, size, eps=1e-6):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps
        self.dtype = torch.float32

    def forward(self, x):
        return Normalize.apply(x, self.weight, self.eps, self.dtype)


class SwiGLU(torch.autograd.Function):
    """silu(gate) * up for a tensor that holds gate and up side by side."""

    @staticmethod
    def forward(ctx, both):
        gate, up = both.chunk(2, -1)
        ctx.save_for_backward(both)
        return F.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx, grad):
        gate, up = ctx.saved_tensors[0].chunk(2, -1)
        out = torch.empty_like(ctx.saved_tensors[0])
        out_gate, out_up = out.chunk(2, -1)
        torch.mul(grad, F.silu(gate), out=out_up)
        torch.ops.aten.silu_backward.grad_input(grad * up, gate, grad_input=out_gate)
        return out


class Attend(torch.autograd.Function):
    """softmax(scale q k^T + mask) v on [N, T, d]; at these lengths plain products beat the fused CPU kernel."""

    @staticmethod
    def forward(ctx, q, k, v, mask, scale):
        q = q * scale
        weights = torch.baddbmm(mask.to(q.dtype), q, k.mT).softmax(-1)
        ctx.save_for_backward(q, k, v, weights)
        ctx.scale = scale
        return torch.bmm(weights, v)

    @staticmethod
    def backward(ctx, grad):
        q, k, v, weights = ctx.saved_tensors
        grad_v = torch.bmm(weights.mT, grad)
        grad_weights = torch.bmm(grad, v.mT)
        scores = torch._softmax_backward_data(grad_weights, weights, -1, weights.dtype)
        return torch.bmm(scores, k) * ctx.scale, torch.bmm(scores.mT, q), grad_v, None, None


class Regroup(torch.autograd.Function):
    """Copies each token into its experts' slots; a gather in both directions, never a scatter.

    `source` names the token in each slot, `slot` the slot of each (token, choice); unused slots hold token 0.
    """

    @staticmethod
    def forward(ctx, x, source, slot):
        ctx.save_for_backward(slot)
        return x[source]

    @staticmethod
    def backward(ctx, grad):
        (slot,) = ctx.saved_tensors
        return grad[slot.flatten()].view(*slot.shape, -1).sum(1), None, None


class Restore(torch.autograd.Function):
    """Reads each (token, choice) back from its slot; nothing flows into unused slots."""

    @staticmethod
    def forward(ctx, y, slot):
        ctx.save_for_backward(slot)
        ctx.rows = len(y)
        return y[slot.flatten()].view(*slot.shape, -1)

    @staticmethod
    def backward(ctx, grad):
        (slot,) = ctx.saved_tensors
        out = grad.new_zeros(ctx.rows, grad.shape[-1])
        out[slot.flatten()] = grad.flatten(0, 1)
        return out, None


def rope_tables(config, length):
    """cos and sin, [length, qk_rope_head_dim / 2], for the plain theta or DeepSeek's YaRN."""
    dim, theta = config["qk_rope_head_dim"], config["rope_theta"]
    freq = theta ** (-torch.arange(0, dim, 2, dtype=torch.float32) / dim)
    scaling = config.get("rope_scaling")
    if scaling:
        original = scaling["original_max_position_embeddings"]
        corr = lambda r: dim * math.log(original / (2 * math.pi * r)) / (2 * math.log(theta))
        low = max(math.floor(corr(scaling["beta_fast"])), 0)
        high = min(math.ceil(corr(scaling["beta_slow"])), dim - 1)
        ramp = ((torch.arange(dim // 2) - low) / max(high - low, 0.001)).clamp(0, 1)
        freq = freq / scaling["factor"] * ramp + freq * (1 - ramp)
    angle = torch.arange(length, dtype=torch.float32)[:, None] * freq
    return angle.cos(), angle.sin()


def softmax_scale(config):
    """1/sqrt(head size), times YaRN's squared temperature where the config asks for it."""
    scale = (config["qk_nope_head_dim"] + config["qk_rope_head_dim"]) ** -0.5
    scaling = config.get("rope_scaling")
    if scaling and scaling.get("mscale_all_dim"):
        mscale = 0.1 * scaling["mscale_all_dim"] * math.log(scaling["factor"]) + 1
        scale *= mscale * mscale
    return scale


def rotate(x, cos, sin):
    """Rotates interleaved pairs (2i, 2i+1) of x [..., T, dim]; the output keeps evens first, as scores do not care."""
    even, odd = x[..., 0::2], x[..., 1::2]
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
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
        """`mask` is added to the scores: 0 or -inf, [T, S] or [B * heads, T, S].

        `cache` maps this call's (k, v) [B, heads, T, d] to the ones to attend over.
        """
        b, t, _ = x.shape
        q = self.q_b_proj(self.q_a_layernorm(self.q_a_proj(x))).view(b, t, self.heads, -1).transpose(1, 2)
        q_nope, q_rope = q.split([self.nope, self.rope], -1)
        latent, k_rope = self.kv_a_proj_with_mqa(x).split([self.rank, self.rope], -1)
        kv = self.kv_b_proj(self.kv_a_layernorm(latent)).view(b, t, self.heads, -1).transpose(1, 2)
        k_nope, v = kv.split([self.nope, self.v_dim], -1)
        q = torch.cat([q_nope, rotate(q_rope, cos, sin)], -1)
        k = torch.cat([k_nope, rotate(k_rope[:, None], cos, sin).expand(-1, self.heads, -1, -1)], -1)
        if cache is not None:
            k, v = cache(k, v)
        out = Attend.apply(q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1), mask, self.scale)
        return self.o_proj(out.view(b, self.heads, t, -1).transpose(1, 2).reshape(b, t, -1))


class MLP(nn.Module):
    def __init__(self, hidden, inner):
        super().__init__()
        self.gate_up = nn.Parameter(torch.empty(2, inner, hidden))
        self.down = nn.Parameter(torch.empty(hidden, inner))

    def forward(self, x):
        return F.linear(SwiGLU.apply(F.linear(x, self.gate_up.flatten(0, 1))), self.down)


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
        experts, k = self.config["n_routed_experts"], index.shape[1]
        choice = index.flatten()
        counts = choice.bincount(minlength=experts)
        if self.training:
            self.load += counts
        # Whole blocks of slots per expert: the CPU library prepares a kernel for each new shape, so there must be few.
        padded = (counts + SLOTS - 1) // SLOTS * SLOTS
        order = choice.argsort(stable=True)
        rank = torch.arange(len(choice)) - (counts.cumsum(0) - counts)[choice[order]]
        slot = torch.empty_like(choice)
        slot[order] = (padded.cumsum(0) - padded)[choice[order]] + rank
        source = torch.zeros(int(padded.sum()), dtype=torch.long)
        source[slot] = torch.arange(len(choice)) // k
        slot = slot.view(-1, k)
        grouped = Regroup.apply(x, source, slot).split(padded.tolist())
        out = []
        for rows, gate_up, down in zip(grouped, self.gate_up.unbind(0), self.down.unbind(0)):
            out.append(F.linear(SwiGLU.apply(F.linear(rows, gate_up.flatten(0, 1))), down))
        routed = Restore.apply(torch.cat(out), slot)
        mixed = (routed * weight.to(routed.dtype)[..., None]).sum(1) + self.shared(x)
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
                nn.init.normal_(p, std={"embed": 0.2, "head": 0.02}.get(name, 0.5 * p.shape[-1] ** -0.5))

    def moes(self):
        return [m for m in self.modules() if isinstance(m, MoE)]

    def compute_in(self, dtype):
        """Casts the matrices; norm weights, router and selection bias stay f32."""
        for module in self.modules():
            if isinstance(module, RMSNorm):
                module.dtype = dtype
        for name, p in self.named_parameters():
            if p.dim() > 1 and not name.endswith("mlp.gate"):
                p.data = p.data.to(dtype)
        return self

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
    return torch.full((length, length), -torch.inf).triu(1)


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
