"""The model: nothing leaks from hidden tokens, it has the paper's size, and it learns."""

from __future__ import annotations

import pytest
import torch

from mtm import MTM, ModelConfig, OptimConfig, TrainState, UserError, held_out_error, masks
from mtm.loss import reconstruction
from mtm.roles import ROLES
from tests import fakes


def drawn_masks(learner: fakes.MTMLearner) -> list[masks.Mask]:
    generator = torch.Generator().manual_seed(0)
    tokens = learner.model.tokens_per_step
    drawn = [learner.draw(generator) for _ in range(5)]
    drawn += [ROLES[name].mask(learner.window, tokens, 2) for name in learner.roles]
    return [*drawn, masks.empty(learner.window, tokens)]


def test_a_hidden_token_cannot_influence_any_output() -> None:
    learner = fakes.mtm_learner().eval()
    tokens = learner.tokenizer.encode(fakes.sampler().windows(torch.arange(8)))
    for mask in drawn_masks(learner):
        expected = learner.model(tokens, mask)
        perturbed = {
            name: torch.where(mask[name][None, ..., None], value, torch.full_like(value, 1e6))
            for name, value in tokens.items()
        }
        got = learner.model(perturbed, mask)
        for name in expected:
            assert torch.equal(expected[name], got[name])


def test_a_visible_token_influences_every_output() -> None:
    learner = fakes.mtm_learner().eval()
    tokens = learner.tokenizer.encode(fakes.sampler().windows(torch.arange(8)))
    mask = {name: torch.ones(4, 1, dtype=torch.bool) for name in tokens}
    before = learner.model(tokens, mask)
    tokens["returns"] = tokens["returns"].clone()
    tokens["returns"][:, 1] += 1.0
    after = learner.model(tokens, mask)
    for name in before:
        assert bool((before[name] != after[name]).flatten(2).any(2).all())


def test_windows_of_a_batch_do_not_mix() -> None:
    learner = fakes.mtm_learner().eval()
    tokens = learner.tokenizer.encode(fakes.sampler().windows(torch.arange(6)))
    mask = drawn_masks(learner)[0]
    together = learner.model(tokens, mask)
    alone = learner.model({name: value[2:3] for name, value in tokens.items()}, mask)
    for name in together:
        torch.testing.assert_close(together[name][2:3], alone[name], rtol=1e-5, atol=1e-6)


def test_the_paper_size_has_the_papers_parameters() -> None:
    """11.06 M for Hopper (11 states, 3 actions) at the default width."""
    sizes = {"states": 11, "returns": 1, "actions": 3}
    model = MTM(ModelConfig(), sizes, dict.fromkeys(sizes, 1))
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 2) == 11.06


def test_every_parameter_has_a_gradient_whatever_the_mask() -> None:
    """Else data-parallel workers would wait for one another for ever."""
    learner = fakes.mtm_learner()
    batch = fakes.sampler().windows(torch.arange(8))
    for mask in drawn_masks(learner):
        learner.zero_grad()
        learner(batch, mask)["loss"].backward()
        assert all(p.grad is not None for p in learner.parameters())


def test_loss_counts_visible_and_hidden_tokens_alike() -> None:
    tokens = {"states": torch.zeros(2, 4, 1, 5), "actions": torch.zeros(2, 4, 1, 2)}
    predicted = {"states": torch.ones(2, 4, 1, 5), "actions": torch.full((2, 4, 1, 2), 2.0)}
    losses = reconstruction(predicted, tokens)
    assert {k: float(v) for k, v in losses.items()} == {"loss": 5.0, "states": 1.0, "actions": 4.0}


def test_a_tiny_batch_is_overfitted() -> None:
    learner = fakes.mtm_learner(width=64)
    sampler = fakes.sampler(count=1, steps=6)  # three windows
    optim = OptimConfig(learning_rate=3e-3, warmup_steps=20, steps=600, batch_size=16)
    windows = [sampler.windows(torch.arange(3))]
    untrained = held_out_error(learner, "id", windows)
    state = TrainState(learner, optim, sampler, seed=0)
    first = float(state.train_step()["loss"])
    for _ in range(optim.steps - 1):
        losses = state.train_step()
    assert float(losses["loss"]) < 0.01 * first
    assert held_out_error(learner, "id", windows) < 0.2 * untrained


@pytest.mark.parametrize(
    "wrong", [{"width": 30, "heads": 4}, {"heads": 0}, {"dropout": 1.0}, {"window": 0}, {"window": 1}]
)
def test_impossible_sizes_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(UserError):
        ModelConfig(**wrong)  # type: ignore[arg-type]
