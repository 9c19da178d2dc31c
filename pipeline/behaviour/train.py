"""Train the behaviour policies that ship with this package.

    pip install -e '.[behaviour]'
    python -m pipeline.behaviour.train train --env hopper --out runs/behaviour
    python -m pipeline.behaviour.train select --env hopper --out runs/behaviour
    python -m pipeline.behaviour.train table

``train`` writes a snapshot every few thousand environment steps, each scored over 20 episodes.
``select`` ships three kinds of them into ``pipeline/behaviour/weights``: the best (``expert``),
the first to reach half the expert's return (``medium``), and ten from the earliest to the medium
one (``replay-00`` ...), which together stand for a replay buffer. Medium and replay policies act
with the noise they were trained with; the expert acts with half of it, for with all of it TRPO's
Hopper falls in every other episode.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pipeline.behaviour.policy import BehaviourPolicy
from pipeline.environments import log_mujoco_warnings, make_env

WEIGHTS = Path(__file__).parent / "weights"
EXPERT_NOISE = 0.5
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
    every: int = 8_192
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


@dataclass(frozen=True)
class Table:
    """Print the shipped policies as the Markdown table of docs/BEHAVIOUR.md."""


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
        "noise": 1.0,
    }
    return BehaviourPolicy({k: np.array(v, dtype=np.float32) for k, v in tensors.items()}, facts)


def scored(policy: BehaviourPolicy, noise: float, episodes: int = 20) -> BehaviourPolicy:
    """The same policy acting with ``noise``, with its undiscounted returns among its facts."""
    policy = BehaviourPolicy(policy.tensors, {**policy.facts, "noise": noise})
    envs = [make_env(policy.facts["env_id"]) for _ in range(episodes)]
    space: Any = envs[0].action_space
    rng = np.random.default_rng(10_000)
    obs = np.stack([env.reset(seed=10_000 + i)[0] for i, env in enumerate(envs)])
    returns, running = np.zeros(episodes), np.ones(episodes, dtype=bool)
    while running.any():
        actions = policy.act(obs, rng, space.low, space.high)
        for i in np.flatnonzero(running):
            obs[i], reward, terminated, truncated, _ = envs[i].step(actions[i])
            returns[i] += float(reward)
            running[i] = not (terminated or truncated)
    policy.facts["return_mean"] = round(float(returns.mean()), 1)
    policy.facts["return_std"] = round(float(returns.std()), 1)
    policy.facts["return_episodes"] = episodes
    return policy


def train(config: Train) -> None:
    import torch
    from sb3_contrib import TRPO
    from stable_baselines3 import SAC
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.vec_env import VecNormalize

    torch.set_num_threads(1)
    log_mujoco_warnings()
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
        policy = scored(policy, noise=1.0)
        policy.save(out / f"{model.num_timesteps:09d}.safetensors")
        print(f"{time.monotonic() - start:7.0f} s  {json.dumps(policy.facts)}", flush=True)


def select(config: Select) -> None:
    paths = sorted((config.out / config.env).glob("*.safetensors"))
    snapshots = [BehaviourPolicy.load(path) for path in paths]
    experts = [scored(snapshot, noise=EXPERT_NOISE) for snapshot in snapshots]
    best = max(range(len(experts)), key=lambda i: experts[i].facts["return_mean"])
    half = experts[best].facts["return_mean"] / 2
    snapshots = [scored(snapshot, noise=1.0) for snapshot in snapshots[:best]]
    medium = next(i for i in range(best) if snapshots[i].facts["return_mean"] >= half)
    chosen = {"expert": experts[best], "medium": snapshots[medium]}
    early_to_medium = np.unique(np.linspace(0, medium, config.replay).round().astype(int))
    chosen |= {f"replay-{i:02d}": snapshots[index] for i, index in enumerate(early_to_medium)}
    for name, policy in chosen.items():
        policy.save(WEIGHTS / f"{config.env}-{name}.safetensors")
        print(name, json.dumps(policy.facts), flush=True)


def table() -> str:
    """A row a shipped policy: where it comes from, and its returns over 20 episodes."""
    rows = [
        "| policy | environment | algorithm | steps | seed | noise | return over 20 episodes |",
        "|---|---|---|--:|--:|--:|--:|",
    ]
    for path in sorted(WEIGHTS.glob("*.safetensors")):
        f = BehaviourPolicy.load(path).facts
        rows.append(
            f"| {path.stem} | {f['env_id']} | {f['algorithm']} | {f['steps']:,} | {f['seed']} "
            f"| {f['noise']:g} | {f['return_mean']:,.0f} ± {f['return_std']:,.0f} |"
        )
    return "\n".join(rows)


if __name__ == "__main__":
    import tyro

    command: Train | Select | Table = tyro.cli(Train | Select | Table)  # type: ignore[arg-type]
    match command:
        case Train():
            train(command)
        case Select():
            select(command)
        case Table():
            print(table())
