"""Minari dataset -> Ray Data -> Parquet episode shards and statistics."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
import torch
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from mtm import UserError, returns_to_go
from mtm.trajectory import ACTIONS, RETURNS, STATES
from pipeline import datasets, shards, storage
from pipeline.dag import Context
from pipeline.tracking import Reference

VERSION = 1
STEPS_PER_SHARD = 50_000


@dataclass(frozen=True)
class IngestConfig:
    """A dataset to shard."""

    dataset_id: str
    seed: int
    held_out: float
    signature: str = ""
    """Tells two states of a local dataset of the same id apart."""


@dataclass(frozen=True)
class _Source:
    """What a reading task needs to know."""

    dataset_id: str
    root: str
    horizon: int
    seed: int
    held_out: frozenset[int]


def ingest(
    context: Context, config: IngestConfig, collected: Reference | None = None
) -> dict[str, Any]:
    """Shard the dataset; facts about it for the stages after this one.

    A dataset that was not collected here is looked for in the data root ``context.resources``.
    """
    storage.delete(context.uri)
    if collected is None:
        return _ingest(context, config, context.resources)
    with storage.local_copy(collected.uri) as root:
        return _ingest(context, config, root)


def _ingest(context: Context, config: IngestConfig, root: str) -> dict[str, Any]:
    with datasets.minari_root(root):
        dataset = datasets.open_dataset(config.dataset_id)
    facts = _describe(dataset, config.dataset_id)
    held_out = shards.held_out_episodes(config.seed, facts["episodes"], config.held_out)
    source = _Source(config.dataset_id, root, facts["horizon"], config.seed, frozenset(held_out))
    count = max(1, facts["transitions"] // STEPS_PER_SHARD)
    _write(context, source, facts["episodes"], min(count, facts["episodes"]))
    widths = {STATES: facts["state_dim"], ACTIONS: facts["action_dim"], "rewards": 1}
    _check_finite(context.uri, config.dataset_id, widths)
    facts |= _statistics(context.uri)
    facts["shards"] = len(storage.files(context.uri))
    storage.write(storage.join(context.uri, "facts.json"), json.dumps(facts, indent=2).encode())
    return facts


def _describe(dataset: Any, dataset_id: str) -> dict[str, Any]:
    """Sizes, environment and reference scores; UserError where the data are of no use here."""
    from gymnasium.spaces import Box

    observation, action = dataset.observation_space, dataset.action_space
    for name, space in (("observations", observation), ("actions", action)):
        if not isinstance(space, Box) or len(space.shape) != 1:
            raise UserError(
                f"dataset {dataset_id} has {name} in {space}; only vectors of real numbers can be used"
            )
    if dataset.total_episodes == 0 or dataset.total_steps == 0:
        raise UserError(f"dataset {dataset_id} is empty; use one with at least 2 episodes")
    metadata = dataset.storage.metadata
    spec = dataset.env_spec
    if metadata.get("eval_env_spec"):
        with datasets.environment_errors(dataset_id):
            spec = dataset.recover_environment(eval_env=True).spec
    known = datasets.reference_returns(spec.id if spec else None) or (None, None)
    longest = max(
        m["total_steps"] for m in dataset.storage.get_episode_metadata(dataset.episode_indices)
    )
    return {
        "dataset_id": dataset_id,
        "episodes": int(dataset.total_episodes),
        "transitions": int(dataset.total_steps),
        "state_dim": int(observation.shape[0]),
        "action_dim": int(action.shape[0]),
        "horizon": int(max((spec.max_episode_steps if spec else None) or 0, longest)),
        "env_spec": spec.to_json() if spec else None,
        "ref_min_score": metadata.get("ref_min_score", known[0]),
        "ref_max_score": metadata.get("ref_max_score", known[1]),
    }


class _ReadEpisodes:
    """Episodes by index, as rows of a shard."""

    def __init__(self, source: _Source):
        self.source = source

    def __call__(self, batch: dict[str, np.ndarray]) -> pa.Table:
        with datasets.minari_root(self.source.root):
            dataset = datasets.open_dataset(self.source.dataset_id)
            episodes = dataset.iterate_episodes(batch["id"])
            return shards.table([self._row(episode) for episode in episodes])

    def _row(self, episode: Any) -> shards.EpisodeRow:
        steps = len(episode.rewards)
        values = {
            # The last observation has no action, reward or return of its own.
            STATES: np.asarray(episode.observations[:steps], dtype=np.float32),
            ACTIONS: np.asarray(episode.actions, dtype=np.float32),
            "rewards": np.asarray(episode.rewards, dtype=np.float32),
        }
        rewards = torch.from_numpy(np.array(episode.rewards, dtype=np.float64))
        values[RETURNS] = returns_to_go(rewards, self.source.horizon).numpy()
        index = int(episode.id)
        return shards.EpisodeRow(
            episode_id=index,
            split=shards.HELD_OUT if index in self.source.held_out else shards.TRAIN,
            u=shards.uniform(self.source.seed, index, "fraction"),
            tensors=values,
        )


def _write(context: Context, source: _Source, episodes: int, count: int) -> None:
    """The shards, ``count`` of them, each read and written by one Ray Data task."""
    system, path = storage.resolve(context.uri)
    system.create_dir(path, recursive=True)
    rows = ray.data.range(episodes, override_num_blocks=count)
    # The dataset lies on this machine, be it the user's or a copy from the storage.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    tables = rows.map_batches(
        _ReadEpisodes(source), batch_size=None, batch_format="numpy", scheduling_strategy=here
    )
    context.progress(0, count, f"{episodes} episodes to {count} shards")
    tables.write_parquet(path, filesystem=system)
    context.progress(count, count)


def _check_finite(uri: str, dataset_id: str, widths: dict[str, int]) -> None:
    """Raises UserError, which says where, for a value that is not finite; then nothing is kept."""
    for name in storage.files(uri):
        system, path = storage.resolve(storage.join(uri, name))
        shard = pq.read_table(path, filesystem=system)
        ends = np.cumsum(shard["length"].to_numpy())
        for column, width in widths.items():
            values = shard[column].combine_chunks().flatten().to_numpy()
            bad = np.flatnonzero(~np.isfinite(values))
            if len(bad):
                row = int(np.searchsorted(ends, bad[0] // width, side="right"))
                step = int(bad[0] // width - (ends[row - 1] if row else 0))
                episode = shard["episode_id"][row].as_py()
                storage.delete(uri)
                raise UserError(
                    f"dataset {dataset_id}, episode {episode}, step {step}: {column} has a value that "
                    "is not finite; mend or drop the episode"
                )


def _statistics(uri: str) -> dict[str, Any]:
    """Returns and lengths of the training episodes."""
    system, path = storage.resolve(uri)
    rows = pq.read_table(path, filesystem=system, columns=["split", "length", "episode_return"])
    train = rows.filter(pa.array(rows["split"].to_numpy(zero_copy_only=False) == shards.TRAIN))
    returns = train["episode_return"].to_numpy()
    return {
        "train_episodes": train.num_rows,
        "held_out_episodes": rows.num_rows - train.num_rows,
        "train_transitions": int(train["length"].to_numpy().sum()),
        "return_mean": float(returns.mean()),
        "return_std": float(returns.std()),
        "return_min": float(returns.min()),
        "return_max": float(returns.max()),
    }
