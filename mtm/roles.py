"""Roles: what one set of weights is asked to do, by choosing what it sees and what is read.

Every role is told the ``position`` of the current step in its window: the step whose action is
chosen (BC, RCBC, GOAL, WAYPOINT, two-stage), inferred (ID) or known (FD). GOAL and WAYPOINT are
also told ``ahead``, how many steps later the wanted state stands.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mtm.errors import UserError
from mtm.masks import Mask, TokensPerStep, empty
from mtm.trajectory import ACTIONS, RETURNS, STATES

Visible = dict[str, slice | list[int]]
"""Visible timesteps by modality."""


@dataclass(frozen=True)
class Role:
    """A mask and a read-out."""

    name: str
    sees: Callable[[int, int, int], Visible]
    """What it sees, from the window's length, the position and ``ahead``."""
    output: str
    """Modality of the token that is read."""
    offset: int = 0
    """Timestep of the token that is read, counted from the position."""
    acts: bool = False
    """Whether the role chooses actions in an environment."""
    history: bool = False
    """Whether it is shown the steps before the current one. If not, the current step is the first."""
    future: int = 0
    """Timesteps that it needs in the window after the current one."""
    goal: bool = False
    """Whether it is given a later state to reach."""
    imagines: Callable[[int, int, int], Visible] | None = None
    """What a first pass sees, which fills in the hidden tokens before ``sees`` is applied."""

    def positions(self, steps: int) -> range:
        """Where the current step may stand in a window of ``steps``; in use, the last is the rule."""
        return range(steps - self.future) if self.history else range(1)

    def mask(
        self, steps: int, tokens_per_step: TokensPerStep, position: int, ahead: int | None = None
    ) -> Mask:
        """Visible tokens [T, P] by modality. ``ahead`` is by default the rest of the window."""
        return _mask(self.sees, steps, tokens_per_step, position, ahead)

    def first_mask(
        self, steps: int, tokens_per_step: TokensPerStep, position: int, ahead: int | None = None
    ) -> Mask | None:
        """What the first of two passes sees; None where one is enough."""
        if self.imagines is None:
            return None
        return _mask(self.imagines, steps, tokens_per_step, position, ahead)

    @property
    def played(self) -> bool:
        """Whether it is scored by playing it: it acts, and needs no state to reach."""
        return self.acts and not self.goal

    @property
    def conditioned(self) -> bool:
        """Whether it acts on a wanted return."""
        return RETURNS in (self.imagines or self.sees)(2, 0, 1)


def _mask(
    sees: Callable[[int, int, int], Visible],
    steps: int,
    tokens_per_step: TokensPerStep,
    position: int,
    ahead: int | None,
) -> Mask:
    mask = empty(steps, tokens_per_step)
    for name, timesteps in sees(steps, position, ahead or steps - 1 - position).items():
        mask[name][timesteps] = True
    return mask


def _states_to(last: int) -> Visible:
    return {STATES: slice(0, last + 1)}


ROLES = {
    role.name: role
    for role in (
        Role("bc", lambda steps, i, ahead: {STATES: [i]}, ACTIONS, acts=True),
        Role(
            "rcbc",
            lambda steps, i, ahead: {
                **_states_to(i),
                ACTIONS: slice(0, i),
                RETURNS: slice(0, steps),
            },
            ACTIONS,
            acts=True,
            history=True,
        ),
        Role("id", lambda steps, i, ahead: _states_to(i + 1), ACTIONS, history=True, future=1),
        Role(
            "fd",
            lambda steps, i, ahead: {**_states_to(i), ACTIONS: [i]},
            STATES,
            offset=1,
            history=True,
            future=1,
        ),
        # A state to reach at the end of the window, which stays that far ahead.
        Role(
            "goal",
            lambda steps, i, ahead: {STATES: [i, steps - 1]},
            ACTIONS,
            acts=True,
            future=1,
            goal=True,
        ),
        # A state to reach at a given step, which comes nearer.
        Role(
            "waypoint",
            lambda steps, i, ahead: {STATES: [i, i + ahead]},
            ACTIONS,
            acts=True,
            future=1,
            goal=True,
        ),
        # Imagine the states that follow from the wanted return, then infer the action between two.
        Role(
            "two-stage",
            lambda steps, i, ahead: _states_to(steps - 1),
            ACTIONS,
            acts=True,
            history=True,
            future=1,
            imagines=lambda steps, i, ahead: {**_states_to(i), RETURNS: slice(0, steps)},
        ),
    )
}


def get_role(name: str) -> Role:
    """The role of that name; raises UserError for an unknown one."""
    if name not in ROLES:
        raise UserError(f"unknown role {name!r}; the roles are {', '.join(ROLES)}")
    return ROLES[name]
