"""Training mask patterns against their definitions.

Frequencies are held to 5 standard deviations of the draws, so a right pattern fails once in a million.
"""

from __future__ import annotations

from collections import Counter
from math import sqrt

import pytest
import torch

from mtm import MaskConfig, UserError, masks, patterns
from tests import fakes

STEPS = 4
TOKENS = {"states": 1, "returns": 1, "actions": 1}


def draw(config: MaskConfig, count: int, seed: int = 0) -> masks.Mask:
    return patterns.draw(config, STEPS, TOKENS, count, torch.Generator().manual_seed(seed))


def as_texts(drawn: masks.Mask) -> list[str]:
    """Each mask as rows of 1 and 0: states, returns, actions."""
    rows = [tokens.flatten(1).long().tolist() for tokens in drawn.values()]
    return [" ".join("".join(map(str, row)) for row in window) for window in zip(*rows, strict=True)]


def margin(share: float, count: int) -> float:
    """5 standard deviations of a share among ``count`` draws."""
    return 5 * sqrt(share * (1 - share) / count)


def first_hidden(text: str) -> tuple[int, str]:
    """Where a mask was cut that hides nothing else."""
    rows = dict(zip(TOKENS, text.split(), strict=True))
    return next((t, name) for t in range(STEPS) for name in rows if rows[name][t] == "0")


@pytest.mark.parametrize("pattern", list(patterns.PATTERNS))
def test_every_pattern_gives_one_mask_for_each_window(pattern: str) -> None:
    sizes = {"states": 3, "returns": 1, "actions": 2}
    drawn = patterns.draw(MaskConfig(pattern), STEPS, sizes, 7, torch.Generator().manual_seed(0))
    assert {name: tuple(tokens.shape) for name, tokens in drawn.items()} == {
        "states": (7, 4, 3),
        "returns": (7, 4, 1),
        "actions": (7, 4, 2),
    }
    assert all(tokens.dtype == torch.bool for tokens in drawn.values())


def test_the_random_pattern_shows_the_drawn_fraction() -> None:
    drawn = draw(MaskConfig("random", visible_fractions=(0.5,)), 50)
    for tokens in drawn.values():
        assert tokens.flatten(1).sum(1).tolist() == [2] * 50


def test_the_autoregressive_cut_has_the_weights_of_its_definition() -> None:
    count = 6000
    cuts = [first_hidden(text) for text in as_texts(draw(MaskConfig(visible_fractions=(1.0,)), count))]
    for name, weight in {"states": 0.2, "returns": 0.1, "actions": 0.7}.items():
        assert abs(sum(cut[1] == name for cut in cuts) / count - weight) < margin(weight, count)
    for step in range(STEPS):
        assert abs(sum(cut[0] == step for cut in cuts) / count - 0.25) < margin(0.25, count)


def test_an_autoregressive_cut_leaves_nothing_after_it() -> None:
    for text in as_texts(draw(MaskConfig(visible_fractions=(1.0,)), 200)):
        rows = dict(zip(TOKENS, text.split(), strict=True))
        line = "".join(rows[name][t] for t in range(STEPS) for name in TOKENS)
        assert "01" not in line


def test_before_its_cut_the_autoregressive_pattern_shows_a_random_subset() -> None:
    """Where only actions are cut at, no cut reaches the first state, and three of four the last."""
    count = 6000
    drawn = draw(MaskConfig(visible_fractions=(0.5,), cut_weights={"actions": 1.0}), count)
    for step, uncut in [(0, 1.0), (3, 0.25)]:
        shown = float(drawn["states"][:, step].float().mean())
        assert abs(shown - 0.5 * uncut) < margin(0.5 * uncut, count)


def test_the_cut_weights_are_the_users() -> None:
    config = MaskConfig(visible_fractions=(1.0,), cut_weights={"returns": 2.0})
    assert {first_hidden(text)[1] for text in as_texts(draw(config, 300))} == {"returns"}


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("bc", ["1000 0000 0000"]),
        ("rcbc", ["1000 1111 0000", "1100 1111 1000", "1110 1111 1100", "1111 1111 1110"]),
        ("id", ["1100 0000 0000", "1110 0000 0000", "1111 0000 0000"]),
        ("fd", ["1000 0000 1000", "1100 0000 0100", "1110 0000 0010"]),
        ("goal", ["1001 0000 0000"]),
        ("waypoint", ["1100 0000 0000", "1010 0000 0000", "1001 0000 0000"]),
    ],
)
def test_a_roles_pattern_is_its_mask_at_every_place_each_as_likely(
    pattern: str, expected: list[str]
) -> None:
    count = 3000
    counts = Counter(as_texts(draw(MaskConfig(pattern), count)))
    assert set(counts) == set(expected)
    for times in counts.values():
        share = 1 / len(expected)
        assert abs(times / count - share) <= margin(share, count)


@pytest.mark.parametrize(
    ("pattern", "id_share"),
    [("0.2*id+0.8*random", 0.2), ("id + random", 0.5), ("3*id+1*random", 0.75), ("id+0*random", 1.0)],
)
def test_a_mixture_draws_each_pattern_by_its_weight(pattern: str, id_share: float) -> None:
    count = 4000
    counts = Counter(as_texts(draw(MaskConfig(pattern, visible_fractions=(1.0,)), count)))
    everything = counts.pop("1111 1111 1111", 0)
    assert abs(everything / count - (1 - id_share)) <= margin(id_share, count)
    # The rest is the pattern of ID, whose three masks stay equally likely.
    assert set(counts) == {"1100 0000 0000", "1110 0000 0000", "1111 0000 0000"}
    for times in counts.values():
        assert abs(times / count - id_share / 3) < margin(id_share / 3, count)


def test_a_role_may_be_mixed_with_the_autoregressive_pattern() -> None:
    count = 4000
    counts = Counter(as_texts(draw(MaskConfig("id+autoregressive", visible_fractions=(1.0,)), count)))
    # No cut shows two states without the return between them.
    of_id = sum(
        times for text, times in counts.items() if text[:2] == "11" and text.endswith("0000 0000")
    )
    assert abs(of_id / count - 0.5) < margin(0.5, count)
    cut = [text for text in counts if not (text[:2] == "11" and text.endswith("0000 0000"))]
    assert len(cut) == 12  # every modality at every step
    assert {first_hidden(text) for text in cut} == {(t, n) for t in range(STEPS) for n in TOKENS}


def test_a_pattern_named_twice_has_both_weights() -> None:
    mixture = MaskConfig("id+2*random+0.5*id").mixture()
    assert mixture == {"id": 1.5, "random": 2.0}


def test_a_mixture_falls_anew_for_each_window() -> None:
    drawn = draw(MaskConfig("0.5*bc+0.5*goal"), 64)
    kinds = as_texts(drawn)
    # 64 windows of one kind, by chance: 2 ** -63.
    assert set(kinds) == {"1000 0000 0000", "1001 0000 0000"}


@pytest.mark.parametrize("pattern", [*patterns.PATTERNS, "0.3*id+0.7*random"])
def test_the_generator_alone_decides_the_masks(pattern: str) -> None:
    config = MaskConfig(pattern)
    torch.manual_seed(1)
    untouched = torch.get_rng_state()
    first = draw(config, 40)
    assert torch.equal(torch.get_rng_state(), untouched)
    torch.manual_seed(2)
    again = draw(config, 40)
    assert all(torch.equal(first[name], again[name]) for name in TOKENS)


def test_other_seeds_give_other_masks() -> None:
    assert as_texts(draw(MaskConfig(), 20)) != as_texts(draw(MaskConfig(), 20, seed=1))


def test_masks_drawn_earlier_do_not_change_later_ones() -> None:
    """The masks of a role are kept; what a caller does to its own does not reach them."""
    first = draw(MaskConfig("waypoint"), 20)
    expected = as_texts(first)
    for tokens in first.values():
        tokens[:] = True
    assert as_texts(draw(MaskConfig("waypoint"), 20)) == expected


def test_per_window_a_learner_draws_one_mask_for_each_window() -> None:
    learner = fakes.mtm_learner(mask=MaskConfig(per="window"))
    drawn = learner.draw(torch.Generator().manual_seed(0), 64)
    assert {name: tuple(tokens.shape) for name, tokens in drawn.items()} == {
        name: (64, 4, 1) for name in TOKENS
    }
    assert len(set(as_texts(drawn))) > 10


def test_per_batch_a_learner_draws_one_mask_for_all() -> None:
    learner = fakes.mtm_learner(mask=MaskConfig(per="batch"))
    drawn = learner.draw(torch.Generator().manual_seed(0), 64)
    assert {name: tuple(tokens.shape) for name, tokens in drawn.items()} == {
        name: (4, 1) for name in TOKENS
    }


def test_a_learners_masks_are_those_of_its_pattern() -> None:
    learner = fakes.mtm_learner(mask=MaskConfig("fd", per="window"))
    drawn = learner.draw(torch.Generator().manual_seed(0), 100)
    assert set(as_texts(drawn)) == {"1000 0000 1000", "1100 0000 0100", "1110 0000 0010"}


def test_mask_ratios_are_the_same_config_as_the_fractions_that_they_leave_visible() -> None:
    assert MaskConfig(mask_ratios=(0.4,)) == MaskConfig(visible_fractions=(0.6,))
    assert MaskConfig(mask_ratios=(0.9,)) == MaskConfig(visible_fractions=(0.1,))  # 1 - 0.9 < 0.1
    hidden = (0.5, 0.4, 0.3, 0.2, 0.15, 0.1, 0.05, 0.0)
    assert MaskConfig(mask_ratios=hidden) == MaskConfig()


def test_a_mask_ratio_hides_that_share() -> None:
    drawn = draw(MaskConfig("random", mask_ratios=(0.25,)), 20)
    for tokens in drawn.values():
        assert tokens.flatten(1).sum(1).tolist() == [3] * 20


@pytest.mark.parametrize("pattern", ["pilot", "", "id+", "+id", "two-stage", "id+pilot", "0.5", "id*2"])
def test_a_pattern_that_does_not_exist_is_refused(pattern: str) -> None:
    with pytest.raises(UserError, match="the patterns are autoregressive, random, bc, rcbc, id, fd"):
        MaskConfig(pattern)


@pytest.mark.parametrize("pattern", ["much*id+random", "*id+random", "1..2*id"])
def test_a_weight_that_is_no_number_is_refused(pattern: str) -> None:
    with pytest.raises(UserError, match=r"has weight '.*'; use a number"):
        MaskConfig(pattern)


@pytest.mark.parametrize(
    "pattern", ["-1*id+2*random", "0*id", "0*id+0*random", "inf*id", "nan*id+random"]
)
def test_weights_that_make_no_shares_are_refused(pattern: str) -> None:
    with pytest.raises(UserError, match="needs weights that are not negative, nor all zero"):
        MaskConfig(pattern)


@pytest.mark.parametrize("fractions", [(), (1.5,), (-0.1,), (0.5, float("nan"))])
def test_bad_fractions_are_refused(fractions: tuple[float, ...]) -> None:
    with pytest.raises(UserError, match="visible_fractions"):
        MaskConfig(visible_fractions=fractions)


@pytest.mark.parametrize("ratios", [(1.5,), (0.5, -0.1)])
def test_bad_ratios_are_refused_by_the_name_that_the_user_gave(ratios: tuple[float, ...]) -> None:
    with pytest.raises(UserError, match="mask_ratios has"):
        MaskConfig(mask_ratios=ratios)


@pytest.mark.parametrize(
    "weights", [{"states": -1.0, "actions": 2.0}, {"states": 0.0}, {"rewards": 1.0}, {}]
)
def test_bad_cut_weights_are_refused(weights: dict[str, float]) -> None:
    with pytest.raises(UserError, match="cut_weights"):
        MaskConfig(cut_weights=weights)
