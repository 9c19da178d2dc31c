"""Returns-to-go, windows and normalisation against a hand-computed episode."""

from __future__ import annotations

import pytest
import torch

from mtm import Modality, UserError, WindowSampler, returns_to_go
from mtm.tokenizers import ContinuousTokenizer


def test_return_to_go_by_hand() -> None:
    # Horizon 10: after t=0 come 2 + 3 = 5 over 10 steps, after t=1 comes 3 over 9, then nothing.
    expected = torch.tensor([5 / 10, 3 / 9, 0.0])
    torch.testing.assert_close(returns_to_go(torch.tensor([1.0, 2.0, 3.0]), horizon=10), expected)


def test_return_to_go_refuses_an_episode_beyond_the_horizon() -> None:
    with pytest.raises(UserError, match="longer than the horizon"):
        returns_to_go(torch.ones(5), horizon=4)


def numbered(first: int, steps: int) -> dict[str, torch.Tensor]:
    return {"states": torch.arange(first, first + steps).float()[:, None]}


def test_windows_by_hand() -> None:
    sampler = WindowSampler([numbered(0, 4), numbered(100, 2), numbered(200, 3)], window=3)
    windows = sampler.windows(torch.arange(len(sampler)))["states"][..., 0].tolist()
    # The episode of two steps holds no window, and none crosses from one episode to another.
    assert windows == [[0, 1, 2], [1, 2, 3], [200, 201, 202]]


def test_every_window_is_drawn_equally_often() -> None:
    sampler = WindowSampler([numbered(0, 12)], window=3)
    index = sampler.draw(20_000, torch.Generator().manual_seed(0))
    shares = torch.bincount(index, minlength=len(sampler)) / len(index)
    assert len(sampler) == 10
    assert (shares - 0.1).abs().max() < 0.01


def test_no_window_at_all_is_said() -> None:
    with pytest.raises(UserError, match="none of 2 episodes holds a window of 5 steps"):
        WindowSampler([numbered(0, 4), numbered(0, 3)], window=5)


def test_tokens_are_normalised_and_come_back() -> None:
    values = (
        torch.randn(500, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([2.0, 0.5, 0.01])
        + 4
    )
    tokenizer = ContinuousTokenizer(Modality("states", 3))
    tokenizer.fit(values)
    tokens = tokenizer.encode(values[None])
    assert tokens.shape == (1, 500, 1, 3)
    std, mean = torch.std_mean(tokens[0, :, 0], dim=0, correction=0)
    torch.testing.assert_close(mean, torch.zeros(3), atol=1e-4, rtol=0)
    # The last feature hardly varies: it is centred and left at its scale, not blown up.
    torch.testing.assert_close(std, torch.tensor([1.0, 1.0, 0.01]), atol=1e-3, rtol=0)
    torch.testing.assert_close(tokenizer.decode(tokens)[0], values)
