"""Learners: what they read in a role, the errors they are scored by, and that they learn."""

from __future__ import annotations

from typing import Literal

import pytest
import torch

from mtm import (
    MaskConfig,
    MTMLearner,
    OptimConfig,
    TokenizerConfig,
    TrainState,
    UserError,
    held_out_error,
    masks,
    validation_losses,
)
from mtm.roles import ROLES
from mtm.trajectory import Batch
from tests import fakes

Per = Literal["batch", "window"]
KINDS = pytest.mark.parametrize("bins", [TokenizerConfig(), fakes.BINS], ids=["continuous", "discrete"])


def mask_of(learner: MTMLearner, **visible: list[int]) -> masks.Mask:
    """A mask [T, P] that shows these timesteps, written out without the help of a role."""
    mask = masks.empty(learner.window, learner.model.tokens_per_step)
    for name, steps in visible.items():
        mask[name][steps] = True
    return mask


VISIBLE = {
    ("bc", 0): {"states": [0]},
    ("rcbc", 2): {"states": [0, 1, 2], "returns": [0, 1, 2, 3], "actions": [0, 1]},
    ("id", 1): {"states": [0, 1, 2]},
    ("fd", 1): {"states": [0, 1], "actions": [1]},
    ("goal", 0): {"states": [0, 3]},
}


@KINDS
@pytest.mark.parametrize(("role", "position"), list(VISIBLE))
def test_a_role_reads_raw_values_of_its_token(bins: TokenizerConfig, role: str, position: int) -> None:
    learner, batch = fakes.mtm_learner(tokenizer=bins).eval(), fakes.windows(5)
    mask = mask_of(learner, **VISIBLE[role, position])
    tokens = learner.model(learner.tokenizer.encode(batch), mask)
    output, step = ("states", position + 1) if role == "fd" else ("actions", position)
    expected = learner.tokenizer.decode(tokens)[output][:, step]
    got = learner.predict(ROLES[role], batch, position)
    assert got.shape == batch[output][:, step].shape
    assert torch.equal(got, expected)


@KINDS
@pytest.mark.parametrize("ahead", [1, 2, 3])
def test_waypoint_reads_the_action_towards_the_state_that_far_ahead(
    bins: TokenizerConfig, ahead: int
) -> None:
    learner, batch = fakes.mtm_learner(tokenizer=bins).eval(), fakes.windows(5)
    tokens = learner.model(learner.tokenizer.encode(batch), mask_of(learner, states=[0, ahead]))
    expected = learner.tokenizer.decode(tokens)["actions"][:, 0]
    assert torch.equal(learner.predict(ROLES["waypoint"], batch, 0, ahead), expected)


def two_stages_by_hand(learner: MTMLearner, batch: Batch, position: int) -> torch.Tensor:
    """The states after the position are imagined from the returns, then the action is inferred."""
    before = list(range(position + 1))
    first = mask_of(learner, states=before, returns=[0, 1, 2, 3])
    imagined = learner.tokenizer.decode(learner.model(learner.tokenizer.encode(batch), first))
    states = torch.cat([batch["states"][:, before], imagined["states"][:, position + 1 :]], dim=1)
    tokens = learner.tokenizer.encode({**batch, "states": states})
    second = mask_of(learner, states=[0, 1, 2, 3])
    return learner.tokenizer.decode(learner.model(tokens, second))["actions"][:, position]


@pytest.mark.parametrize("discrete", [False, True])
@pytest.mark.parametrize("position", range(3))
def test_two_stage_imagines_states_and_infers_the_action_between(
    discrete: bool, position: int, discrete_learner: MTMLearner
) -> None:
    learner = discrete_learner if discrete else fakes.mtm_learner().eval()
    batch = fakes.windows(60)
    got = learner.predict(ROLES["two-stage"], batch, position)
    # Continuous tokens go by way of raw values in one and not the other: single-precision rounding.
    torch.testing.assert_close(got, two_stages_by_hand(learner, batch, position), rtol=1e-4, atol=1e-5)


def test_two_stage_depends_on_what_it_imagines() -> None:
    """On the wanted return, and not on the states that really followed."""
    learner, batch = fakes.mtm_learner().eval(), fakes.windows(5)
    before = learner.predict(ROLES["two-stage"], batch, 1)
    later = {**batch, "states": batch["states"].clone()}
    later["states"][:, 2:] = 1e3
    assert torch.equal(learner.predict(ROLES["two-stage"], later, 1), before)
    richer = {**batch, "returns": batch["returns"] + 1.0}
    assert (learner.predict(ROLES["two-stage"], richer, 1) != before).any(1).all()


@KINDS
@pytest.mark.parametrize(
    ("role", "position"),
    [("bc", 0), ("rcbc", 3), ("id", 2), ("fd", 2), ("goal", 0), ("two-stage", 2)],
)
def test_the_held_out_error_is_taken_at_the_roles_last_position(
    bins: TokenizerConfig, role: str, position: int
) -> None:
    """In units of the training standard deviation, over batches of unequal size."""
    learner = fakes.mtm_learner(tokenizer=bins).eval()
    batch = fakes.windows(7)
    output, step = ("states", 3) if role == "fd" else ("actions", position)
    with torch.inference_mode():
        wrong = learner.predict(ROLES[role], batch, position) - batch[output][:, step]
    by_hand = float((wrong / learner.tokenizer[output].std).square().mean())
    parts = [{n: v[:5] for n, v in batch.items()}, {n: v[5:] for n, v in batch.items()}]
    assert held_out_error(learner, role, parts) == pytest.approx(by_hand, rel=1e-4)


def test_a_waypoints_error_is_the_mean_over_all_distances() -> None:
    learner, batch = fakes.mtm_learner().eval(), fakes.windows(7)
    actions = learner.tokenizer["actions"]
    with torch.inference_mode():
        errors = [
            (learner.predict(ROLES["waypoint"], batch, 0, ahead) - batch["actions"][:, 0]) / actions.std
            for ahead in (1, 2, 3)
        ]
    by_hand = float(torch.stack(errors).square().mean())
    assert held_out_error(learner, "waypoint", [batch]) == pytest.approx(by_hand, rel=1e-4)


def test_scoring_leaves_a_learner_in_the_mode_it_was_in() -> None:
    learner = fakes.mtm_learner(dropout=0.5).train()
    held_out_error(learner, "id", [fakes.windows(3)])
    validation_losses(learner, fakes.sampler(), windows=3)
    assert learner.training
    learner.eval()
    held_out_error(learner, "id", [fakes.windows(3)])
    assert not learner.training


def test_scores_are_free_of_dropout() -> None:
    learner = fakes.mtm_learner(dropout=0.5).train()
    first = held_out_error(learner, "id", [fakes.windows(3)])
    assert held_out_error(learner, "id", [fakes.windows(3)]) == first


@pytest.mark.parametrize("per", ["batch", "window"])
def test_validation_losses_are_the_same_every_time_and_the_mean_over_batches(per: Per) -> None:
    learner = fakes.mtm_learner(mask=MaskConfig(per=per)).eval()
    sampler = fakes.sampler()
    losses = validation_losses(learner, sampler, windows=20, masks=4)
    assert validation_losses(learner, sampler, windows=20, masks=4) == losses
    generator = torch.Generator().manual_seed(0)
    batches = list(sampler.evenly(20, 5))
    with torch.inference_mode():
        by_hand = [learner(batch, learner.draw(generator, 5))["loss"] for batch in batches]
    assert len(by_hand) == 4
    assert losses["loss"] == pytest.approx(float(torch.stack(by_hand).mean()), rel=1e-5)


@KINDS
def test_losses_are_those_of_the_models_tokens(bins: TokenizerConfig) -> None:
    """Squared error of normalised values; of bins, the logarithm of the right one's probability."""
    learner, batch = fakes.mtm_learner(tokenizer=bins).eval(), fakes.windows(6)
    mask = mask_of(learner, states=[0, 1], returns=[0], actions=[0])
    tokens = learner.tokenizer.encode(batch)
    with torch.inference_mode():
        predicted, losses = learner.model(tokens, mask), learner(batch, mask)
    for name, values in batch.items():
        tokenizer = learner.tokenizer[name]
        if bins == TokenizerConfig():
            normalised = (values - tokenizer.mean) / tokenizer.std
            expected = (predicted[name][:, :, 0] - normalised).square().mean()
        else:
            width = (tokenizer.high - tokenizer.low) / tokenizer.features
            right = ((values - tokenizer.low) / width).floor().clamp(max=tokenizer.features - 1)
            exponentials = predicted[name].double().exp()
            chosen = exponentials.gather(-1, right.long()[..., None])[..., 0]
            expected = -(chosen / exponentials.sum(-1)).log().mean()
        assert float(losses[name]) == pytest.approx(float(expected), rel=1e-5)
    assert float(losses["loss"]) == pytest.approx(sum(float(losses[name]) for name in batch), rel=1e-6)


def test_without_actions_losses_and_gradients_do_not_know_them() -> None:
    learner, batch = fakes.mtm_learner(mask=MaskConfig(visible_fractions=(1.0,))), fakes.windows(6)
    mask = mask_of(learner, states=[0, 1], returns=[0, 1], actions=[0, 1, 2])
    unknown = {"actions": torch.tensor(False)}

    def answer(actions: torch.Tensor) -> tuple[dict[str, float], list[torch.Tensor]]:
        learner.zero_grad()
        losses = learner({**batch, "actions": actions}, mask, unknown)
        losses["loss"].backward()
        return {n: float(v.detach()) for n, v in losses.items()}, [
            p.grad.clone() for p in learner.parameters()
        ]

    losses, gradients = answer(batch["actions"])
    assert losses["actions"] == 0.0
    assert losses["loss"] == pytest.approx(losses["states"] + losses["returns"], rel=1e-6)
    others, other_gradients = answer(batch["actions"] + 1e3)
    assert others == losses
    assert all(torch.equal(a, b) for a, b in zip(gradients, other_gradients, strict=True))
    assert all(not p.grad.any() for p in learner.model.head["actions"].parameters())
    assert all(p.grad.any() for p in learner.model.head["states"].parameters())


@KINDS
@pytest.mark.parametrize("per", ["batch", "window"])
def test_windows_without_actions_are_left_out_as_if_they_had_none(
    bins: TokenizerConfig, per: Per
) -> None:
    """By hand: each window alone, with its actions hidden if it has none."""
    learner = fakes.mtm_learner(tokenizer=bins, mask=MaskConfig(per=per)).eval()
    batch, known = fakes.windows(6), torch.tensor([True, False, True, False, False, True])
    mask = learner.draw(torch.Generator().manual_seed(3), 6)
    alone = []
    with torch.inference_mode():
        losses = learner(batch, mask, {"actions": known})
        for i in range(6):
            own = {name: (m[i] if m.dim() == 3 else m).clone() for name, m in mask.items()}
            own["actions"] &= bool(known[i])
            alone.append(learner({name: value[i : i + 1] for name, value in batch.items()}, own))
    for name in batch:
        counting = [i for i in range(6) if known[i] or name != "actions"]
        by_hand = sum(float(alone[i][name]) for i in counting) / len(counting)
        assert float(losses[name]) == pytest.approx(by_hand, rel=1e-4)


def all_but_the_last_action(learner: MTMLearner) -> masks.Mask:
    """The most that the autoregressive pattern ever shows."""
    return mask_of(learner, states=[0, 1, 2, 3], returns=[0, 1, 2, 3], actions=[0, 1, 2])


@KINDS
def test_a_tiny_batch_is_overfitted(bins: TokenizerConfig) -> None:
    learner = fakes.mtm_learner(width=48, tokenizer=bins, mask=MaskConfig(per="window"))
    sampler = fakes.sampler(count=1, steps=6)  # three windows
    windows = sampler.windows(torch.arange(3))
    mask = all_but_the_last_action(learner)

    def scores() -> tuple[float, float]:
        learner.eval()
        with torch.inference_mode():
            loss = float(learner(windows, mask)["loss"])
        return loss, held_out_error(learner, "id", [windows])

    loss, error = scores()
    optim = OptimConfig(learning_rate=3e-3, warmup_steps=20, steps=150, batch_size=16)
    state = TrainState(learner, optim, sampler, seed=0)
    for _ in range(optim.steps):
        state.train_step()
    fitted_loss, fitted_error = scores()
    # What is visible, or follows from it in three windows only, is known by heart.
    assert fitted_loss < 0.05 * loss
    assert fitted_error < 0.2 * error


def test_the_mtm_has_every_role_and_no_other() -> None:
    learner = fakes.mtm_learner()
    assert {learner.role(name).name for name in ROLES} == set(ROLES)
    with pytest.raises(UserError, match="unknown role 'pilot'"):
        learner.role("pilot")
