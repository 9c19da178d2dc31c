"""Masks: what is shown at random, what a cut hides, and what a window does not have."""

from __future__ import annotations

import pytest
import torch

from mtm import masks

STEPS = 4
TOKENS = {"states": 3, "returns": 1, "actions": 2}
"""Tokens a timestep, of every modality another number."""


def everything(count: int, tokens_per_step: dict[str, int] | None = None) -> masks.Mask:
    """Masks [count, T, P] that hide nothing."""
    sizes = tokens_per_step or TOKENS
    return {name: torch.ones(count, STEPS, p, dtype=torch.bool) for name, p in sizes.items()}


def test_an_empty_mask_hides_every_token() -> None:
    mask = masks.empty(STEPS, TOKENS)
    assert {name: tuple(tokens.shape) for name, tokens in mask.items()} == {
        "states": (4, 3),
        "returns": (4, 1),
        "actions": (4, 2),
    }
    assert not any(tokens.any() for tokens in mask.values())


def test_a_mask_is_shared_only_if_no_modality_has_one_for_each_window() -> None:
    shared = masks.empty(STEPS, TOKENS)
    assert masks.is_shared(shared)
    assert not masks.is_shared(everything(2))
    assert not masks.is_shared({**shared, "actions": everything(2)["actions"]})


@pytest.mark.parametrize(
    ("fraction", "shown"),
    [(0.0, (0, 0, 0)), (0.25, (3, 1, 2)), (0.5, (6, 2, 4)), (0.9, (11, 4, 7)), (1.0, (12, 4, 8))],
)
def test_a_random_subset_shows_the_fraction_of_each_modality(
    fraction: float, shown: tuple[int, ...]
) -> None:
    """Of 12, 4 and 8 tokens, to the nearest whole token."""
    drawn = masks.random_subset(STEPS, TOKENS, (fraction,), 50, torch.Generator().manual_seed(0))
    for tokens, expected in zip(drawn.values(), shown, strict=True):
        assert tokens.flatten(1).sum(1).tolist() == [expected] * 50


def test_a_random_subset_has_no_favourite_places() -> None:
    drawn = masks.random_subset(STEPS, TOKENS, (0.5,), 4000, torch.Generator().manual_seed(0))
    for tokens in drawn.values():
        # 5 standard deviations of 4,000 draws of a fair coin.
        assert (tokens.float().mean(0) - 0.5).abs().max() < 0.04


def test_every_fraction_is_drawn_equally_often_by_each_modality_for_itself() -> None:
    count = 9000
    drawn = masks.random_subset(
        STEPS, TOKENS, (0.25, 0.5, 1.0), count, torch.Generator().manual_seed(0)
    )
    shares = {name: tokens.float().mean((1, 2)) for name, tokens in drawn.items()}
    for states in (0.25, 0.5, 1.0):
        for actions in (0.25, 0.5, 1.0):
            both = (shares["states"] == states) & (shares["actions"] == actions)
            # 5 standard deviations of a share of 1/9 are 0.0166.
            assert abs(float(both.float().mean()) - 1 / 9) < 0.0166


@pytest.mark.parametrize("modality", range(3))
@pytest.mark.parametrize("step", range(STEPS))
def test_everything_from_the_cut_on_is_hidden_and_nothing_before(modality: int, step: int) -> None:
    shown = masks.hide_from(everything(1), torch.tensor([modality]), torch.tensor([step]))
    for i, (name, p) in enumerate(TOKENS.items()):
        for t in range(STEPS):
            before = (t, i) < (step, modality)
            assert shown[name][0, t].tolist() == [before] * p


def test_each_window_is_cut_at_its_own_place() -> None:
    modality, step = torch.tensor([2, 0, 1]), torch.tensor([3, 1, 0])
    together = masks.hide_from(everything(3), modality, step)
    for i in range(3):
        alone = masks.hide_from(everything(1), modality[i : i + 1], step[i : i + 1])
        for name, tokens in alone.items():
            assert torch.equal(together[name][i], tokens[0])


def test_a_cut_shows_nothing_anew_and_leaves_the_given_mask_as_it_was() -> None:
    generator = torch.Generator().manual_seed(0)
    given = masks.random_subset(STEPS, TOKENS, (0.5,), 20, generator)
    before = {name: tokens.clone() for name, tokens in given.items()}
    modality, step = torch.arange(20) % 3, torch.arange(20) % STEPS
    cut = masks.hide_from(given, modality, step)
    for name, tokens in cut.items():
        assert torch.equal(given[name], before[name])
        assert not (tokens & ~before[name]).any()


def test_what_the_whole_batch_lacks_is_hidden_in_the_one_mask() -> None:
    mask = {name: tokens[0] for name, tokens in everything(1).items()}
    shown = masks.hide_unknown(mask, {"actions": torch.tensor(False), "returns": torch.tensor(True)})
    assert masks.is_shared(shown)
    assert [bool(tokens.all()) for tokens in shown.values()] == [True, True, False]
    assert not shown["actions"].any()


@pytest.mark.parametrize("shared", [True, False])
def test_what_some_windows_lack_is_hidden_in_those(shared: bool) -> None:
    mask = everything(3)
    if shared:
        mask = {name: tokens[0] for name, tokens in mask.items()}
    shown = masks.hide_unknown(mask, {"actions": torch.tensor([True, False, True])})
    assert shown["actions"].flatten(1).all(1).tolist() == [True, False, True]
    assert shown["actions"].flatten(1).any(1).tolist() == [True, False, True]
    assert torch.equal(shown["states"], mask["states"])
    assert torch.equal(shown["returns"], mask["returns"])
