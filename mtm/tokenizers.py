"""Tokenizers turn a modality's raw values into tokens and back."""

from __future__ import annotations

from collections.abc import ItemsView, Mapping
from typing import TYPE_CHECKING

import torch
from torch import nn

from mtm.trajectory import Batch, Modality

MIN_STD = 0.1
"""A feature whose standard deviation is below this is centred but not scaled (as the paper does)."""


class ContinuousTokenizer(nn.Module):
    """One token a timestep: the values, normalised by the training mean and standard deviation.

    Also keeps the training range, which acting needs to turn a return target into a value.
    """

    tokens_per_step = 1

    def __init__(self, modality: Modality):
        super().__init__()
        for name, value in (("mean", 0.0), ("std", 1.0), ("low", -1.0), ("high", 1.0)):
            self.register_buffer(name, torch.full((modality.dim,), value))
        self.mean: torch.Tensor
        self.std: torch.Tensor
        self.low: torch.Tensor
        self.high: torch.Tensor

    @property
    def features(self) -> int:
        return len(self.mean)

    def fit(self, values: torch.Tensor) -> None:
        """Take the statistics of ``values`` [steps, dim], which must hold no padding."""
        std, mean = torch.std_mean(values.double(), dim=0, correction=0)
        self.mean.copy_(mean)
        self.std.copy_(torch.where(std < MIN_STD, torch.ones_like(std), std))
        self.low.copy_(values.amin(0))
        self.high.copy_(values.amax(0))

    def encode(self, values: torch.Tensor) -> torch.Tensor:
        """Raw values [B, T, dim] to tokens [B, T, 1, D]."""
        return ((values - self.mean) / self.std).unsqueeze(-2)

    def decode(self, tokens: torch.Tensor) -> torch.Tensor:
        """Tokens [B, T, 1, D] to raw values [B, T, dim]."""
        return tokens.squeeze(-2) * self.std + self.mean


class TrajectoryTokenizer(nn.ModuleDict):
    """A tokenizer for each modality."""

    def __init__(self, modalities: tuple[Modality, ...]):
        super().__init__({m.name: ContinuousTokenizer(m) for m in modalities})

    if TYPE_CHECKING:

        def __getitem__(self, key: str) -> ContinuousTokenizer: ...
        def items(self) -> ItemsView[str, ContinuousTokenizer]: ...  # type: ignore[override]

    def fit(self, values: Mapping[str, torch.Tensor]) -> None:
        """Fit every tokenizer on raw training values [steps, dim]."""
        for name, tokenizer in self.items():
            tokenizer.fit(values[name])

    def encode(self, batch: Batch) -> dict[str, torch.Tensor]:
        return {name: tokenizer.encode(batch[name]) for name, tokenizer in self.items()}
