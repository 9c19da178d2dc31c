"""Shards: nested fractions, a fixed split, what is written is read, a damaged one is named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mtm import UserError
from mtm.sampler import WindowSampler
from pipeline import datasets, shards, storage
from pipeline.tracking import Reference


def test_draws_are_uniform_and_fixed() -> None:
    draws = np.array([shards.uniform(0, i, "fraction") for i in range(20_000)])
    assert abs(np.mean(draws < 0.1) - 0.1) < 0.01
    assert abs(draws.mean() - 0.5) < 0.01
    assert draws[0] == pytest.approx(0.11184806798418676), "a changed draw changes everyone's data"
    assert shards.uniform(1, 0, "fraction") != draws[0]


@pytest.mark.parametrize(("episodes", "share", "count"), [(100, 0.05, 5), (3, 0.05, 1), (2, 0.9, 1)])
def test_the_held_out_split_has_its_size_and_never_everything(
    episodes: int, share: float, count: int
) -> None:
    held_out = shards.held_out_episodes(0, episodes, share)
    assert len(held_out) == count
    assert held_out == shards.held_out_episodes(0, episodes, share)


def test_one_episode_cannot_be_split() -> None:
    with pytest.raises(UserError, match="has 1 episodes; at least 2"):
        shards.held_out_episodes(0, 1, 0.05)


def test_shards_hold_what_minari_holds(ingested: Reference, pendulum_root: Path) -> None:
    with datasets.minari_root(str(pendulum_root)):
        dataset = datasets.open_dataset("test/pendulum-v0")
    original = {episode.id: episode for episode in dataset.iterate_episodes()}
    seen = []
    for split in (shards.TRAIN, shards.HELD_OUT):
        loaded = shards.load(ingested, split)
        for index, values, total in zip(loaded.ids, loaded.values, loaded.returns, strict=True):
            episode = original[index]
            np.testing.assert_array_equal(
                values["states"], episode.observations[:-1].astype(np.float32)
            )
            np.testing.assert_array_equal(values["actions"], episode.actions)
            assert total == pytest.approx(episode.rewards.sum(), rel=1e-5)
            # InvertedPendulum-v5 lasts 1,000 steps at most: that is the horizon.
            after = episode.rewards[::-1].cumsum()[::-1] - episode.rewards
            expected = after / (1000 - np.arange(len(after)))
            np.testing.assert_allclose(values["returns"][:, 0], expected, rtol=1e-5, atol=1e-7)
            seen.append(index)
    assert sorted(seen) == list(range(12))
    assert len(shards.load(ingested, shards.HELD_OUT).ids) == 2


def test_fractions_are_nested(ingested: Reference) -> None:
    kept = [set(shards.load(ingested, shards.TRAIN, f).ids) for f in (0.3, 0.6, 1.0)]
    assert kept[0] < kept[1] < kept[2]


def test_the_held_out_episodes_do_not_depend_on_the_fraction(ingested: Reference) -> None:
    assert set(shards.load(ingested, shards.HELD_OUT, 0.3).ids) == set(
        shards.load(ingested, shards.HELD_OUT).ids
    )


def test_a_fraction_that_keeps_nothing_is_said(ingested: Reference) -> None:
    with pytest.raises(UserError, match="fraction 1e-09 keeps none of the 10 training episodes"):
        shards.load(ingested, shards.TRAIN, 1e-9)


def test_a_shard_cut_in_half_is_named(ingested: Reference, tmp_path: Path) -> None:
    files = {name: storage.read(storage.join(ingested.uri, name)) for name in ingested.files}
    for name, content in files.items():
        cut = content[: len(content) // 2] if name.endswith(".parquet") else content
        storage.write(str(tmp_path / name), cut)
    with pytest.raises(
        UserError, match=r"shard .*\.parquet is missing or damaged .* run again to rebuild it"
    ):
        shards.load(replace(ingested, uri=str(tmp_path)), shards.TRAIN)


def test_loaded_episodes_make_windows(ingested: Reference) -> None:
    sampler = WindowSampler(shards.load(ingested, shards.TRAIN).values, 4)
    windows = sampler.windows(torch.arange(len(sampler)))
    assert {name: tuple(value.shape) for name, value in windows.items()} == {
        "states": (570, 4, 4),
        "returns": (570, 4, 1),
        "actions": (570, 4, 1),
    }
