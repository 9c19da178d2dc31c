"""MLPs: each learns its one role."""

from __future__ import annotations

import pytest
import torch

from mtm import MLPConfig, MLPLearner, OptimConfig, TrainState, UserError, held_out_error
from mtm.baselines.mlp import INPUTS
from mtm.roles import ROLES
from tests import fakes


def mlp_learner(role: str, width: int = 8) -> MLPLearner:
    """With the statistics of ``fakes.episodes()``."""
    learner = MLPLearner(fakes.MODALITIES, MLPConfig(role, width))
    learner.initialise(torch.Generator().manual_seed(0))
    learner.tokenizer.fit(fakes.joined(fakes.episodes()))
    return learner


@pytest.mark.parametrize("role", list(INPUTS))
def test_an_mlp_learns_every_role(role: str) -> None:
    learner = mlp_learner(role, width=64)
    sampler = fakes.sampler(learner.window)
    optim = OptimConfig(learning_rate=3e-3, warmup_steps=0, steps=300, batch_size=64)
    state = TrainState(learner, optim, sampler, seed=0)
    losses = [float(state.train_step()["loss"]) for _ in range(optim.steps)]
    assert losses[-1] < 0.1 * losses[0]


@pytest.mark.parametrize(
    ("role", "visible", "output", "step"),
    [
        ("bc", {"states": [0]}, "actions", 0),
        ("rcbc", {"states": [3], "returns": [3]}, "actions", 3),
        ("id", {"states": [2, 3]}, "actions", 2),
        ("fd", {"states": [2], "actions": [2]}, "states", 3),
    ],
)
def test_an_mlp_reads_raw_values_from_its_roles_current_step_alone(
    role: str, visible: dict[str, list[int]], output: str, step: int
) -> None:
    learner, batch = mlp_learner(role), fakes.windows(6)
    position = ROLES[role].positions(4)[-1]
    inputs = [
        (batch[name][:, t] - learner.tokenizer[name].mean) / learner.tokenizer[name].std
        for name, steps in visible.items()
        for t in steps
    ]
    normalised = learner.net(torch.cat(inputs, dim=1))
    expected = normalised * learner.tokenizer[output].std + learner.tokenizer[output].mean
    got = learner.predict(ROLES[role], batch, position)
    torch.testing.assert_close(got, expected)
    # Its loss is the error of the same answer, in normalised units, where the step is the first.
    first = {name: values[:, position:] for name, values in batch.items()}
    error = (got - batch[output][:, step]) / learner.tokenizer[output].std
    torch.testing.assert_close(learner(first, {})["loss"], error.square().mean())
    assert held_out_error(learner, role, [batch]) == pytest.approx(
        float(error.detach().square().mean())
    )


def test_an_mlp_has_one_role() -> None:
    with pytest.raises(UserError, match="this mlp has no role 'rcbc'; it has bc"):
        mlp_learner("bc").policy("rcbc")


@pytest.mark.parametrize("role", ["goal", "waypoint", "two-stage"])
def test_a_role_without_an_mlp_is_refused(role: str) -> None:
    with pytest.raises(
        UserError, match=f"there is no MLP for role '{role}'; there are bc, rcbc, id, fd"
    ):
        MLPConfig(role)


@pytest.mark.parametrize("wrong", [{"width": 0}, {"hidden_layers": 0}])
def test_impossible_sizes_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(UserError, match="must be at least 1"):
        MLPConfig(**wrong)  # type: ignore[arg-type]
