"""Play a learner in its environment, all roles, targets and episodes together; held-out errors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import gymnasium
import numpy as np
import pandas as pd
import ray
import torch
from gymnasium.envs.registration import EnvSpec

from mtm import Learner, WindowSampler, checkpoint, held_out_error, open_loop_error
from mtm.roles import ROLES
from pipeline import shards, storage
from pipeline.dag import Context
from pipeline.environments import make_env
from pipeline.pretrain import error_window
from pipeline.tracking import Reference

VERSION = 2
ROWS = "episodes.parquet"


@dataclass(frozen=True)
class EvaluateStage:
    """What determines the scores."""

    episodes: int
    roles: tuple[str, ...]
    targets: tuple[float, ...]
    shards: int
    seed: int
    error_windows: int
    open_loop_steps: int


@dataclass(frozen=True)
class Setting:
    """A role with its return target (NaN where it has none)."""

    role: str
    target: float


def settings(learner: Learner, config: EvaluateStage) -> list[Setting]:
    """All that a learner plays: its acting roles, those that take a return with every target."""
    return [
        Setting(role, target)
        for role in learner.roles
        if role in config.roles and ROLES[role].played
        for target in (config.targets if ROLES[role].conditioned else (float("nan"),))
    ]


def evaluate(
    context: Context, config: EvaluateStage, ingested: Reference, trained: Reference
) -> dict[str, Any]:
    """Score the last and the best checkpoint; one Parquet row an episode, errors among the facts."""
    contents = {
        name: storage.read(storage.join(trained.uri, f"{name}.safetensors"))
        for name in ("last", "best")
    }
    if trained.facts["best_step"] == trained.facts["step"]:
        del contents["best"]  # they are the same weights
    learners = {name: checkpoint.from_bytes(content, name)[0] for name, content in contents.items()}
    playing: dict[str, Any] = {}
    if ingested.facts["env_spec"] is not None and settings(learners["last"], config):
        arguments = (config, ingested.facts["env_spec"], context.progress)
        playing = {name: _play(content, *arguments) for name, content in contents.items()}
    facts: dict[str, Any] = {"checkpoints": sorted(contents)}
    for name, learner in learners.items():
        facts |= {f"{name}.{k}": v for k, v in _errors(learner, config, ingested).items()}
    for name in contents:
        errors = facts.get(f"{name}.open_loop_errors", [])
        context.run.log_series(f"{name}.open_loop_error", dict(enumerate(errors, start=1)))
    if playing:
        frames = [
            frame.assign(checkpoint=name) for name, played in playing.items() for frame in played()
        ]
        rows = _finish(pd.concat(frames, ignore_index=True), config, ingested.facts)
        content = rows.to_parquet(index=False)
        storage.write(storage.join(context.uri, ROWS), content)
        context.run.log_bytes(content, ROWS)
        facts |= _metrics(rows)
    return facts


def _errors(learner: Learner, config: EvaluateStage, ingested: Reference) -> dict[str, Any]:
    """Held-out errors, in normalised units, of the roles that are not played."""
    roles = [role for role in learner.roles if role in config.roles and not ROLES[role].played]
    if not roles:
        return {}
    held_out = shards.load(ingested, shards.HELD_OUT).values
    sampler = WindowSampler(held_out, error_window(learner))
    batches = list(sampler.evenly(config.error_windows, 1024))
    errors: dict[str, Any] = {f"{role}_error": held_out_error(learner, role, batches) for role in roles}
    if "fd" in roles:
        longest = max(len(next(iter(episode.values()))) for episode in held_out)
        windows = WindowSampler(held_out, min(config.open_loop_steps + 1, longest))
        # Overlapping windows say little more: an eighth of them costs less and is as sharp.
        several = windows.evenly(max(1, config.error_windows // 8), 512)
        errors["open_loop_errors"] = open_loop_error(learner, list(several)).tolist()
    return errors


def _play(
    content: bytes, config: EvaluateStage, env_spec: str, progress: Any
) -> Callable[[], list[pd.DataFrame]]:
    """Start all rollouts of a checkpoint: in this process where they are one shard, else as Ray tasks."""
    if config.shards == 1:
        return lambda: [_rollouts(content, config, 0, env_spec, progress)]
    task = ray.remote(num_cpus=1)(_rollouts)
    futures = [task.remote(content, config, i, env_spec, progress) for i in range(config.shards)]
    return lambda: ray.get(futures)


def _rollouts(
    content: bytes, config: EvaluateStage, shard: int, env_spec: str, progress: Any
) -> pd.DataFrame:
    """One shard's episodes of every setting, stepped together."""
    torch.set_num_threads(1)
    learner, _ = checkpoint.from_bytes(content, "the checkpoint")
    tried = settings(learner, config)
    seeds = [config.seed + i for i in range(config.episodes) if i % config.shards == shard]
    plan = [(setting, seed) for setting in tried for seed in seeds]
    envs = [make_env(EnvSpec.from_json(env_spec)) for _ in plan]
    returns, lengths = rollout(
        learner, [s for s, _ in plan], envs, [seed for _, seed in plan], progress
    )
    for env in envs:
        env.close()
    return pd.DataFrame(
        {
            "role": [s.role for s, _ in plan],
            "target": [s.target for s, _ in plan],
            "seed": [seed for _, seed in plan],
            "return": returns,
            "length": lengths,
        }
    )


def rollout(
    learner: Learner,
    plan: list[Setting],
    envs: list[gymnasium.Env],
    seeds: list[int],
    progress: Any = lambda *_: None,
) -> tuple[np.ndarray, np.ndarray]:
    """Undiscounted returns and lengths [N] of one episode in each environment.

    All environments step together with one forward pass for each role; one that has ended is no
    longer stepped.
    """
    count = len(envs)
    roles = np.array([setting.role for setting in plan])
    targets = np.nan_to_num(np.array([setting.target for setting in plan], dtype=np.float32))
    policies = {role: learner.policy(role, count, targets) for role in dict.fromkeys(roles)}
    obs = np.stack([env.reset(seed=seed)[0] for env, seed in zip(envs, seeds, strict=True)])
    space: Any = envs[0].action_space
    returns, lengths = np.zeros(count), np.zeros(count, dtype=np.int64)
    running = np.ones(count, dtype=bool)
    actions = np.zeros((count, *space.shape), dtype=space.dtype)
    while running.any():
        for role, policy in policies.items():
            mine = np.flatnonzero(running & (roles == role))
            if len(mine):
                actions[mine] = policy.act(obs[mine], mine)
        np.clip(actions, space.low, space.high, out=actions)
        for i in np.flatnonzero(running):
            obs[i], reward, terminated, truncated, _ = envs[i].step(actions[i])
            returns[i] += float(reward)
            lengths[i] += 1
            running[i] = not (terminated or truncated)
        progress(count - running.sum(), count, f"{running.sum()} of {count} episodes running")
    return returns, lengths


def _finish(rows: pd.DataFrame, config: EvaluateStage, facts: dict[str, Any]) -> pd.DataFrame:
    """Normalised scores, and which half an episode is in: one chooses the target, one is reported."""
    rows["half"] = np.where((rows["seed"] - config.seed) < config.episodes // 2, "selection", "report")
    rows["score"] = normalised_score(rows["return"].to_numpy(), facts)
    return rows.sort_values(["checkpoint", "role", "target", "seed"], ignore_index=True)


def normalised_score(returns: np.ndarray, facts: dict[str, Any]) -> np.ndarray:
    """100 for the expert, 0 for a random policy, by Minari's function; NaN without reference returns."""
    from minari import get_normalized_score

    if facts["ref_min_score"] is None or facts["ref_max_score"] is None:
        return np.full_like(returns, np.nan)
    dataset = SimpleNamespace(storage=SimpleNamespace(metadata=facts))
    return 100.0 * get_normalized_score(dataset, returns)  # type: ignore[arg-type]


def chosen_targets(rows: pd.DataFrame) -> pd.DataFrame:
    """Reported rows: for each checkpoint and role those of the best target on the selection half.

    The reported episodes have other seeds than those that chose the target.
    """
    kept = []
    for _, group in rows.groupby(["checkpoint", "role"]):
        report = group[group["half"] == "report"]
        if group["target"].notna().any():
            selection = group[group["half"] == "selection"]
            best = selection.groupby("target")["return"].mean().idxmax()
            report = report[report["target"] == best]
        kept.append(report)
    return pd.concat(kept, ignore_index=True)


def _metrics(rows: pd.DataFrame) -> dict[str, float]:
    """Mean returns for the stage's run."""
    reported = chosen_targets(rows)
    means = reported.groupby(["checkpoint", "role"])["return"].mean()
    return {f"{name}.{role}_return": float(value) for (name, role), value in means.items()}
