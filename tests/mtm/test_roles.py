"""Roles against their definitions."""

from __future__ import annotations

import pytest
import torch

from mtm import UserError, masks
from mtm.roles import ROLES, get_role

STEPS = 4
TOKENS = {"states": 1, "returns": 1, "actions": 1}


def as_text(mask: masks.Mask | None) -> str:
    """Visible tokens as rows of 1 and 0: states, returns, actions."""
    assert mask is not None
    return " ".join("".join(str(int(v)) for v in tokens.flatten()) for tokens in mask.values())


@pytest.mark.parametrize(
    ("role", "position", "expected"),
    [
        ("bc", 0, "1000 0000 0000"),
        ("rcbc", 0, "1000 1111 0000"),
        ("rcbc", 2, "1110 1111 1100"),
        ("rcbc", 3, "1111 1111 1110"),
        ("id", 0, "1100 0000 0000"),
        ("id", 2, "1111 0000 0000"),
        ("fd", 0, "1000 0000 1000"),
        ("fd", 2, "1110 0000 0010"),
        ("goal", 0, "1001 0000 0000"),
        ("two-stage", 0, "1111 0000 0000"),
        ("two-stage", 2, "1111 0000 0000"),
    ],
)
def test_roles_see_what_the_paper_says(role: str, position: int, expected: str) -> None:
    assert as_text(ROLES[role].mask(STEPS, TOKENS, position)) == expected


@pytest.mark.parametrize(("ahead", "expected"), [(1, "1100"), (2, "1010"), (3, "1001"), (None, "1001")])
def test_waypoint_sees_where_it_is_and_the_state_that_far_ahead(
    ahead: int | None, expected: str
) -> None:
    assert as_text(ROLES["waypoint"].mask(STEPS, TOKENS, 0, ahead)) == f"{expected} 0000 0000"


@pytest.mark.parametrize("ahead", [1, 2, None])
def test_goal_sees_the_end_of_the_window_however_far_its_state_is(ahead: int | None) -> None:
    assert as_text(ROLES["goal"].mask(STEPS, TOKENS, 0, ahead)) == "1001 0000 0000"


@pytest.mark.parametrize(
    ("position", "expected"), [(0, "1000 1111 0000"), (1, "1100 1111 0000"), (2, "1110 1111 0000")]
)
def test_two_stage_first_imagines_from_the_states_so_far_and_the_wanted_return(
    position: int, expected: str
) -> None:
    assert as_text(ROLES["two-stage"].first_mask(STEPS, TOKENS, position)) == expected


def test_all_other_roles_need_one_pass() -> None:
    twice = [n for n, role in ROLES.items() if role.first_mask(STEPS, TOKENS, 0) is not None]
    assert twice == ["two-stage"]


def test_a_visible_timestep_shows_all_its_tokens() -> None:
    mask = ROLES["fd"].mask(STEPS, {"states": 3, "returns": 1, "actions": 2}, 1)
    assert mask["states"].tolist() == [[True] * 3] * 2 + [[False] * 3] * 2
    assert mask["actions"].tolist() == [[False] * 2, [True] * 2, [False] * 2, [False] * 2]


@pytest.mark.parametrize(
    ("role", "output", "step"),
    [
        ("bc", "actions", 0),
        ("rcbc", "actions", 3),
        ("id", "actions", 2),
        ("fd", "states", 3),
        ("goal", "actions", 0),
        ("waypoint", "actions", 0),
        ("two-stage", "actions", 2),
    ],
)
def test_at_their_last_position_roles_read_the_token_the_paper_names(
    role: str, output: str, step: int
) -> None:
    assert ROLES[role].output == output
    assert ROLES[role].positions(STEPS)[-1] + ROLES[role].offset == step


@pytest.mark.parametrize(
    ("role", "positions"),
    [
        ("bc", [0]),
        ("rcbc", [0, 1, 2, 3]),
        ("id", [0, 1, 2]),
        ("fd", [0, 1, 2]),
        ("goal", [0]),
        ("waypoint", [0]),
        ("two-stage", [0, 1, 2]),
    ],
)
def test_a_role_stands_wherever_its_future_fits_into_the_window(
    role: str, positions: list[int]
) -> None:
    assert list(ROLES[role].positions(STEPS)) == positions


@pytest.mark.parametrize("role", list(ROLES))
@pytest.mark.parametrize("steps", [2, 3, 7])
def test_no_role_sees_what_it_is_to_predict(role: str, steps: int) -> None:
    for position in ROLES[role].positions(steps):
        mask = ROLES[role].mask(steps, TOKENS, position)
        assert not mask[ROLES[role].output][position + ROLES[role].offset].any()
        assert any(tokens.any() for tokens in mask.values())


def test_roles_that_are_shown_returns_act_on_a_wanted_one() -> None:
    assert [name for name, role in ROLES.items() if role.conditioned] == ["rcbc", "two-stage"]


def test_roles_that_act_choose_actions() -> None:
    acting = [name for name, role in ROLES.items() if role.acts]
    assert acting == ["bc", "rcbc", "goal", "waypoint", "two-stage"]
    assert all(ROLES[name].output == "actions" for name in acting)


def test_asking_twice_gives_masks_of_their_own() -> None:
    first = ROLES["goal"].mask(STEPS, TOKENS, 0)
    first["states"][:] = False
    assert torch.equal(
        ROLES["goal"].mask(STEPS, TOKENS, 0)["states"][:, 0], torch.tensor([True, False, False, True])
    )


def test_unknown_role_is_named() -> None:
    with pytest.raises(UserError, match=r"unknown role 'pilot'; the roles are .*waypoint"):
        get_role("pilot")
