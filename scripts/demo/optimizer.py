"""Muon for the matrices and AdamW for the rest, on f32 master copies of the parameters."""

from collections import defaultdict

import torch


def orthogonalize(m, steps=4):
    """The nearest matrix with equal singular values, for a batch [N, rows, cols] with rows <= cols (Newton-Schulz)."""
    x = m.bfloat16()
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        a = x @ x.mT
        x = 3.4445 * x + (-4.775 * a + 2.0315 * a @ a) @ x
    return x.float()


class Optimizer:
    """Matrices of one shape are stacked, so that a step is a few batched products instead of hundreds of small ones."""

    def __init__(self, named_parameters, weight_decay=0.1):
        self.weight_decay = weight_decay
        self.shapes, self.others = defaultdict(list), []
        self.master, self.momentum, self.second = {}, {}, {}
        self.steps = 0
        for name, p in named_parameters:
            if p.dim() > 1 and name not in ("embed", "head") and not name.endswith("mlp.gate"):
                self.shapes[tuple(sorted(p.shape[-2:]))].append((name, p))
            else:
                self.others.append((name, p))
                self.second[name] = torch.zeros(p.shape)
            self.master[name] = p.detach().float().clone()
            self.momentum[name] = torch.zeros(p.shape)

    @torch.no_grad()
    def step(self, grads, rate):
        """Applies f32 gradients by name and writes the result back into the parameters."""
        self.steps += 1
        for shape, members in self.shapes.items():
            batch = []
            for name, p in members:
                momentum = self.momentum[name].lerp_(grads[name], 0.05)
                update = grads[name].lerp(momentum, 0.95).view(-1, *p.shape[-2:])
                batch.append(update if p.shape[-2] <= p.shape[-1] else update.mT)
            updates = orthogonalize(torch.cat(batch)).split([len(b) for b in batch])
            # Scaled to the step size AdamW would take, so that one learning rate serves both.
            scale = 0.2 * shape[1] ** 0.5
            for (name, p), update in zip(members, updates):
                update = update if p.shape[-2] <= p.shape[-1] else update.mT
                self.master[name].mul_(1 - rate * self.weight_decay).sub_(update.reshape(p.shape), alpha=rate * scale)
                p.copy_(self.master[name])
        for name, p in self.others:
            first = self.momentum[name].lerp_(grads[name], 0.1)
            second = self.second[name].mul_(0.95).addcmul_(grads[name], grads[name], value=0.05)
            deviation = (second / (1 - 0.95**self.steps)).sqrt_().add_(1e-10)
            self.master[name].addcdiv_(first, deviation, value=-rate / (1 - 0.9**self.steps))
            p.copy_(self.master[name])

    def state(self):
        return {"master": self.master, "momentum": self.momentum, "second": self.second, "steps": self.steps}

    @torch.no_grad()
    def load(self, state, parameters):
        self.steps = state["steps"]
        for part in ("master", "momentum", "second"):
            for name, value in state[part].items():
                getattr(self, part)[name].copy_(value)
        for name, p in parameters:
            p.copy_(self.master[name])
