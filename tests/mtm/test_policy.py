"""Acting: the same actions whether environments act together or alone, and honest errors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import mtm
from mtm import MLPConfig, MLPLearner, UserError, checkpoint
from mtm.roles import ROLES
from tests import fakes


def observations(envs: int, steps: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((steps, envs, fakes.STATE_DIM))


@pytest.mark.parametrize("role", ["bc", "rcbc"])
def test_environments_do_not_see_one_another(role: str) -> None:
    obs = observations(3, 7)
    targets = np.array([0.2, 0.6, 1.0], dtype=np.float32)
    together = fakes.mtm_learner().policy(role, 3, targets)
    actions = np.stack([together.act(step) for step in obs])
    for env in range(3):
        alone = fakes.mtm_learner().policy(role, 1, targets[env])
        expected = np.stack([alone.act(step[env : env + 1]) for step in obs])[:, 0]
        np.testing.assert_allclose(actions[:, env], expected, atol=1e-5)


def test_environments_at_different_steps_act_as_if_alone() -> None:
    obs = observations(2, 9)
    policy = fakes.mtm_learner().policy("rcbc", 2, 0.8)
    for step in obs[:6]:
        policy.act(step)
    policy.reset(np.array([1]))  # its episode ended
    actions = np.stack([policy.act(step) for step in obs[6:]])
    fresh = fakes.mtm_learner().policy("rcbc", 1, 0.8)
    expected = np.stack([fresh.act(step[1:2]) for step in obs[6:]])[:, 0]
    np.testing.assert_allclose(actions[:, 1], expected, atol=1e-5)


def test_rcbc_acts_on_its_last_steps_and_the_target() -> None:
    """Beyond T steps the window slides: the action is the model's answer for the last T steps."""
    learner, obs = fakes.mtm_learner(), observations(1, 6)
    policy = learner.policy("rcbc", 1, 0.5)
    taken = np.stack([policy.act(step) for step in obs])
    returns = learner.tokenizer["returns"]
    wanted = returns.low + 0.5 * (returns.high - returns.low)
    batch = {
        "states": torch.tensor(obs[2:6, 0], dtype=torch.float32)[None],
        "returns": wanted.expand(1, 4, 1),
        "actions": torch.tensor(np.append(taken[2:5, 0], [[0.0, 0.0]], axis=0), dtype=torch.float32)[
            None
        ],
    }
    with torch.inference_mode():
        predicted = learner.predict(ROLES["rcbc"], batch, 3)
        actions = learner.tokenizer["actions"]
        expected = actions.decode(predicted[:, None, None])[0, 0].clamp(actions.low, actions.high)
    np.testing.assert_allclose(taken[5, 0], expected, atol=1e-5)


def test_a_checkpoint_acts_in_three_lines(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    learner = fakes.mtm_learner()
    path.write_bytes(checkpoint.to_bytes(learner))
    policy = mtm.load(path).policy("rcbc", num_envs=2, target=0.9)
    actions = policy.act(observations(2, 1)[0])
    np.testing.assert_array_equal(actions, learner.policy("rcbc", 2, 0.9).act(observations(2, 1)[0]))


def test_wrong_observations_are_named() -> None:
    with pytest.raises(UserError, match=r"shape \(1, 4\); this model expects \(1, 5\)"):
        fakes.mtm_learner().policy("bc").act(np.zeros((1, 4)))


def test_a_role_that_does_not_act_is_refused() -> None:
    with pytest.raises(UserError, match="'fd' predicts and does not act"):
        fakes.mtm_learner().policy("fd")


def test_an_mlp_has_one_role() -> None:
    learner = MLPLearner(fakes.MODALITIES, MLPConfig("bc", width=8))
    with pytest.raises(UserError, match="this mlp has no role 'rcbc'"):
        learner.policy("rcbc")
