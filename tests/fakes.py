"""Small trajectories and learners, made from nothing but dimensions and a seed."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import gymnasium
import minari
import numpy as np
import torch
from minari.data_collector import EpisodeBuffer

from mtm import (
    MaskConfig,
    ModelConfig,
    MTMLearner,
    TokenizerConfig,
    WindowSampler,
    returns_to_go,
    standard_modalities,
)
from mtm.trajectory import Batch
from pipeline import datasets

STATE_DIM, ACTION_DIM, HORIZON = 5, 2, 50
MODALITIES = standard_modalities(STATE_DIM, ACTION_DIM)
BINS = TokenizerConfig(states=16, returns=8, actions=12)
"""Discrete tokens; a modality then has as many a timestep as it has dimensions."""


def episodes(count: int = 6, steps: int = 30, seed: int = 0) -> list[Batch]:
    """Episodes of a random linear system under a linear policy, so that there is something to learn."""
    generator = torch.Generator().manual_seed(seed)
    gain = 0.5 * torch.randn(STATE_DIM, ACTION_DIM, generator=generator)
    dynamics = 0.9 * torch.linalg.qr(torch.randn(STATE_DIM, STATE_DIM, generator=generator))[0]
    made = []
    for _ in range(count):
        state, states, actions = torch.randn(STATE_DIM, generator=generator), [], []
        for _ in range(steps):
            action = torch.tanh(state @ gain)
            states.append(state)
            actions.append(action)
            state = state @ dynamics + 0.3 * action @ gain.T
        rewards = torch.stack(states).square().sum(1)
        made.append(
            {
                "states": torch.stack(states),
                "returns": returns_to_go(rewards, HORIZON)[:, None],
                "actions": torch.stack(actions),
            }
        )
    return made


def mtm_learner(
    dropout: float = 0.0,
    width: int = 32,
    window: int = 4,
    mask: MaskConfig | None = None,
    tokenizer: TokenizerConfig | None = None,
    data: list[Batch] | None = None,
) -> MTMLearner:
    """A small initialised MTM with statistics of ``data``, by default of ``episodes()``."""
    data = episodes() if data is None else data
    sizes = data[0]["states"].shape[1], data[0]["actions"].shape[1]
    config = ModelConfig(width=width, heads=4, dropout=dropout, window=window)
    learner = MTMLearner(standard_modalities(*sizes, tokenizer), config, mask or MaskConfig())
    learner.initialise(torch.Generator().manual_seed(0))
    learner.tokenizer.fit(joined(data))
    return learner


def joined(data: list[Batch]) -> Batch:
    """All steps of all episodes [steps, dim]."""
    return {name: torch.cat([episode[name] for episode in data]) for name in data[0]}


def sampler(window: int = 4, **kwargs: int) -> WindowSampler:
    return WindowSampler(episodes(**kwargs), window)


def windows(count: int, window: int = 4) -> Batch:
    """The first raw windows [B, T, dim] of ``episodes()``."""
    return sampler(window).windows(torch.arange(count))


def point_mass_episodes(count: int = 40, steps: int = 40, seed: int = 0) -> list[Batch]:
    """A point in the plane that each action moves by itself, and that wanders without a purpose."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for _ in range(count):
        actions = [0.5 * torch.randn(2, generator=generator)]
        while len(actions) < steps:
            noise = torch.randn(2, generator=generator)
            actions.append((0.8 * actions[-1] + 0.3 * noise).clamp(-1, 1))
        moved = torch.stack(actions)
        states = torch.randn(2, generator=generator) + moved.cumsum(0) - moved
        made.append({"states": states, "returns": torch.zeros(steps, 1), "actions": moved})
    return made


def pendulum_dataset(
    root: Path, dataset_id: str, episodes: int = 12, steps: int = 60, spoil: Any = None
) -> str:
    """A real Minari dataset of InvertedPendulum-v5 under a linear controller with noise.

    ``spoil`` may change an episode's arrays before they are written.
    """
    env = gymnasium.make("InvertedPendulum-v5")
    rng = np.random.default_rng(0)
    buffers = []
    for index in range(episodes):
        obs = [env.reset(seed=index)[0]]
        actions, rewards = [], []
        for _ in range(steps):
            control = obs[-1] @ np.array([1.0, 10.0, 1.0, 2.0]) + 0.3 * rng.standard_normal()
            actions.append(np.clip([control], -3, 3).astype(np.float32))
            after, reward, *_ = env.step(actions[-1])
            obs.append(after)
            rewards.append(float(reward) - 0.1 * abs(float(after[0])))
        episode = {
            "observations": np.array(obs),
            "actions": np.array(actions),
            "rewards": np.array(rewards),
            "terminations": np.zeros(steps, dtype=bool),
            "truncations": np.arange(steps) == steps - 1,
        }
        if spoil is not None:
            spoil(index, episode)
        buffers.append(EpisodeBuffer(id=index, **episode))
    with warnings.catch_warnings(), datasets.minari_root(str(root)):
        warnings.simplefilter("ignore")
        minari.create_dataset_from_buffers(dataset_id, buffers, env="InvertedPendulum-v5")
    return dataset_id
