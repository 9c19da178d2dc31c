"""Returns-to-go against a hand-computed episode, and modalities that cannot be."""

from __future__ import annotations

import pytest
import torch

from mtm import Modality, TokenizerConfig, UserError, returns_to_go, standard_modalities


def test_return_to_go_by_hand() -> None:
    # Horizon 10: after t=0 come 2 + 3 = 5 over 10 steps, after t=1 comes 3 over 9, then nothing.
    expected = torch.tensor([5 / 10, 3 / 9, 0.0])
    torch.testing.assert_close(returns_to_go(torch.tensor([1.0, 2.0, 3.0]), horizon=10), expected)


def test_return_to_go_refuses_an_episode_beyond_the_horizon() -> None:
    with pytest.raises(UserError, match="longer than the horizon"):
        returns_to_go(torch.ones(5), horizon=4)


def test_modalities_are_continuous_unless_bins_are_asked_for() -> None:
    assert [(m.name, m.dim, m.bins) for m in standard_modalities(5, 2)] == [
        ("states", 5, 0),
        ("returns", 1, 0),
        ("actions", 2, 0),
    ]
    bins = TokenizerConfig(states=512, actions=32)
    assert [m.bins for m in standard_modalities(5, 2, bins)] == [512, 0, 32]


@pytest.mark.parametrize("bins", [1, -1, -512])
def test_bins_that_tell_nothing_apart_are_refused(bins: int) -> None:
    with pytest.raises(UserError, match=f"actions has {bins} bins; use at least 2, or 0"):
        Modality("actions", 2, bins)
    with pytest.raises(UserError, match=f"returns has {bins} bins; use at least 2, or 0"):
        TokenizerConfig(returns=bins)


def test_a_modality_without_dimensions_is_refused() -> None:
    with pytest.raises(UserError, match="'states' has 0 dimensions"):
        Modality("states", 0)
