"""Open-loop rollouts against predictions that are made and fed back by hand."""

from __future__ import annotations

import pytest
import torch

from mtm import (
    Learner,
    MLPConfig,
    MLPLearner,
    UserError,
    held_out_error,
    open_loop,
    open_loop_error,
)
from mtm.roles import ROLES
from mtm.trajectory import Batch
from tests import fakes

WINDOWS, STEPS = 5, 9
CLOSE = {"rtol": 1e-4, "atol": 1e-5}
"""States are of order 1, and nine predictions follow from one another, in single precision."""


@pytest.fixture(params=["mtm", "discrete", "mlp"])
def learner(request: pytest.FixtureRequest) -> Learner:
    """Every kind of learner that predicts states."""
    if request.param == "mtm":
        return fakes.mtm_learner().eval()
    if request.param == "discrete":
        return request.getfixturevalue("discrete_learner")
    mlp = MLPLearner(fakes.MODALITIES, MLPConfig("fd", width=16))
    mlp.initialise(torch.Generator().manual_seed(0))
    mlp.tokenizer.fit(fakes.joined(fakes.episodes()))
    return mlp.eval()


def trajectories(count: int = WINDOWS, steps: int = STEPS + 1) -> Batch:
    return fakes.windows(count, steps)


@torch.inference_mode()
def by_hand(learner: Learner, states: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
    """Each state follows from the last T - 1 known or predicted ones, and the action at the last."""
    known = [states]
    for step in range(actions.shape[1]):
        shown = known[-(learner.window - 1) :]
        position = len(shown) - 1
        batch = {m.name: torch.zeros(len(states), learner.window, m.dim) for m in learner.modalities}
        batch["states"][:, : position + 1] = torch.stack(shown, dim=1)
        batch["actions"][:, position] = actions[:, step]
        known.append(learner.predict(ROLES["fd"], batch, position))
    return torch.stack(known[1:], dim=1)


@pytest.mark.parametrize("steps", [1, 2, 3, 4, STEPS])
def test_predictions_are_fed_back_and_the_window_slides_over_them(learner: Learner, steps: int) -> None:
    """Three steps fit into the window of the MTM, one into that of the MLP."""
    truth = trajectories()
    states, actions = truth["states"][:, 0], truth["actions"][:, :steps]
    got = open_loop(learner, states, actions)
    assert got.shape == (WINDOWS, steps, fakes.STATE_DIM)
    torch.testing.assert_close(got, by_hand(learner, states, actions), **CLOSE)


@pytest.mark.parametrize(
    "learner", ["mtm", "mlp"], indirect=True
)  # with bins, a state may stay in its own
def test_an_action_changes_the_states_after_it_and_none_before(learner: Learner) -> None:
    truth = trajectories()
    states, actions = truth["states"][:, 0], truth["actions"]
    before = open_loop(learner, states, actions)
    for step in range(STEPS):
        changed = actions.clone()
        changed[:, step] += 1.0
        after = open_loop(learner, states, changed)
        assert torch.equal(after[:, :step], before[:, :step])
        assert (after[:, step] != before[:, step]).any(1).all()


def test_a_rollout_is_free_of_dropout() -> None:
    learner, truth = fakes.mtm_learner(dropout=0.5).train(), trajectories()
    first = open_loop(learner, truth["states"][:, 0], truth["actions"])
    assert torch.equal(open_loop(learner, truth["states"][:, 0], truth["actions"]), first)


def test_a_rollout_leaves_its_arguments_alone() -> None:
    truth = trajectories()
    before = {name: values.clone() for name, values in truth.items()}
    open_loop(fakes.mtm_learner(), truth["states"][:, 0], truth["actions"])
    assert all(torch.equal(truth[name], before[name]) for name in truth)


def test_errors_are_those_of_the_rollout_from_the_first_state(learner: Learner) -> None:
    """In units of the training standard deviation, over batches of unequal size."""
    truth = trajectories()
    predicted = by_hand(learner, truth["states"][:, 0], truth["actions"][:, :STEPS])
    wrong = (predicted - truth["states"][:, 1:]) / learner.tokenizer["states"].std
    parts = [{n: v[:3] for n, v in truth.items()}, {n: v[3:] for n, v in truth.items()}]
    errors = open_loop_error(learner, parts)
    assert errors.shape == (STEPS,)
    torch.testing.assert_close(errors.float(), wrong.square().mean((0, 2)), **CLOSE)


def test_nothing_but_the_first_state_and_the_actions_is_given() -> None:
    """Where the true states after the first are moved, the errors grow by that and nothing else."""
    learner, truth = fakes.mtm_learner().eval(), trajectories()
    predicted = open_loop(learner, truth["states"][:, 0], truth["actions"][:, :STEPS])
    moved = {**truth, "states": truth["states"].clone(), "returns": truth["returns"] + 3.0}
    moved["states"][:, 1:] += 100.0
    wrong = (predicted - moved["states"][:, 1:]) / learner.tokenizer["states"].std
    errors = open_loop_error(learner, [moved])
    torch.testing.assert_close(errors.float(), wrong.square().mean((0, 2)), rtol=1e-5, atol=0)


def test_the_last_action_is_followed_by_no_state_and_does_not_count() -> None:
    learner, truth = fakes.mtm_learner().eval(), trajectories()
    errors = open_loop_error(learner, [truth])
    truth["actions"][:, -1] = 1e3
    assert torch.equal(open_loop_error(learner, [truth]), errors)


def test_the_first_error_is_that_of_forward_dynamics_at_the_first_step(learner: Learner) -> None:
    truth = trajectories()
    window = {name: values[:, : learner.window] for name, values in truth.items()}
    with torch.inference_mode():
        predicted = learner.predict(ROLES["fd"], window, 0)
    normalised = (predicted - window["states"][:, 1]) / learner.tokenizer["states"].std
    first = float(open_loop_error(learner, [truth])[0])
    assert first == pytest.approx(float(normalised.square().mean()), rel=1e-5)


def test_an_mlps_first_error_is_its_held_out_error() -> None:
    """Its window of two steps has no other position."""
    learner, truth = MLPLearner(fakes.MODALITIES, MLPConfig("fd", width=16)), trajectories()
    learner.initialise(torch.Generator().manual_seed(0))
    pair = {name: values[:, :2] for name, values in truth.items()}
    expected = held_out_error(learner, "fd", [pair])
    assert float(open_loop_error(learner, [truth])[0]) == pytest.approx(expected, rel=1e-6)


def test_a_learner_that_knows_no_dynamics_is_refused() -> None:
    learner = MLPLearner(fakes.MODALITIES, MLPConfig("bc", width=8))
    with pytest.raises(UserError, match="this mlp has no role 'fd'"):
        open_loop(learner, torch.zeros(1, fakes.STATE_DIM), torch.zeros(1, 2, fakes.ACTION_DIM))
