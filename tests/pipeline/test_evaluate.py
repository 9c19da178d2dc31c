"""Scores: episodes stepped together score as alone; the target is chosen on other episodes."""

from __future__ import annotations

import gymnasium
import numpy as np
import pandas as pd
import pytest
import torch

from mtm import MaskConfig, ModelConfig, MTMLearner, standard_modalities
from pipeline.evaluate import (
    EvaluateStage,
    Setting,
    chosen_targets,
    normalised_score,
    rollout,
    settings,
)


def pendulum_learner() -> MTMLearner:
    learner = MTMLearner(standard_modalities(4, 1), ModelConfig(width=16, dropout=0.0), MaskConfig())
    learner.initialise(torch.Generator().manual_seed(0))
    return learner


def test_episodes_together_score_as_one_by_one() -> None:
    plan = [Setting("bc", float("nan")), Setting("rcbc", 0.5), Setting("rcbc", 1.0)]
    seeds = [3, 4, 5]

    def play(settings: list[Setting], seeds: list[int]) -> tuple[np.ndarray, np.ndarray]:
        envs = [gymnasium.make("InvertedPendulum-v5") for _ in settings]
        return rollout(pendulum_learner(), settings, envs, seeds)

    returns, lengths = play(plan, seeds)
    for i in range(3):
        alone, length = play(plan[i : i + 1], seeds[i : i + 1])
        assert length[0] == lengths[i]
        assert alone[0] == pytest.approx(returns[i])


def test_a_learner_is_asked_for_the_wanted_roles_and_each_target() -> None:
    config = EvaluateStage(2, ("bc", "two-stage", "goal", "fd"), (0.5, 1.0), 1, 0, 8, 5)
    tried = [(s.role, s.target) for s in settings(pendulum_learner(), config)]
    # GOAL needs a state to reach, and FD acts not: both are scored by their held-out error.
    assert tried[1:] == [("two-stage", 0.5), ("two-stage", 1.0)]
    assert tried[0][0] == "bc"
    assert np.isnan(tried[0][1])


def test_returns_are_the_environments() -> None:
    """InvertedPendulum pays 1 for each step it stands, and nothing for the last."""
    envs = [gymnasium.make("InvertedPendulum-v5")]
    returns, lengths = rollout(pendulum_learner(), [Setting("bc", float("nan"))], envs, [0])
    assert returns[0] == lengths[0] - 1


def test_the_target_is_chosen_on_other_episodes_than_those_reported() -> None:
    rows = pd.DataFrame(
        [
            # Target 1 wins on the selection half, target 2 on the report half.
            ("last", "rcbc", 1.0, "selection", 10.0),
            ("last", "rcbc", 1.0, "report", 3.0),
            ("last", "rcbc", 2.0, "selection", 5.0),
            ("last", "rcbc", 2.0, "report", 99.0),
            ("last", "bc", np.nan, "selection", 1.0),
            ("last", "bc", np.nan, "report", 2.0),
        ],
        columns=["checkpoint", "role", "target", "half", "return"],
    )
    reported = chosen_targets(rows)
    assert dict(zip(reported["role"], reported["return"], strict=True)) == {"bc": 2.0, "rcbc": 3.0}


def test_normalised_scores_are_minaris() -> None:
    facts = {"ref_min_score": -20.27, "ref_max_score": 3234.3}
    np.testing.assert_allclose(normalised_score(np.array([-20.27, 3234.3]), facts), [0.0, 100.0])
    assert np.isnan(
        normalised_score(np.array([1.0]), {"ref_min_score": None, "ref_max_score": None})
    ).all()
