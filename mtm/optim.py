"""AdamW groups and the learning-rate schedule."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from mtm.errors import UserError


@dataclass(frozen=True)
class OptimConfig:
    """AdamW with warm-up and cosine decay. The defaults are the paper's."""

    learning_rate: float = 1e-4
    """Peak learning rate."""
    weight_decay: float = 0.005
    """Decay of the weights of linear layers; biases, norms and encodings have none."""
    warmup_steps: int = 40_000
    """Steps over which the learning rate rises from 0."""
    steps: int = 140_010
    """Training steps; the cosine reaches 0 here."""
    batch_size: int = 1024
    """Windows in a global batch, over all workers."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not 0 <= self.warmup_steps < self.steps:
            raise UserError(f"warmup_steps is {self.warmup_steps}; it lies in [0, steps {self.steps})")
        if self.learning_rate <= 0 or self.weight_decay < 0:
            raise UserError("learning_rate must be positive and weight_decay must not be negative")

    def learning_rate_at(self, step: int) -> float:
        """Linear warm-up from 0, then a cosine to 0 at ``steps``."""
        if step < self.warmup_steps:
            return self.learning_rate * step / self.warmup_steps
        progress = (step - self.warmup_steps) / (self.steps - self.warmup_steps)
        return self.learning_rate * 0.5 * (1.0 + math.cos(math.pi * min(progress, 1.0)))


def adamw(model: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """AdamW(0.9, 0.999); weight decay on the weights of linear layers only."""
    decayed = [m.weight for m in model.modules() if isinstance(m, nn.Linear)]
    ids = {id(weight) for weight in decayed}
    plain = [p for p in model.parameters() if id(p) not in ids]
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.999), fused=True)
