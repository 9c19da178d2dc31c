"""Tokenizers turn a modality's raw values into tokens and back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import ItemsView, Mapping
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn

from mtm.trajectory import Batch, Modality

MIN_STD = 0.1
"""A feature whose standard deviation is below this is centred but not scaled (as the paper does)."""


class Tokenizer(nn.Module, ABC):
    """Statistics of a modality, and its tokens.

    Also keeps the training range, which acting needs to turn a return target into a value.
    """

    tokens_per_step: int
    """P"""
    features: int
    """D"""

    def __init__(self, modality: Modality):
        super().__init__()
        for name, value in (("mean", 0.0), ("std", 1.0), ("low", -1.0), ("high", 1.0)):
            self.register_buffer(name, torch.full((modality.dim,), value))
        self.mean: torch.Tensor
        self.std: torch.Tensor
        self.low: torch.Tensor
        self.high: torch.Tensor

    def fit(self, values: torch.Tensor) -> None:
        """Take the statistics of ``values`` [steps, dim], which must hold no padding."""
        std, mean = torch.std_mean(values.double(), dim=0, correction=0)
        self.mean.copy_(mean)
        self.std.copy_(torch.where(std < MIN_STD, torch.ones_like(std), std))
        self.low.copy_(values.amin(0))
        self.high.copy_(values.amax(0))

    def normalise(self, values: torch.Tensor) -> torch.Tensor:
        """Raw values [..., dim] in units of the training standard deviation, from the mean."""
        return (values - self.mean) / self.std

    @abstractmethod
    def encode(self, values: torch.Tensor) -> torch.Tensor:
        """Raw values [B, T, dim] to tokens [B, T, P, D]."""

    @abstractmethod
    def decode(self, tokens: torch.Tensor) -> torch.Tensor:
        """Predicted tokens [..., P, D] to raw values [..., dim]."""


class ContinuousTokenizer(Tokenizer):
    """One token a timestep: the values, normalised by the training mean and standard deviation."""

    tokens_per_step = 1

    def __init__(self, modality: Modality):
        super().__init__(modality)
        self.features = modality.dim

    def encode(self, values: torch.Tensor) -> torch.Tensor:
        return self.normalise(values).unsqueeze(-2)

    def decode(self, tokens: torch.Tensor) -> torch.Tensor:
        return tokens.squeeze(-2) * self.std + self.mean


class DiscreteTokenizer(Tokenizer):
    """One token a dimension: uniform bins between the training minimum and maximum, one-hot.

    Predicted tokens are logits; they decode to the centre of the likeliest bin. Values outside the
    range fall into the outer bins.
    """

    def __init__(self, modality: Modality):
        super().__init__(modality)
        self.tokens_per_step, self.features = modality.dim, modality.bins

    @property
    def bin_width(self) -> torch.Tensor:
        """[dim]; above zero also where all training values are equal."""
        return ((self.high - self.low) / self.features).clamp(min=1e-8)

    def encode(self, values: torch.Tensor) -> torch.Tensor:
        index = ((values - self.low) / self.bin_width).clamp(0, self.features - 1).long()
        return F.one_hot(index, self.features).to(values.dtype)

    def decode(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.low + (tokens.argmax(-1) + 0.5) * self.bin_width


class TrajectoryTokenizer(nn.ModuleDict):
    """A tokenizer for each modality."""

    def __init__(self, modalities: tuple[Modality, ...]):
        super().__init__(
            {m.name: DiscreteTokenizer(m) if m.bins else ContinuousTokenizer(m) for m in modalities}
        )
        self.discrete = frozenset(m.name for m in modalities if m.bins)
        """Names of the modalities with bins."""

    if TYPE_CHECKING:

        def __getitem__(self, key: str) -> Tokenizer: ...
        def items(self) -> ItemsView[str, Tokenizer]: ...  # type: ignore[override]

    def fit(self, values: Mapping[str, torch.Tensor]) -> None:
        """Fit every tokenizer on raw training values [steps, dim]."""
        for name, tokenizer in self.items():
            tokenizer.fit(values[name])

    def encode(self, batch: Batch) -> dict[str, torch.Tensor]:
        return {name: tokenizer.encode(batch[name]) for name, tokenizer in self.items()}

    def decode(self, tokens: Mapping[str, torch.Tensor]) -> Batch:
        return {name: tokenizer.decode(tokens[name]) for name, tokenizer in self.items()}
