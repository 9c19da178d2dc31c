"""Masks and roles against their definitions."""

from __future__ import annotations

import pytest
import torch

from mtm import MaskConfig, UserError, masks
from mtm.roles import ROLES, get_role

TOKENS = {"states": 1, "returns": 1, "actions": 1}
STEPS = 4


def draw_many(config: MaskConfig, count: int) -> list[masks.Mask]:
    generator = torch.Generator().manual_seed(0)
    return [masks.draw(config, STEPS, TOKENS, generator) for _ in range(count)]


def test_random_pattern_shows_the_drawn_fraction() -> None:
    config = MaskConfig(pattern="random", visible_fractions=(0.5,))
    for mask in draw_many(config, 50):
        assert all(int(tokens.sum()) == 2 for tokens in mask.values())


def test_random_pattern_has_no_favourite_places() -> None:
    drawn = draw_many(MaskConfig(pattern="random", visible_fractions=(0.5,)), 4000)
    for name in TOKENS:
        shown = torch.stack([mask[name].flatten() for mask in drawn]).float().mean(0)
        assert (shown - 0.5).abs().max() < 0.04  # 5 standard deviations of 4,000 draws


def test_every_visible_fraction_is_drawn_equally_often() -> None:
    drawn = draw_many(MaskConfig(pattern="random", visible_fractions=(0.25, 0.5, 1.0)), 3000)
    counts = torch.tensor([int(mask["states"].sum()) for mask in drawn])
    for visible in (1, 2, 4):
        assert abs(float((counts == visible).float().mean()) - 1 / 3) < 0.05


def first_hidden(mask: masks.Mask) -> tuple[int, str]:
    """The cut of a mask drawn with everything else visible."""
    order = [(t, name) for t in range(STEPS) for name in mask if not mask[name][t].all()]
    return order[0]


def test_autoregressive_cut_has_the_weights_of_its_definition() -> None:
    config = MaskConfig(visible_fractions=(1.0,))
    cuts = [first_hidden(mask) for mask in draw_many(config, 6000)]
    for name, weight in {"states": 0.2, "returns": 0.1, "actions": 0.7}.items():
        assert abs(sum(cut[1] == name for cut in cuts) / len(cuts) - weight) < 0.03
    for step in range(STEPS):
        assert abs(sum(cut[0] == step for cut in cuts) / len(cuts) - 1 / STEPS) < 0.03


@pytest.mark.parametrize("modality", list(TOKENS))
@pytest.mark.parametrize("step", range(STEPS))
def test_everything_from_the_cut_on_is_hidden_and_nothing_before(modality: str, step: int) -> None:
    mask = {name: torch.ones(STEPS, p, dtype=torch.bool) for name, p in TOKENS.items()}
    masks.hide_from(mask, modality, step)
    order = list(TOKENS)
    for name in TOKENS:
        for t in range(STEPS):
            before = (t, order.index(name)) < (step, order.index(modality))
            assert bool(mask[name][t]) == before


def test_no_global_randomness_is_used() -> None:
    torch.manual_seed(1)
    first = draw_many(MaskConfig(), 5)
    torch.manual_seed(2)
    second = draw_many(MaskConfig(), 5)
    assert all(torch.equal(a[name], b[name]) for a, b in zip(first, second, strict=True) for name in a)


def as_text(role: str, position: int) -> str:
    """Visible tokens as rows of 1 and 0: states, returns, actions."""
    mask = ROLES[role].mask(STEPS, TOKENS, position)
    return " ".join("".join(str(int(v)) for v in tokens.flatten()) for tokens in mask.values())


@pytest.mark.parametrize(
    ("role", "position", "expected"),
    [
        ("bc", 0, "1000 0000 0000"),
        ("rcbc", 0, "1000 1111 0000"),
        ("rcbc", 3, "1111 1111 1110"),
        ("id", 2, "1111 0000 0000"),
        ("fd", 2, "1110 0000 0010"),
    ],
)
def test_roles_see_what_the_paper_says(role: str, position: int, expected: str) -> None:
    assert as_text(role, position) == expected


@pytest.mark.parametrize(
    ("role", "output", "step"), [("id", "actions", STEPS - 2), ("fd", "states", STEPS - 1)]
)
def test_predicting_roles_read_the_token_the_paper_names(role: str, output: str, step: int) -> None:
    assert ROLES[role].output == output
    assert STEPS - 2 + ROLES[role].offset == step


def test_unknown_role_is_named() -> None:
    with pytest.raises(UserError, match="unknown role 'pilot'"):
        get_role("pilot")


@pytest.mark.parametrize("fractions", [(), (1.5,), (-0.1,)])
def test_bad_fractions_are_refused(fractions: tuple[float, ...]) -> None:
    with pytest.raises(UserError, match="visible_fractions"):
        MaskConfig(visible_fractions=fractions)
