"""Episode shards: Parquet, one row an episode; how they are written and read."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from mtm import UserError
from mtm.trajectory import ACTIONS, RETURNS, STATES, Batch
from pipeline import storage
from pipeline.tracking import Reference, damaged_file

TENSORS = (STATES, ACTIONS, "rewards", RETURNS)
TRAIN, HELD_OUT = "train", "held_out"


def uniform(seed: int, episode: int, purpose: str) -> float:
    """A draw in [0, 1) that depends on nothing else, so that it is the same everywhere and always."""
    digest = hashlib.blake2b(f"{purpose}:{seed}:{episode}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def held_out_episodes(seed: int, episodes: int, share: float) -> set[int]:
    """The held-out episodes: those with the smallest draws, at least one and not all."""
    if episodes < 2:
        raise UserError(f"the dataset has {episodes} episodes; at least 2 are needed, one is held out")
    count = min(max(1, round(share * episodes)), episodes - 1)
    return set(sorted(range(episodes), key=lambda i: uniform(seed, i, "held_out"))[:count])


@dataclass(frozen=True)
class EpisodeRow:
    """One episode, as it stands in a shard."""

    episode_id: int
    split: str
    u: float
    tensors: dict[str, np.ndarray]
    """float32, [steps, D] or [steps]."""


def table(rows: list[EpisodeRow]) -> pa.Table:
    """Rows as an Arrow table; tensors are flattened, their width stands in the stage's facts."""
    columns: dict[str, Any] = {
        "episode_id": pa.array([r.episode_id for r in rows], pa.int64()),
        "length": pa.array([len(r.tensors["rewards"]) for r in rows], pa.int32()),
        "split": pa.array([r.split for r in rows], pa.string()),
        "u": pa.array([r.u for r in rows], pa.float64()),
        "episode_return": pa.array([r.tensors["rewards"].sum(dtype=np.float64) for r in rows]),
    }
    for name in TENSORS:
        flat = [r.tensors[name].ravel() for r in rows]
        offsets = np.cumsum([0] + [len(f) for f in flat])
        columns[name] = pa.LargeListArray.from_arrays(offsets, np.concatenate(flat))
    return pa.table(columns)


@dataclass(frozen=True)
class Episodes:
    """Episodes of one split, in order of their id."""

    ids: np.ndarray
    returns: np.ndarray
    u: np.ndarray
    """Each episode's uniform draw: a fraction f of the data is ``u < f``."""
    values: list[Batch]
    """States, returns-to-go and actions [steps, D] of each episode."""


def load(reference: Reference, split: str, fraction: float = 1.0) -> Episodes:
    """Episodes of a split; of the training split those with ``u < fraction``.

    Raises UserError for a missing or damaged shard and for a fraction that holds no episode.
    """
    parts = []
    for name in sorted(name for name in reference.files if name.endswith(".parquet")):
        part = _read(reference, name)
        keep = part["split"].to_numpy(zero_copy_only=False) == split
        parts.append(part.filter(pa.array(keep)))
    rows = pa.concat_tables(parts).sort_by("episode_id")
    if split == TRAIN:
        rows = _fraction(rows, fraction)
    widths = {STATES: reference.facts["state_dim"], RETURNS: 1, ACTIONS: reference.facts["action_dim"]}
    values: list[Batch] = [{} for _ in range(rows.num_rows)]
    for name, width in widths.items():
        column = rows[name].combine_chunks()
        flat = torch.from_numpy(column.flatten().to_numpy(zero_copy_only=False).copy())
        lengths = (rows["length"].to_numpy() * width).tolist()
        for episode, part in zip(values, flat.split(lengths), strict=True):
            episode[name] = part.view(-1, width)
    return Episodes(
        rows["episode_id"].to_numpy(), rows["episode_return"].to_numpy(), rows["u"].to_numpy(), values
    )


def _read(reference: Reference, name: str) -> pa.Table:
    uri = storage.join(reference.uri, name)
    system, path = storage.resolve(uri)
    try:
        return pq.read_table(path, filesystem=system)
    except (OSError, pa.ArrowInvalid) as error:
        damaged = damaged_file(reference)
        found = f"{damaged[1]:,} of {reference.files[damaged[0]]:,} bytes" if damaged else "unreadable"
        raise UserError(
            f"shard {uri} is missing or damaged ({found}); delete {reference.uri} and run again to rebuild it"
        ) from error


def _fraction(rows: pa.Table, fraction: float) -> pa.Table:
    u = rows["u"].to_numpy()
    kept = u < fraction
    if not kept.any():
        raise UserError(
            f"fraction {fraction} keeps none of the {len(u)} training episodes; "
            f"use more than {u.min():.4f}, or more transitions"
        )
    return rows.filter(pa.array(kept))
