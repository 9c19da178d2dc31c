"""Modalities and batches.

Shape letters, used in every docstring of this package:

    B   windows in a batch
    T   timesteps in a window
    P   tokens a modality has at one timestep (1 for continuous data)
    D   features of one token before the linear embedding
    N   tokens of all modalities in a window, sum of T * P, modality after modality
    W   width of the transformer
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mtm.errors import UserError

Batch = dict[str, torch.Tensor]
"""Raw values [B, T, dim] by modality name, float32."""

STATES, RETURNS, ACTIONS = "states", "returns", "actions"


@dataclass(frozen=True)
class Modality:
    """One of the parallel sequences that make up a trajectory."""

    name: str
    dim: int
    bins: int = 0
    """Uniform bins of each dimension; 0: continuous."""

    def __post_init__(self) -> None:
        if self.dim < 1:
            raise UserError(f"modality {self.name!r} has {self.dim} dimensions; at least 1 is needed")
        if self.bins < 0 or self.bins == 1:
            raise UserError(
                f"{self.name} has {self.bins} bins; use at least 2, or 0 for continuous tokens"
            )


@dataclass(frozen=True)
class TokenizerConfig:
    """Uniform bins by modality (the paper's for discrete data: 512, 32, 512); 0: continuous tokens."""

    states: int = 0
    """Bins of each state dimension."""
    returns: int = 0
    """Bins of the return-to-go."""
    actions: int = 0
    """Bins of each action dimension."""

    def __post_init__(self) -> None:
        standard_modalities(1, 1, self)


def standard_modalities(
    state_dim: int, action_dim: int, tokenizer: TokenizerConfig | None = None
) -> tuple[Modality, ...]:
    """States, returns-to-go and actions, in their order within a timestep."""
    bins = tokenizer or TokenizerConfig()
    return (
        Modality(STATES, state_dim, bins.states),
        Modality(RETURNS, 1, bins.returns),
        Modality(ACTIONS, action_dim, bins.actions),
    )


def returns_to_go(rewards: torch.Tensor, horizon: int) -> torch.Tensor:
    """Average reward over the rest of the horizon [T], as the reference implementation has it.

    The sum of rewards strictly after t (zeros after the episode's end), over the steps left,
    ``horizon - t``. ``rewards`` [T]; raises UserError where the episode outlasts the horizon.
    """
    steps = len(rewards)
    if steps > horizon:
        raise UserError(f"an episode of {steps} steps is longer than the horizon of {horizon}")
    rewards = rewards.double()
    after = rewards.flip(0).cumsum(0).flip(0) - rewards
    return (after / (horizon - torch.arange(steps, dtype=torch.float64))).float()
