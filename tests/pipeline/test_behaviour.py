"""The behaviour policies that ship with the package."""

from __future__ import annotations

from pathlib import Path

import gymnasium
import numpy as np
import pytest

from pipeline import datasets
from pipeline.behaviour.policy import BehaviourPolicy
from pipeline.behaviour.train import table

FILES = sorted(datasets.WEIGHTS.glob("*.safetensors"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_shipped_policy_is_small_and_says_where_it_comes_from(path: Path) -> None:
    assert path.stat().st_size < 100_000
    facts = BehaviourPolicy.load(path).facts
    for name in ("env_id", "algorithm", "steps", "seed", "noise", "return_mean", "return_std"):
        assert name in facts


def test_hopper_has_an_expert_a_medium_and_eight_snapshots() -> None:
    facts = {path.stem: BehaviourPolicy.load(path).facts for path in FILES}
    expert = facts["hopper-expert"]["return_mean"]
    assert expert >= 3000
    assert 0.4 * expert < facts["hopper-medium"]["return_mean"] < 0.6 * expert
    snapshots = [f for name, f in facts.items() if name.startswith("hopper-replay")]
    assert len(snapshots) >= 8
    assert snapshots[0]["return_mean"] < 0.1 * expert


def test_the_expert_scores_what_its_file_says() -> None:
    policy = BehaviourPolicy.load(datasets.WEIGHTS / "hopper-expert.safetensors")
    env, rng = gymnasium.make("Hopper-v5"), np.random.default_rng(0)
    obs, total, over = env.reset(seed=0)[0], 0.0, False
    while not over:
        action = policy.act(obs[None], rng, np.float32(-1), np.float32(1))[0]
        obs, reward, terminated, truncated, _ = env.step(action)
        total += float(reward)
        over = terminated or truncated
    assert total == pytest.approx(policy.facts["return_mean"], rel=0.05)


def test_a_mixture_has_all_its_parts() -> None:
    names = [path.stem for path in datasets.behaviour_weights("mtm/hopper/medium-expert-v0")]
    assert names == ["hopper-medium", "hopper-expert"]
    assert len(datasets.behaviour_weights("mtm/hopper/replay-v0")) >= 8


def test_the_docs_have_the_table_of_what_is_shipped() -> None:
    docs = Path(__file__).parents[2] / "docs" / "BEHAVIOUR.md"
    assert table() in docs.read_text()
