"""The model: nothing leaks from hidden tokens, one mask or many, and it has the paper's size."""

from __future__ import annotations

import math
from typing import Literal

import pytest
import torch

from mtm import MTM, MaskConfig, ModelConfig, TokenizerConfig, UserError, masks
from mtm.model import TokenEncoding, timestep_encoding
from mtm.roles import ROLES
from tests import fakes

Tokens = dict[str, torch.Tensor]
Per = Literal["batch", "window"]

WINDOWS = 8
KINDS = pytest.mark.parametrize("bins", [TokenizerConfig(), fakes.BINS], ids=["continuous", "discrete"])
"""Discrete modalities have a token for each dimension, and so unequal numbers of them."""


def model_and_tokens(bins: TokenizerConfig, windows: int = WINDOWS) -> tuple[MTM, Tokens]:
    learner = fakes.mtm_learner(tokenizer=bins).eval()
    return learner.model, learner.tokenizer.encode(fakes.windows(windows))


def shared_masks(learner: fakes.MTMLearner) -> list[masks.Mask]:
    """Masks [T, P]: some of training, those of the roles, everything and nothing visible."""
    generator = torch.Generator().manual_seed(0)
    tokens = learner.model.tokens_per_step
    nothing = masks.empty(learner.window, tokens)
    drawn = [learner.draw(generator, WINDOWS) for _ in range(5)]
    drawn += [ROLES[name].mask(learner.window, tokens, 0) for name in learner.roles]
    return [*drawn, {name: ~hidden for name, hidden in nothing.items()}, nothing]


def own_masks(tokens: Tokens, seed: int = 0) -> masks.Mask:
    """A mask for each window [B, T, P], of training; the first sees nothing, the second all."""
    generator = torch.Generator().manual_seed(seed)
    sizes = {name: value.shape[2] for name, value in tokens.items()}
    windows = len(tokens["states"])
    mask = masks.random_subset(4, sizes, (0.1, 0.3, 0.5, 0.8), windows, generator)
    for shown in mask.values():
        shown[0], shown[1] = False, True
    return mask


def with_hidden(tokens: Tokens, mask: masks.Mask, value: float) -> Tokens:
    """The tokens with another value wherever the mask hides them."""
    return {
        name: torch.where(mask[name][..., None], token, torch.full_like(token, value))
        for name, token in tokens.items()
    }


def gradients(model: MTM, tokens: Tokens, mask: masks.Mask) -> Tokens:
    """Of the sum of squares of all outputs, in all parameters."""
    model.zero_grad()
    torch.stack([out.square().sum() for out in model(tokens, mask).values()]).sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@KINDS
@pytest.mark.parametrize("hidden", [1e6, math.nan])
def test_a_hidden_token_cannot_influence_any_output(bins: TokenizerConfig, hidden: float) -> None:
    learner = fakes.mtm_learner(tokenizer=bins).eval()
    tokens = learner.tokenizer.encode(fakes.windows(WINDOWS))
    for mask in shared_masks(learner):
        expected = learner.model(tokens, mask)
        got = learner.model(with_hidden(tokens, mask, hidden), mask)
        for name in expected:
            assert torch.equal(expected[name], got[name])


@KINDS
@pytest.mark.parametrize("hidden", [1e6, math.nan])
def test_what_its_own_mask_hides_cannot_influence_any_output(
    bins: TokenizerConfig, hidden: float
) -> None:
    model, tokens = model_and_tokens(bins)
    mask = own_masks(tokens)
    expected, got = model(tokens, mask), model(with_hidden(tokens, mask, hidden), mask)
    for name in expected:
        assert torch.equal(expected[name], got[name])


@KINDS
def test_what_its_own_mask_hides_cannot_influence_any_gradient(bins: TokenizerConfig) -> None:
    model, tokens = model_and_tokens(bins)
    mask = own_masks(tokens)
    expected = gradients(model, tokens, mask)
    got = gradients(model, with_hidden(tokens, mask, math.nan), mask)
    assert len(expected) == len(list(model.parameters()))
    for name in expected:
        assert torch.equal(expected[name], got[name]), name


@KINDS
def test_outputs_have_a_slope_in_visible_tokens_only(bins: TokenizerConfig) -> None:
    model, tokens = model_and_tokens(bins)
    mask = own_masks(tokens)
    tokens = {name: token.requires_grad_() for name, token in tokens.items()}
    torch.stack([out.square().sum() for out in model(tokens, mask).values()]).sum().backward()
    for name, token in tokens.items():
        assert torch.equal((token.grad != 0).any(-1), mask[name])


def test_a_visible_token_influences_every_output() -> None:
    model, tokens = model_and_tokens(TokenizerConfig())
    everything = {name: torch.ones(4, 1, dtype=torch.bool) for name in tokens}
    for mask in (everything, {name: m.expand(WINDOWS, 4, 1) for name, m in everything.items()}):
        before = model(tokens, mask)
        after = model({**tokens, "returns": tokens["returns"] + torch.eye(4)[1][:, None, None]}, mask)
        for name in before:
            assert bool((before[name] != after[name]).flatten(2).any(2).all())


# The two paths sum in another order; outputs are of order 1, in single precision.
CLOSE = {"rtol": 1e-5, "atol": 2e-6}


@KINDS
def test_one_mask_for_all_or_the_same_for_each_makes_no_difference(bins: TokenizerConfig) -> None:
    learner = fakes.mtm_learner(tokenizer=bins).eval()
    tokens = learner.tokenizer.encode(fakes.windows(WINDOWS))
    for mask in shared_masks(learner):
        each = {name: shown.expand(WINDOWS, -1, -1) for name, shown in mask.items()}
        expected, got = learner.model(tokens, mask), learner.model(tokens, each)
        for name in expected:
            torch.testing.assert_close(got[name], expected[name], **CLOSE)


@KINDS
def test_one_mask_for_all_or_the_same_for_each_has_the_same_gradients(bins: TokenizerConfig) -> None:
    learner = fakes.mtm_learner(tokenizer=bins).eval()
    tokens = learner.tokenizer.encode(fakes.windows(WINDOWS))
    for mask in shared_masks(learner):
        each = {name: shown.expand(WINDOWS, -1, -1) for name, shown in mask.items()}
        got, expected = gradients(learner.model, tokens, each), gradients(learner.model, tokens, mask)
        for name in expected:
            # Gradients are sums over the batch, of order 100: 1e-4 is their rounding.
            torch.testing.assert_close(got[name], expected[name], rtol=1e-4, atol=1e-4, msg=name)


@KINDS
def test_windows_with_masks_of_their_own_answer_as_if_alone(bins: TokenizerConfig) -> None:
    model, tokens = model_and_tokens(bins)
    mask = own_masks(tokens)
    together = model(tokens, mask)
    for i in range(WINDOWS):
        alone = model(
            {name: token[i : i + 1] for name, token in tokens.items()},
            {name: shown[i] for name, shown in mask.items()},
        )
        for name in alone:
            torch.testing.assert_close(together[name][i : i + 1], alone[name], **CLOSE)


def test_one_modality_may_have_a_mask_for_each_window_and_the_others_one_for_all() -> None:
    """As in a mixed batch, where some windows lack the actions."""
    model, tokens = model_and_tokens(TokenizerConfig())
    own = own_masks(tokens)
    mask = {**own, "states": own["states"][5], "returns": own["returns"][5]}
    each = {
        **own,
        "states": own["states"][5].expand(8, 4, 1),
        "returns": own["returns"][5].expand(8, 4, 1),
    }
    expected, got = model(tokens, each), model(tokens, mask)
    for name in expected:
        assert torch.equal(got[name], expected[name])


def test_windows_of_a_batch_do_not_mix() -> None:
    learner = fakes.mtm_learner().eval()
    tokens = learner.tokenizer.encode(fakes.windows(6))
    mask = shared_masks(learner)[0]
    together = learner.model(tokens, mask)
    alone = learner.model({name: value[2:3] for name, value in tokens.items()}, mask)
    for name in together:
        torch.testing.assert_close(together[name][2:3], alone[name], **CLOSE)


@KINDS
def test_a_window_that_sees_nothing_is_finite_and_so_are_its_gradients(bins: TokenizerConfig) -> None:
    model, tokens = model_and_tokens(bins)
    nothing = {name: torch.zeros(token.shape[:3], dtype=torch.bool) for name, token in tokens.items()}
    for mask in (own_masks(tokens), nothing, {name: hidden[0] for name, hidden in nothing.items()}):
        assert all(out.isfinite().all() for out in model(tokens, mask).values())
        assert all(gradient.isfinite().all() for gradient in gradients(model, tokens, mask).values())


def test_a_window_that_sees_nothing_answers_the_same_whatever_it_holds() -> None:
    model, tokens = model_and_tokens(TokenizerConfig())
    nothing = {name: torch.zeros(token.shape[:3], dtype=torch.bool) for name, token in tokens.items()}
    for out in model(tokens, nothing).values():
        torch.testing.assert_close(out, out[:1].expand_as(out), **CLOSE)


@KINDS
@pytest.mark.parametrize("per", ["batch", "window"])
def test_every_parameter_has_a_gradient_whatever_the_mask(bins: TokenizerConfig, per: Per) -> None:
    """Else data-parallel workers would wait for one another for ever."""
    learner = fakes.mtm_learner(mask=MaskConfig(per=per), tokenizer=bins)
    batch = fakes.windows(WINDOWS)
    for mask in shared_masks(learner):
        for known in (
            {},
            {"actions": torch.tensor(False)},
            {"actions": torch.arange(WINDOWS) % 2 == 0},
        ):
            learner.zero_grad()
            learner(batch, mask, known)["loss"].backward()
            assert all(p.grad is not None for p in learner.parameters())


UNEQUAL = {"states": 3, "returns": 1, "actions": 2}


def rows_of(encoding: torch.Tensor, steps: int) -> Tokens:
    """An encoding [N, W] as [T, P, W] by modality."""
    parts = encoding.split([steps * p for p in UNEQUAL.values()])
    return {
        name: part.view(steps, p, -1) for (name, p), part in zip(UNEQUAL.items(), parts, strict=True)
    }


@pytest.mark.parametrize("order", [list(UNEQUAL), sorted(UNEQUAL), sorted(UNEQUAL, reverse=True)])
def test_every_token_is_told_its_timestep(order: list[str]) -> None:
    config = ModelConfig(width=8, heads=2, window=5)
    encoding = TokenEncoding(config, {name: UNEQUAL[name] for name in order})()
    rows, time = iter(encoding), timestep_encoding(5, 8)
    for name in order:
        for t in range(5):
            for _ in range(UNEQUAL[name]):
                assert torch.equal(next(rows), time[t])
    assert next(rows, None) is None


def test_every_token_is_told_its_modality_and_its_place_in_the_timestep() -> None:
    encoding = TokenEncoding(ModelConfig(width=8, heads=2, window=5), UNEQUAL)
    generator = torch.Generator().manual_seed(0)
    places = {name: torch.randn(p, 8, generator=generator) for name, p in UNEQUAL.items()}
    with torch.no_grad():
        for name, place in places.items():
            encoding.place[name].copy_(place)
    time = timestep_encoding(5, 8)
    for name, rows in rows_of(encoding(), 5).items():
        for t in range(5):
            assert torch.equal(rows[t], places[name] + time[t])


def test_timestep_encodings_by_hand() -> None:
    """Sines, then cosines, of the step and a hundredth of it, all halved."""
    encoding = timestep_encoding(3, 4)
    for t in range(3):
        by_hand = [f(t * rate) / 2 for f in (math.sin, math.cos) for rate in (1.0, 0.01)]
        assert encoding[t].tolist() == pytest.approx(by_hand, rel=1e-6)


def test_swapping_two_timesteps_of_discrete_tokens_swaps_their_answers() -> None:
    """If, and only if, the encodings of the two timesteps are swapped too: each stands at its tokens."""
    model, tokens = model_and_tokens(fakes.BINS)
    everything = {
        name: torch.ones(token.shape[1:3], dtype=torch.bool) for name, token in tokens.items()
    }
    swapped = {name: token[:, [2, 1, 0, 3]] for name, token in tokens.items()}
    expected, untold = model(tokens, everything), model(swapped, everything)
    for encoding in (model.encoder_encoding, model.decoder_encoding):
        encoding.time = encoding.time[[2, 1, 0, 3]]
    told = model(swapped, everything)
    for name, answer in expected.items():
        torch.testing.assert_close(told[name], answer[:, [2, 1, 0, 3]], **CLOSE)
        assert not torch.allclose(untold[name], answer[:, [2, 1, 0, 3]], rtol=0.01, atol=0.01)


@KINDS
def test_initial_weights_come_from_the_generator_alone(bins: TokenizerConfig) -> None:
    models: list[MTM] = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        models.append(fakes.mtm_learner(tokenizer=bins).model)
    first, second = (model.state_dict() for model in models)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_paper_size_has_the_papers_parameters() -> None:
    """11.06 M for Hopper (11 states, 3 actions) at the default width."""
    sizes = {"states": 11, "returns": 1, "actions": 3}
    model = MTM(ModelConfig(), sizes, dict.fromkeys(sizes, 1))
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 2) == 11.06


@pytest.mark.parametrize(
    "wrong", [{"width": 30, "heads": 4}, {"heads": 0}, {"dropout": 1.0}, {"window": 0}, {"window": 1}]
)
def test_impossible_sizes_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(UserError):
        ModelConfig(**wrong)  # type: ignore[arg-type]
