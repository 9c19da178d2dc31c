"""Training mask patterns: what is hidden at random while the model learns.

Everything is drawn with an explicit ``torch.Generator`` on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Literal

import torch

from mtm.errors import UserError
from mtm.masks import Mask, TokensPerStep, hide_from, random_subset
from mtm.roles import ROLES
from mtm.trajectory import ACTIONS, RETURNS, STATES

SPECIALISED = tuple(role.name for role in ROLES.values() if role.imagines is None)
"""Roles whose mask is a training pattern too."""


@dataclass(frozen=True)
class MaskConfig:
    """Training mask pattern."""

    pattern: str = "autoregressive"
    """autoregressive (a random subset, then a token and all after it hidden), random (the subset
    only), a role (its mask: bc, rcbc, id, fd, goal, waypoint), or a mixture such as
    id+autoregressive or 0.2*id+0.8*random."""
    visible_fractions: tuple[float, ...] = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 1.0)
    """Visible fractions, one drawn at random for each modality and mask."""
    mask_ratios: tuple[float, ...] = ()
    """The same as shares that are HIDDEN, as the literature on masking counts; if given, they replace
    visible_fractions. (The reference code says mask ratio where it means the visible fraction.)"""
    cut_weights: dict[str, float] = field(
        default_factory=lambda: {STATES: 0.2, RETURNS: 0.1, ACTIONS: 0.7}
    )
    """Probability that the first hidden token of the autoregressive pattern is of this modality."""
    per: Literal["batch", "window"] = "batch"
    """One mask for a whole batch, as the reference has it, or one for each window."""

    def __post_init__(self) -> None:
        if self.mask_ratios:
            # The one place where ratios become fractions; two equal configs then look equal.
            _check_shares("mask_ratios", self.mask_ratios)
            visible = tuple(round(1.0 - ratio, 12) for ratio in self.mask_ratios)
            object.__setattr__(self, "visible_fractions", visible)
            object.__setattr__(self, "mask_ratios", ())
        if not self.visible_fractions:
            raise UserError("visible_fractions is empty; give at least one fraction")
        _check_shares("visible_fractions", self.visible_fractions)
        unknown = set(self.cut_weights) - {STATES, RETURNS, ACTIONS}
        if unknown:
            raise UserError(f"cut_weights names {', '.join(unknown)}; use states, returns, actions")
        weights = self.cut_weights.values()
        if not all(0 <= weight < float("inf") for weight in weights) or sum(weights) <= 0:
            raise UserError("cut_weights must not be negative and must not all be zero")
        if self.per not in ("batch", "window"):
            raise UserError(f"per is {self.per!r}; use batch or window")
        self.mixture()

    def mixture(self) -> dict[str, float]:
        """Weight of each pattern. Raises UserError for one that does not exist."""
        weights: dict[str, float] = {}
        for term in self.pattern.replace(" ", "").split("+"):
            weight, star, name = term.rpartition("*")
            if name not in PATTERNS:
                raise UserError(
                    f"pattern {self.pattern!r} names {name!r}; the patterns are {', '.join(PATTERNS)}, "
                    "and mixtures such as id+autoregressive or 0.2*id+0.8*random"
                )
            try:
                weights[name] = weights.get(name, 0.0) + (float(weight) if star else 1.0)
            except ValueError:
                raise UserError(
                    f"pattern {self.pattern!r} has weight {weight!r}; use a number"
                ) from None
        if min(weights.values()) < 0 or not 0 < sum(weights.values()) < float("inf"):
            raise UserError(
                f"pattern {self.pattern!r} needs weights that are not negative, nor all zero"
            )
        return weights


def _check_shares(name: str, shares: tuple[float, ...]) -> None:
    for share in shares:
        if not 0.0 <= share <= 1.0:
            raise UserError(f"{name} has {share}; a share lies in [0, 1]")


@dataclass(frozen=True)
class _Order:
    """What a pattern is asked for."""

    config: MaskConfig
    steps: int
    tokens_per_step: TokensPerStep
    count: int
    generator: torch.Generator


def draw(
    config: MaskConfig,
    steps: int,
    tokens_per_step: TokensPerStep,
    count: int,
    generator: torch.Generator,
) -> Mask:
    """``count`` training masks of the configured pattern [count, T, P]."""
    order, mixture = _Order(config, steps, tokens_per_step, count, generator), config.mixture()
    if len(mixture) == 1:
        return PATTERNS[next(iter(mixture))](order)
    weights = torch.tensor(list(mixture.values()))
    chosen = torch.multinomial(weights, count, replacement=True, generator=generator)
    mask = {n: torch.zeros(count, steps, p, dtype=torch.bool) for n, p in tokens_per_step.items()}
    for i, name in enumerate(mixture):
        mine = (chosen == i).nonzero()[:, 0]
        if len(mine):
            for modality, tokens in PATTERNS[name](replace(order, count=len(mine))).items():
                mask[modality][mine] = tokens
    return mask


def _random(order: _Order) -> Mask:
    fractions = order.config.visible_fractions
    return random_subset(order.steps, order.tokens_per_step, fractions, order.count, order.generator)


def _autoregressive(order: _Order) -> Mask:
    mask, generator = _random(order), order.generator
    weights = [order.config.cut_weights.get(name, 0.0) for name in order.tokens_per_step]
    modality = torch.multinomial(
        torch.tensor(weights), order.count, replacement=True, generator=generator
    )
    step = torch.randint(order.steps, (order.count,), generator=generator)
    return hide_from(mask, modality, step)


def _specialised(name: str) -> Callable[[_Order], Mask]:
    """The masks of one role at every place where it is used, each as likely as another."""

    def pattern(order: _Order) -> Mask:
        masks = _role_masks(name, order.steps, tuple(order.tokens_per_step.items()))
        count = len(next(iter(masks.values())))
        chosen = torch.randint(count, (order.count,), generator=order.generator)
        return {modality: tokens[chosen] for modality, tokens in masks.items()}

    return pattern


@cache
def _role_masks(name: str, steps: int, tokens_per_step: tuple[tuple[str, int], ...]) -> Mask:
    role, sizes = ROLES[name], dict(tokens_per_step)
    masks = [
        role.mask(steps, sizes, position, ahead)
        for position in role.positions(steps)
        for ahead in (range(1, steps) if name == "waypoint" else [None])
    ]
    return {modality: torch.stack([mask[modality] for mask in masks]) for modality in sizes}


PATTERNS: dict[str, Callable[[_Order], Mask]] = {
    "autoregressive": _autoregressive,
    "random": _random,
    **{name: _specialised(name) for name in SPECIALISED},
}
