"""Adroit by Minari id: a local dataset with the environments' shapes, from shards to a score."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import minari
import numpy as np
import pytest
from minari.data_collector import EpisodeBuffer

from pipeline import recipes, shards
from pipeline.experiment import data_nodes, scored, trained
from tests.pipeline.conftest import runner

pytestmark = [pytest.mark.usefixtures("ray_cluster"), pytest.mark.filterwarnings("ignore")]


def random_episodes(env: gymnasium.Env, episodes: int, steps: int) -> list[EpisodeBuffer]:
    """Episodes of uniform actions; Adroit's own human data are longer than its time limit too."""
    buffers = []
    for index in range(episodes):
        obs, rewards, actions = [env.reset(seed=index)[0]], [], []
        env.action_space.seed(index)
        for _ in range(steps):
            actions.append(env.action_space.sample())
            after, reward, *_ = env.unwrapped.step(actions[-1])
            obs.append(after)
            rewards.append(float(reward))
        values: dict[str, Any] = {
            "observations": np.array(obs),
            "actions": np.array(actions),
            "rewards": np.array(rewards),
            "terminations": np.zeros(steps, dtype=bool),
            "truncations": np.arange(steps) == steps - 1,
        }
        buffers.append(EpisodeBuffer(id=index, **values))
    return buffers


@pytest.mark.parametrize(
    ("env_id", "dataset_id", "state_dim", "action_dim"),
    [
        ("AdroitHandDoor-v1", "test/door/human-v2", 39, 28),
        ("AdroitHandPen-v1", "test/pen/human-v2", 45, 24),
    ],
)
def test_adroit_data_are_loaded_trained_on_and_scored(
    env_id: str, dataset_id: str, state_dim: int, action_dim: int, tmp_path: Path
) -> None:
    gymnasium.register_envs(__import__("gymnasium_robotics"))
    env = gymnasium.make(env_id)
    minari.create_dataset_from_buffers(
        dataset_id,
        random_episodes(env, 4, 205),
        env=env,
        ref_min_score=-56.5,
        ref_max_score=2880.6,
    )
    base = recipes.smoke()
    smoke = replace(
        base,
        data=replace(base.data, dataset_id=dataset_id),
        optim=replace(base.optim, steps=10),
        evaluate=replace(base.evaluate, roles=("bc", "id"), shards=1),
    )
    ingested = data_nodes(smoke.data)[-1]
    run = runner(tmp_path / "runs").run
    reference = run("ingest", ingested)
    assert (reference.facts["state_dim"], reference.facts["action_dim"]) == (state_dim, action_dim)
    assert reference.facts["horizon"] == 205
    (episode, *_) = shards.load(reference, shards.TRAIN).values
    assert episode["states"].shape == (205, state_dim)
    facts = run("evaluate", scored(smoke, trained(smoke, "mtm", ingested), ingested)).facts
    assert np.isfinite(facts["last.bc_return"])
    assert np.isfinite(facts["last.id_error"])
