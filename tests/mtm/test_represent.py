"""Features: the encoder's outputs for a single step, and nothing else."""

from __future__ import annotations

import pytest
import torch

from mtm import MTMLearner, features
from mtm.model import timestep_encoding
from tests import fakes

WIDTH, STEPS = 32, 6


def steps() -> tuple[torch.Tensor, torch.Tensor]:
    """States [B, S] and actions [B, A] of an episode's first steps."""
    episode = fakes.episodes()[0]
    return episode["states"][:STEPS], episode["actions"][:STEPS]


def by_hand(learner: MTMLearner, **seen: torch.Tensor) -> torch.Tensor:
    """Tokens of the first timestep, embedded, told where they stand, and encoded among themselves."""
    model, embedded = learner.model, []
    time = timestep_encoding(learner.window, WIDTH)[0]
    for name, values in seen.items():
        tokens = learner.tokenizer[name].encode(values[:, None])[:, 0]
        place = model.encoder_encoding.place[name][0]
        embedded.append(model.encoder_embed[name](tokens) + place + time)
    return model.encoder(torch.cat(embedded, dim=1)).flatten(1)


@pytest.mark.parametrize(
    ("bins", "tokens"),
    [(None, (1, 2)), (fakes.BINS, (fakes.STATE_DIM, fakes.STATE_DIM + fakes.ACTION_DIM))],
)
def test_features_are_the_encoders_outputs_at_the_tokens_that_are_seen(
    bins: fakes.TokenizerConfig | None, tokens: tuple[int, int]
) -> None:
    """One token of the states, one of the actions; with bins, one for each dimension."""
    learner = fakes.mtm_learner(width=WIDTH, tokenizer=bins).eval()
    states, actions = steps()
    of_states, of_both = features(learner, states), features(learner, states, actions)
    assert of_states.shape == (STEPS, tokens[0] * WIDTH)
    assert of_both.shape == (STEPS, tokens[1] * WIDTH)
    # Another order of the same sums, in single precision.
    torch.testing.assert_close(of_states, by_hand(learner, states=states), rtol=1e-5, atol=1e-5)
    expected = by_hand(learner, states=states, actions=actions)
    torch.testing.assert_close(of_both, expected, rtol=1e-5, atol=1e-5)


def test_features_depend_on_the_given_step_only() -> None:
    learner = fakes.mtm_learner().eval()
    states, actions = steps()
    for given in [(states,), (states, actions)]:
        together = features(learner, *given)
        for i in range(STEPS):
            alone = features(learner, *(values[i : i + 1] for values in given))
            torch.testing.assert_close(alone, together[i : i + 1], rtol=1e-5, atol=1e-5)


def test_features_tell_steps_apart() -> None:
    learner = fakes.mtm_learner().eval()
    states, actions = steps()
    between = torch.cdist(features(learner, states), features(learner, states))
    assert (between + torch.eye(STEPS) > 0.01).all()
    moved = features(learner, states, actions + 0.5) - features(learner, states, actions)
    assert (moved.abs() > 1e-3).any(1).all()


def test_gradients_reach_the_encoder_and_the_states() -> None:
    states, actions = (values.clone().requires_grad_() for values in steps())
    features(fakes.mtm_learner(), states).square().sum().backward()
    assert states.grad is not None
    assert (states.grad != 0).all()
    states.grad, learner = None, fakes.mtm_learner()
    features(learner, states, actions).square().sum().backward()
    for given in (states, actions):
        assert given.grad is not None
        assert (given.grad != 0).all()
    model = learner.model
    for part in (model.encoder, model.encoder_embed["states"], model.encoder_embed["actions"]):
        assert all(p.grad is not None and p.grad.any() for p in part.parameters())
    for part in (model.decoder, model.head, model.encoder_embed["returns"]):
        assert not any(p.grad is not None and p.grad.any() for p in part.parameters())


def test_features_can_be_frozen() -> None:
    states, _ = steps()
    with torch.no_grad():
        assert not features(fakes.mtm_learner(), states).requires_grad
