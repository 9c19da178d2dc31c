"""Windows by hand: where they lie, how often each is drawn, and which have actions."""

from __future__ import annotations

from math import sqrt

import pytest
import torch

from mtm import HeteromodalConfig, UserError, WindowSampler
from mtm.sampler import BatchKind
from mtm.trajectory import Batch


def numbered(first: int, steps: int) -> Batch:
    """Every step has its number as its state, and the negative of it as its action."""
    number = torch.arange(first, first + steps).float()[:, None]
    return {"states": number, "returns": number / 2, "actions": -number}


def margin(share: float, count: int) -> float:
    """5 standard deviations of a share among ``count`` draws."""
    return 5 * sqrt(share * (1 - share) / count)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


# Two labelled episodes of 3 and 2 windows among two unlabelled ones of 4 and 1.
HALF = [numbered(100, 6), numbered(200, 5), numbered(300, 3), numbered(400, 4)]
LABELLED = [False, True, False, True]
FIRST_STATES = {200, 201, 202, 400, 401}, {100, 101, 102, 103, 300}
"""First states of the labelled windows, and of the unlabelled."""


def half_labelled() -> WindowSampler:
    return WindowSampler(HALF, window=3, labelled=LABELLED)


def test_windows_by_hand() -> None:
    sampler = WindowSampler([numbered(1, 4), numbered(100, 2), numbered(200, 3)], window=3)
    windows = sampler.windows(torch.arange(len(sampler)))
    # The episode of two steps holds no window, and none crosses from one episode to another.
    assert windows["states"][..., 0].tolist() == [[1, 2, 3], [2, 3, 4], [200, 201, 202]]
    assert torch.equal(windows["actions"], -windows["states"])
    assert torch.equal(windows["returns"], windows["states"] / 2)


def test_every_window_is_drawn_equally_often() -> None:
    sampler = WindowSampler([numbered(0, 12)], window=3)
    index, known = sampler.draw(20_000, generator())
    shares = torch.bincount(index, minlength=len(sampler)) / len(index)
    assert len(sampler) == 10
    assert known == {}
    assert (shares - 0.1).abs().max() < margin(0.1, 20_000)


def test_no_window_at_all_is_said() -> None:
    with pytest.raises(UserError, match="none of 2 episodes with actions holds a window of 5 steps"):
        WindowSampler([numbered(0, 4), numbered(0, 3)], window=5)


def test_no_window_with_actions_is_said() -> None:
    """However many windows there are without."""
    with pytest.raises(UserError, match=r"none of 1 episodes with actions .* \(the longest has 3\)"):
        WindowSampler([numbered(0, 9), numbered(0, 3)], window=5, labelled=[False, True])
    with pytest.raises(UserError, match="none of 0 episodes with actions"):
        WindowSampler([numbered(0, 9)], window=5, labelled=[False])


def test_the_actions_of_unlabelled_episodes_are_not_even_kept() -> None:
    sampler = half_labelled()
    windows = sampler.windows(torch.arange(len(sampler)))
    labelled = windows["states"][:, 0, 0] // 100 % 2 == 0  # those that begin with 2 or 4
    assert torch.equal(windows["actions"][labelled], -windows["states"][labelled])
    assert not windows["actions"][~labelled].any()
    assert windows["states"][~labelled].all()
    assert windows["returns"][~labelled].all()


def test_the_callers_episodes_keep_their_actions() -> None:
    episodes = [numbered(100, 6), numbered(200, 5)]
    WindowSampler(episodes, window=3, labelled=[True, False])
    assert torch.equal(episodes[1]["actions"], numbered(200, 5)["actions"])


def test_labels_lose_no_window() -> None:
    sampler = half_labelled()
    first = sampler.windows(torch.arange(len(sampler)))["states"][:, 0, 0]
    assert sorted(first.tolist()) == sorted(FIRST_STATES[0] | FIRST_STATES[1])
    assert sampler.labelled_windows == 5


def drawn(kind: BatchKind, count: int = 10_000) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """First states of the windows of a batch, and what is known of them."""
    sampler = half_labelled()
    index, known = sampler.draw(count, generator(), kind)
    return sampler.windows(index)["states"][:, 0, 0], known


def assert_equally_often(first: torch.Tensor, expected: set[int]) -> None:
    values, counts = first.unique(return_counts=True)
    assert set(values.long().tolist()) == expected
    share = 1 / len(expected)
    assert (counts / len(first) - share).abs().max() < margin(share, len(first))


def test_a_full_batch_is_drawn_from_labelled_episodes_only() -> None:
    first, known = drawn("full")
    assert_equally_often(first, FIRST_STATES[0])
    assert known == {}


def test_a_state_only_batch_is_drawn_from_all_episodes_and_knows_no_action() -> None:
    first, known = drawn("state-only")
    assert_equally_often(first, FIRST_STATES[0] | FIRST_STATES[1])
    assert set(known) == {"actions"}
    assert known["actions"].shape == ()
    assert not known["actions"]


def test_in_a_mixed_batch_full_and_state_only_windows_take_turns() -> None:
    first, known = drawn("mixed")
    assert known["actions"].tolist() == [True, False] * 5000
    assert_equally_often(first[0::2], FIRST_STATES[0])
    assert_equally_often(first[1::2], FIRST_STATES[0] | FIRST_STATES[1])


def test_a_mixed_batch_without_a_half_is_refused() -> None:
    with pytest.raises(UserError, match="a mixed batch of 7 windows has no half"):
        half_labelled().draw(7, generator(), "mixed")


@pytest.mark.parametrize("kind", ["full", "state-only", "mixed"])
def test_where_all_episodes_are_labelled_every_batch_is_full(kind: BatchKind) -> None:
    sampler = WindowSampler(HALF, window=3)
    index, known = sampler.draw(50, generator(), kind)
    assert known == {}
    assert torch.equal(index, sampler.draw(50, generator())[0])


@pytest.mark.parametrize("kind", ["full", "state-only", "mixed"])
def test_the_generator_alone_decides_the_windows(kind: BatchKind) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first, _ = drawn(kind, 20)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(drawn(kind, 20)[0], first)


def test_windows_spread_evenly_are_the_same_every_time_and_span_the_data() -> None:
    sampler = WindowSampler([numbered(0, 12)], window=3)
    batches = list(sampler.evenly(4, batch_size=3))
    assert [len(batch["states"]) for batch in batches] == [3, 1]
    first = torch.cat([batch["states"][:, 0, 0] for batch in batches])
    assert first.tolist() == [0, 3, 6, 9]
    everything = torch.cat([batch["states"][:, 0, 0] for batch in sampler.evenly(99, 4)])
    assert everything.tolist() == list(range(10))


@pytest.mark.parametrize(
    ("state_only_per_full", "kinds"),
    [
        (0, "full full full full full full"),
        (1, "full state-only full state-only full state-only"),
        (2, "full state-only state-only full state-only state-only"),
    ],
)
def test_state_only_batches_follow_each_full_one(state_only_per_full: int, kinds: str) -> None:
    config = HeteromodalConfig(0.5, state_only_per_full=state_only_per_full)
    assert [config.kind(step) for step in range(6)] == kinds.split()


def test_mixed_batches_are_mixed_at_every_step() -> None:
    config = HeteromodalConfig(0.5, batches="mixed", state_only_per_full=3)
    assert {config.kind(step) for step in range(10)} == {"mixed"}


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.01, float("nan")])
def test_an_impossible_share_of_labels_is_refused(fraction: float) -> None:
    with pytest.raises(UserError, match=r"labelled_fraction is .*; it must lie in \(0, 1\]"):
        HeteromodalConfig(fraction)


def test_fewer_than_no_state_only_batches_are_refused() -> None:
    with pytest.raises(UserError, match="state_only_per_full is -1; it must not be negative"):
        HeteromodalConfig(0.5, state_only_per_full=-1)
