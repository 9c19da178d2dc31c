"""Masks: which tokens of a window are visible.

A mask is a boolean tensor for each modality; True means visible. [T, P] is one mask for a whole
batch, [B, T, P] one for each window.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

Mask = dict[str, torch.Tensor]
"""Booleans [T, P] or [B, T, P] by modality name; True means visible."""

TokensPerStep = Mapping[str, int]
"""P by modality name, in the modalities' order within a timestep."""


def empty(steps: int, tokens_per_step: TokensPerStep) -> Mask:
    """A mask [T, P] with every token hidden."""
    return {name: torch.zeros(steps, p, dtype=torch.bool) for name, p in tokens_per_step.items()}


def is_shared(mask: Mask) -> bool:
    """Whether one mask [T, P] stands for the whole batch."""
    return all(tokens.dim() == 2 for tokens in mask.values())


def hide_unknown(mask: Mask, known: Mapping[str, torch.Tensor]) -> Mask:
    """The mask without what a window does not have.

    ``known`` has, for some modalities, booleans [B], or one for the whole batch []. A modality
    that is missing is hidden; nothing else marks it.
    """
    return {
        name: tokens & known[name][..., None, None] if name in known else tokens
        for name, tokens in mask.items()
    }


def random_subset(
    steps: int,
    tokens_per_step: TokensPerStep,
    fractions: tuple[float, ...],
    count: int,
    generator: torch.Generator,
) -> Mask:
    """Keep a random share of each modality's tokens [count, T, P]; the share is drawn from ``fractions``."""
    mask = {}
    for name, p in tokens_per_step.items():
        choice = torch.randint(len(fractions), (count,), generator=generator)
        kept = (torch.tensor(fractions)[choice] * steps * p).round()
        rank = torch.rand(count, steps * p, generator=generator).argsort(1).argsort(1)
        mask[name] = (rank < kept[:, None]).view(count, steps, p)
    return mask


def hide_from(mask: Mask, modality: torch.Tensor, step: torch.Tensor) -> Mask:
    """Hide, in each window, a modality's tokens at ``step`` and everything after them.

    ``mask`` [count, T, P]; ``modality`` (its index) and ``step`` [count]. The order within a
    timestep is the order of the mask's modalities.
    """
    cut = step * len(mask) + modality
    shown = {}
    for i, (name, tokens) in enumerate(mask.items()):
        place = torch.arange(tokens.shape[1]) * len(mask) + i
        shown[name] = tokens & (place < cut[:, None])[..., None]
    return shown
