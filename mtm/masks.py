"""Masks: which tokens of a window are visible.

A mask is a boolean tensor [T, P] for each modality; True means visible. Patterns are drawn with
an explicit ``torch.Generator`` on the CPU, one mask for a whole batch (as the reference does).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch

from mtm.errors import UserError
from mtm.trajectory import ACTIONS, RETURNS, STATES

Mask = dict[str, torch.Tensor]
"""Booleans [T, P] by modality name; True means visible."""

TokensPerStep = Mapping[str, int]
"""P by modality name, in the modalities' order within a timestep."""


@dataclass(frozen=True)
class MaskConfig:
    """Training mask pattern."""

    pattern: Literal["autoregressive", "random"] = "autoregressive"
    """"autoregressive": random subset, then a token and all after it hidden; "random": subset only."""
    visible_fractions: tuple[float, ...] = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 1.0)
    """Visible fractions, one drawn at random for each modality and step (the reference calls them mask ratios)."""
    cut_weights: dict[str, float] = field(
        default_factory=lambda: {STATES: 0.2, RETURNS: 0.1, ACTIONS: 0.7}
    )
    """Probability that the first hidden token of the autoregressive pattern is of this modality."""

    def __post_init__(self) -> None:
        if not self.visible_fractions:
            raise UserError("visible_fractions is empty; give at least one fraction")
        for fraction in self.visible_fractions:
            if not 0.0 <= fraction <= 1.0:
                raise UserError(f"visible_fractions has {fraction}; a fraction lies in [0, 1]")
        if min(self.cut_weights.values()) < 0 or sum(self.cut_weights.values()) <= 0:
            raise UserError("cut_weights must not be negative and must not all be zero")


def empty(steps: int, tokens_per_step: TokensPerStep) -> Mask:
    """A mask with every token hidden."""
    return {name: torch.zeros(steps, p, dtype=torch.bool) for name, p in tokens_per_step.items()}


def random_mask(
    steps: int, tokens_per_step: TokensPerStep, fractions: tuple[float, ...], generator: torch.Generator
) -> Mask:
    """Keep a random share of each modality's tokens; the share is drawn from ``fractions``."""
    mask = empty(steps, tokens_per_step)
    for tokens in mask.values():
        choice = int(torch.randint(len(fractions), (), generator=generator))
        kept = round(fractions[choice] * tokens.numel())
        tokens.view(-1)[torch.randperm(tokens.numel(), generator=generator)[:kept]] = True
    return mask


def hide_from(mask: Mask, modality: str, step: int) -> Mask:
    """Hide that modality's tokens at ``step`` and everything after them, in place.

    The order within a timestep is the order of the mask's modalities.
    """
    reached = False
    for name, tokens in mask.items():
        reached = reached or name == modality
        tokens[step if reached else step + 1 :] = False
    return mask


def draw(
    config: MaskConfig, steps: int, tokens_per_step: TokensPerStep, generator: torch.Generator
) -> Mask:
    """One training mask of the configured pattern."""
    mask = random_mask(steps, tokens_per_step, config.visible_fractions, generator)
    if config.pattern == "autoregressive":
        weights = torch.tensor([config.cut_weights.get(name, 0.0) for name in tokens_per_step])
        modality = int(torch.multinomial(weights, 1, generator=generator))
        step = int(torch.randint(steps, (), generator=generator))
        hide_from(mask, list(tokens_per_step)[modality], step)
    return mask
