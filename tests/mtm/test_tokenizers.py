"""Tokens and back: nothing is lost but what a bin cannot hold."""

from __future__ import annotations

import pytest
import torch

from mtm import Modality
from mtm.tokenizers import ContinuousTokenizer, DiscreteTokenizer, TrajectoryTokenizer
from tests import fakes

BINS = 16


def samples(scale: tuple[float, ...] = (2.0, 0.5, 0.01)) -> torch.Tensor:
    values = torch.randn(500, len(scale), generator=torch.Generator().manual_seed(0))
    return values * torch.tensor(scale) + 4


def fitted(values: torch.Tensor) -> DiscreteTokenizer:
    tokenizer = DiscreteTokenizer(Modality("states", values.shape[1], BINS))
    tokenizer.fit(values)
    return tokenizer


def bins_of(tokenizer: DiscreteTokenizer, values: torch.Tensor) -> torch.Tensor:
    """The bin of each value [steps, dim]."""
    return tokenizer.encode(values[None])[0].argmax(-1)


def test_continuous_tokens_are_normalised_and_come_back() -> None:
    values = samples()
    tokenizer = ContinuousTokenizer(Modality("states", 3))
    tokenizer.fit(values)
    tokens = tokenizer.encode(values[None])
    assert tokens.shape == (1, 500, 1, 3)
    std, mean = torch.std_mean(tokens[0, :, 0], dim=0, correction=0)
    torch.testing.assert_close(mean, torch.zeros(3), atol=1e-4, rtol=0)
    # The last feature hardly varies: it is centred and left at its scale, not blown up.
    torch.testing.assert_close(std, torch.tensor([1.0, 1.0, 0.01]), atol=1e-3, rtol=0)
    torch.testing.assert_close(tokenizer.decode(tokens)[0], values)


@pytest.mark.parametrize("kind", [ContinuousTokenizer, DiscreteTokenizer])
def test_every_tokenizer_normalises_to_units_of_the_training_data(
    kind: type[ContinuousTokenizer | DiscreteTokenizer],
) -> None:
    tokenizer = kind(Modality("states", 2, BINS))
    tokenizer.fit(torch.tensor([[1.0, 10.0], [3.0, 20.0]]))
    normalised = tokenizer.normalise(torch.tensor([[2.0, 15.0], [3.0, 25.0]]))
    assert normalised.tolist() == [[0.0, 0.0], [1.0, 2.0]]


def test_a_discrete_modality_has_a_token_for_each_dimension_one_hot() -> None:
    values = samples()
    tokens = fitted(values).encode(values[None])
    assert tokens.shape == (1, 500, 3, BINS)
    assert tokens.dtype == values.dtype
    assert ((tokens == 0) | (tokens == 1)).all()
    assert (tokens.sum(-1) == 1).all()


def test_bins_by_hand() -> None:
    """16 bins over [0, 16], the training range, and a second feature over [-8, 8]."""
    tokenizer = fitted(torch.tensor([[0.0, -8.0], [16.0, 8.0]]))
    values = torch.tensor([[0.0, -8.0], [0.9, -7.1], [1.1, -6.9], [7.5, 0.5], [15.9, 7.9], [16.0, 8.0]])
    assert bins_of(tokenizer, values).tolist() == [[0, 0], [0, 0], [1, 1], [7, 8], [15, 15], [15, 15]]
    decoded = tokenizer.decode(tokenizer.encode(values[None]))[0]
    assert decoded[:, 0].tolist() == [0.5, 0.5, 1.5, 7.5, 15.5, 15.5]
    assert decoded[:, 1].tolist() == [-7.5, -7.5, -6.5, 0.5, 7.5, 7.5]


def test_discrete_values_come_back_within_half_a_bin() -> None:
    values = samples()
    tokenizer = fitted(values)
    back = tokenizer.decode(tokenizer.encode(values[None]))[0]
    half = (values.amax(0) - values.amin(0)) / BINS / 2
    # Values near 4 have a rounding error of some 2e-7 in single precision.
    assert ((back - values).abs() <= half + 1e-6).all()
    assert ((back - values).abs().amax(0) > 0.9 * half).all()


def test_every_bin_of_the_training_range_is_used() -> None:
    values = torch.linspace(-3, 5, 500)[:, None]
    counts = bins_of(fitted(values), values).flatten().bincount(minlength=BINS)
    assert counts.min() >= 31
    assert counts.max() <= 32


@pytest.mark.parametrize("distance", [0.001, 1.0, 1e6, 1e20, float("inf")])
def test_values_outside_the_training_range_fall_into_the_outer_bins(distance: float) -> None:
    tokenizer = fitted(torch.tensor([[-1.0], [1.0]]))
    outside = torch.tensor([[-1.0 - distance], [1.0 + distance]])
    assert bins_of(tokenizer, outside).flatten().tolist() == [0, BINS - 1]


def test_a_feature_that_never_varies_keeps_its_value() -> None:
    values = torch.tensor([[4.0, 0.0, 1.0], [4.0, 0.0, 2.0]])
    tokenizer = fitted(values)
    tokens = tokenizer.encode(values[None])
    assert (tokens.sum(-1) == 1).all()
    torch.testing.assert_close(tokenizer.decode(tokens)[0, :, :2], values[:, :2], atol=1e-6, rtol=0)
    # Other values than the one of training lie below or above it.
    other = torch.tensor([[3.0, -1.0, 1.0], [5.0, 1.0, 2.0]])
    assert bins_of(tokenizer, other)[:, :2].tolist() == [[0, 0], [BINS - 1, BINS - 1]]


def test_logits_decode_to_the_centre_of_the_likeliest_bin() -> None:
    tokenizer = fitted(torch.tensor([[0.0], [16.0]]))
    logits = torch.full((1, 1, BINS), -3.0)
    logits[0, 0, 6] = -2.0
    assert tokenizer.decode(logits).tolist() == [[6.5]]


def test_modalities_of_both_kinds_go_side_by_side() -> None:
    batch = fakes.windows(3)
    learner = fakes.mtm_learner(tokenizer=fakes.TokenizerConfig(actions=12))
    tokenizer = learner.tokenizer
    assert tokenizer.discrete == {"actions"}
    tokens = tokenizer.encode(batch)
    assert {name: tuple(value.shape) for name, value in tokens.items()} == {
        "states": (3, 4, 1, fakes.STATE_DIM),
        "returns": (3, 4, 1, 1),
        "actions": (3, 4, fakes.ACTION_DIM, 12),
    }
    back = tokenizer.decode(tokens)
    torch.testing.assert_close(back["states"], batch["states"])
    bin_width = (tokenizer["actions"].high - tokenizer["actions"].low) / 12
    assert ((back["actions"] - batch["actions"]).abs() <= bin_width / 2 + 1e-6).all()


def test_the_training_range_is_that_of_the_data() -> None:
    tokenizer = TrajectoryTokenizer(fakes.MODALITIES)
    data = fakes.joined(fakes.episodes())
    tokenizer.fit(data)
    for name, values in data.items():
        assert torch.equal(tokenizer[name].low, values.amin(0))
        assert torch.equal(tokenizer[name].high, values.amax(0))
