"""Data that are of no use end in one line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import minari
import numpy as np
import pytest
from minari.data_collector import EpisodeBuffer

from mtm import UserError
from pipeline import recipes
from pipeline.experiment import data_nodes
from tests import fakes
from tests.pipeline.conftest import runner

pytestmark = pytest.mark.usefixtures("ray_cluster")


def ingest(tmp_path: Path, dataset_id: str) -> None:
    data = replace(recipes.smoke().data, dataset_id=dataset_id)
    runner(tmp_path / "runs").run("ingest", data_nodes(data)[-1])


def test_a_value_that_is_not_finite_is_located(tmp_path: Path) -> None:
    def spoil(index: int, episode: dict[str, Any]) -> None:
        if index == 1:
            episode["actions"][7] = np.nan

    fakes.pendulum_dataset(tmp_path / "minari", "test/nan-v0", episodes=2, steps=10, spoil=spoil)
    with pytest.raises(
        UserError, match=r"test/nan-v0, episode 1, step 7: actions has a value that is not finite"
    ):
        ingest(tmp_path, "test/nan-v0")
    assert not list((tmp_path / "runs" / "ingest").rglob("*.parquet"))


@pytest.mark.filterwarnings("ignore")
def test_an_empty_dataset_is_named(tmp_path: Path) -> None:
    minari.create_dataset_from_buffers("test/empty-v0", [], env="InvertedPendulum-v5")
    with pytest.raises(UserError, match="dataset test/empty-v0 is empty"):
        ingest(tmp_path, "test/empty-v0")


@pytest.mark.filterwarnings("ignore")
def test_pictures_are_refused(tmp_path: Path) -> None:
    space = gymnasium.spaces.Box(0, 255, (8, 8, 3), np.uint8)
    buffer = EpisodeBuffer(
        id=0,
        observations=np.zeros((3, 8, 8, 3), np.uint8),
        actions=np.zeros((2, 1), np.float32),
        rewards=[0.0, 0.0],
        terminations=[False, False],
        truncations=[False, True],
    )
    action = gymnasium.spaces.Box(-1, 1, (1,), np.float32)
    minari.create_dataset_from_buffers(
        "test/pixels-v0", [buffer], observation_space=space, action_space=action
    )
    with pytest.raises(UserError, match=r"observations in Box.* only vectors of real numbers"):
        ingest(tmp_path, "test/pixels-v0")


def test_an_unknown_dataset_is_named_with_the_nearest() -> None:
    with pytest.raises(
        UserError, match=r"unknown dataset 'mtm/hopper/expret-v0'; did you mean mtm/hopper/expert-v0"
    ):
        data_nodes(replace(recipes.smoke().data, dataset_id="mtm/hopper/expret-v0"))
