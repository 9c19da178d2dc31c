"""Train the behaviour policies that ship with this package.

    pip install -e '.[behaviour]'
    python -m pipeline.behaviour.train train --env hopper --out runs/behaviour
    python -m pipeline.behaviour.train select --env hopper --out runs/behaviour

``train`` writes a snapshot every few thousand environment steps, each scored over 20 episodes.
``select`` ships three kinds of them into ``pipeline/behaviour/weights``: the best (``expert``),
the one nearest to half the expert's return (``medium``), and up to ten from the earliest to the
medium one (``replay-00`` ...), which together stand for a replay buffer.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pipeline.behaviour.policy import BehaviourPolicy

WEIGHTS = Path(__file__).parent / "weights"
ENV_IDS = {"hopper": "Hopper-v5", "walker2d": "Walker2d-v5", "halfcheetah": "HalfCheetah-v5"}
EnvName = Literal["hopper", "walker2d", "halfcheetah"]


@dataclass(frozen=True)
class Train:
    """Train one policy and write its snapshots."""

    env: EnvName
    """Environment."""
    out: Path
    """Folder for snapshots; one subfolder an environment."""
    algorithm: Literal["trpo", "sac"] = "trpo"
    """TRPO is the quickest on Hopper and Walker2d; HalfCheetah wants SAC."""
    steps: int = 400_000
    """Environment steps."""
    every: int = 20_480
    """Environment steps between snapshots."""
    seed: int = 0
    """Seed of the algorithm and its environments."""


@dataclass(frozen=True)
class Select:
    """Ship an expert, a medium and the replay snapshots of a finished training."""

    env: EnvName
    """Environment."""
    out: Path
    """Folder that ``train`` wrote to."""
    replay: int = 10
    """Number of replay snapshots."""


def export(model: Any, algorithm: str, env_id: str, steps: int, seed: int) -> BehaviourPolicy:
    """The acting part of an SB3 model as a ``BehaviourPolicy``."""
    import torch

    vec = model.get_vec_normalize_env()
    tensors = {
        "obs.mean": vec.obs_rms.mean,
        "obs.std": np.sqrt(vec.obs_rms.var + vec.epsilon),
    }
    if algorithm == "trpo":
        trunk, mean = model.policy.mlp_extractor.policy_net, model.policy.action_net
        tensors["log_std"] = model.policy.log_std.detach().numpy()
    else:
        trunk, mean = model.actor.latent_pi, model.actor.mu
        tensors["log_std.weight"] = model.actor.log_std.weight.detach().numpy()
        tensors["log_std.bias"] = model.actor.log_std.bias.detach().numpy()
    linears = [m for m in trunk if isinstance(m, torch.nn.Linear)]
    for name, layer in [*((f"layers.{i}", m) for i, m in enumerate(linears)), ("mean", mean)]:
        tensors[f"{name}.weight"] = layer.weight.detach().numpy()
        tensors[f"{name}.bias"] = layer.bias.detach().numpy()
    facts = {
        "env_id": env_id,
        "algorithm": algorithm.upper(),
        "steps": steps,
        "seed": seed,
        "activation": "tanh" if algorithm == "trpo" else "relu",
        "squash": algorithm == "sac",
    }
    return BehaviourPolicy({k: np.array(v, dtype=np.float32) for k, v in tensors.items()}, facts)


def score(policy: BehaviourPolicy, episodes: int = 20, seed: int = 10_000) -> dict[str, float]:
    """Undiscounted returns over ``episodes`` episodes, actions sampled and actions at the mean."""
    import gymnasium

    result: dict[str, float] = {}
    for name, noise in (("sampled", True), ("mean_action", False)):
        envs = gymnasium.make_vec(
            policy.facts["env_id"], num_envs=episodes, vectorization_mode="sync"
        )
        space = envs.single_action_space
        rng = np.random.default_rng(seed) if noise else None
        obs, _ = envs.reset(seed=seed)
        total, alive = np.zeros(episodes), np.ones(episodes, dtype=bool)
        while alive.any():
            action = policy.act(obs, rng, space.low, space.high)  # type: ignore[attr-defined]
            obs, reward, terminated, truncated, _ = envs.step(action)
            total += reward * alive
            alive &= ~(terminated | truncated)
        envs.close()
        result |= {f"{name}_return_mean": total.mean(), f"{name}_return_std": total.std()}
    return {k: round(float(v), 1) for k, v in result.items()}


def train(config: Train) -> None:
    import torch
    from sb3_contrib import TRPO
    from stable_baselines3 import SAC
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.vec_env import VecNormalize

    torch.set_num_threads(1)
    env_id, out = ENV_IDS[config.env], config.out / config.env
    out.mkdir(parents=True, exist_ok=True)
    if config.algorithm == "trpo":
        env = VecNormalize(make_vec_env(env_id, n_envs=2, seed=config.seed))
        model: Any = TRPO(
            "MlpPolicy",
            env,
            n_steps=1024,
            cg_max_steps=25,
            n_critic_updates=20,
            target_kl=0.04,
            sub_sampling_factor=1,
            seed=config.seed,
        )
    else:
        env = VecNormalize(make_vec_env(env_id, n_envs=1, seed=config.seed), norm_reward=False)
        model = SAC(
            "MlpPolicy",
            env,
            learning_starts=10_000,
            policy_kwargs={"net_arch": {"pi": [128, 128], "qf": [256, 256]}},
            seed=config.seed,
        )
    start = time.monotonic()
    while model.num_timesteps < config.steps:
        model.learn(config.every, reset_num_timesteps=False)
        policy = export(model, config.algorithm, env_id, model.num_timesteps, config.seed)
        policy.facts.update(score(policy))
        policy.save(out / f"{model.num_timesteps:09d}.safetensors")
        print(f"{time.monotonic() - start:7.0f} s  {json.dumps(policy.facts)}", flush=True)


def select(config: Select) -> None:
    snapshots = [
        BehaviourPolicy.load(path) for path in sorted((config.out / config.env).glob("*.safetensors"))
    ]
    returns = np.array([p.facts["sampled_return_mean"] for p in snapshots])
    expert = int(returns.argmax())
    medium = int(np.abs(returns[:expert] - returns[expert] / 2).argmin())
    chosen = {"expert": expert, "medium": medium}
    indices = np.unique(np.linspace(0, medium, config.replay).round().astype(int))
    chosen |= {f"replay-{i:02d}": int(index) for i, index in enumerate(indices)}
    for name, index in chosen.items():
        snapshots[index].save(WEIGHTS / f"{config.env}-{name}.safetensors")
        print(name, json.dumps(snapshots[index].facts))


if __name__ == "__main__":
    import tyro

    command = tyro.cli(Train | Select)  # type: ignore[arg-type]
    train(command) if isinstance(command, Train) else select(command)
