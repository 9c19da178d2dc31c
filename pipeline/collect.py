"""Roll out the shipped behaviour policies into a Minari dataset."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import minari
import numpy as np
import ray
from minari.data_collector import EpisodeBuffer

from pipeline import datasets, storage
from pipeline.behaviour.policy import BehaviourPolicy
from pipeline.dag import Context
from pipeline.environments import log_mujoco_warnings, make_env

VERSION = 1
CHUNK = 10_000
"""Transitions of one rollout task. Fixed, so that a dataset is the same on any number of cores."""


@dataclass(frozen=True)
class CollectConfig:
    """A dataset to roll out."""

    dataset_id: str
    transitions: int
    seed: int
    weights: str
    """Digest of the behaviour policies' files."""


@dataclass(frozen=True)
class _Chunk:
    policy: BehaviourPolicy
    transitions: int
    seed: tuple[int, int]


@ray.remote(num_cpus=1)
def _rollout(chunk: _Chunk) -> list[dict[str, Any]]:
    """Whole episodes until there are enough transitions, as arrays."""
    env = make_env(chunk.policy.facts["env_id"])
    space: Any = env.action_space
    rng = np.random.default_rng(chunk.seed)
    episodes, collected = [], 0
    while collected < chunk.transitions:
        seed = int(rng.integers(2**31))
        obs = [env.reset(seed=seed)[0]]
        actions, rewards, ends = [], [], [(False, False)]
        while not any(ends[-1]):
            action = chunk.policy.act(obs[-1][None], rng, space.low, space.high)[0]
            after, reward, terminated, truncated, _ = env.step(action)
            obs.append(after)
            actions.append(action)
            rewards.append(float(reward))
            ends.append((terminated, truncated))
        terminations, truncations = np.array(ends[1:]).T
        episodes.append(
            {
                "seed": seed,
                "observations": np.array(obs),
                "actions": np.array(actions),
                "rewards": np.array(rewards),
                "terminations": terminations,
                "truncations": truncations,
            }
        )
        collected += len(actions)
    env.close()
    return episodes


def _chunks(config: CollectConfig) -> list[_Chunk]:
    """Tasks of at most CHUNK transitions; every behaviour policy has an equal share."""
    policies = [BehaviourPolicy.load(path) for path in datasets.behaviour_weights(config.dataset_id)]
    chunks: list[_Chunk] = []
    for policy in policies:
        left = -(-config.transitions // len(policies))
        while left > 0:
            chunks.append(_Chunk(policy, min(left, CHUNK), (config.seed, len(chunks))))
            left -= CHUNK
    return chunks


def collect(context: Context, config: CollectConfig) -> dict[str, Any]:
    """Write the Minari dataset below ``context.uri``, which is then a Minari data root."""
    chunks = _chunks(config)
    futures = [_rollout.remote(chunk) for chunk in chunks]
    episodes: list[dict[str, Any]] = []
    for done, future in enumerate(futures):
        episodes += ray.get(future)
        context.progress(done + 1, len(futures), "rolling out")
    log_mujoco_warnings()
    buffers = [EpisodeBuffer(id=i, **episode) for i, episode in enumerate(episodes)]
    facts = chunks[0].policy.facts
    low, high = datasets.reference_returns(facts["env_id"]) or (None, None)
    storage.delete(context.uri)
    with storage.local_folder_for(context.uri) as folder, datasets.minari_root(folder):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            minari.create_dataset_from_buffers(
                config.dataset_id,
                buffers,
                env=facts["env_id"],
                algorithm_name=facts["algorithm"],
                author="MTM Pipeline",
                author_email="none",
                code_permalink="none",
                ref_min_score=low,
                ref_max_score=high,
                description=f"Rolled out with seed {config.seed} from {len(chunks)} chunks.",
                requirements=["gymnasium[mujoco]>=1.4"],
            )
        size = sum(p.stat().st_size for p in Path(folder).rglob("*") if p.is_file())
    returns = np.array([episode["rewards"].sum() for episode in episodes])
    return {
        "dataset_id": config.dataset_id,
        "episodes": len(episodes),
        "transitions": int(sum(len(episode["rewards"]) for episode in episodes)),
        "return_mean": float(returns.mean()),
        "return_std": float(returns.std()),
        "megabytes": round(size / 1e6, 1),
    }
