"""Roles: what one set of weights is asked to do, by choosing what it sees and what is read.

Every role is told the ``position`` of the current step in its window: the step whose action is
chosen (BC, RCBC), inferred (ID) or known (FD).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mtm.errors import UserError
from mtm.masks import Mask, TokensPerStep, empty
from mtm.trajectory import ACTIONS, RETURNS, STATES


@dataclass(frozen=True)
class Role:
    """A mask and a read-out."""

    name: str
    sees: Callable[[int, int], dict[str, slice]]
    """Visible timesteps by modality, from the window's length and the position."""
    output: str
    """Modality of the token that is read."""
    offset: int = 0
    """Timestep of the token that is read, counted from the position."""
    acts: bool = False
    """Whether the role chooses actions in an environment."""
    history: bool = False
    """Whether it is shown the steps before the current one. If not, the current step is the first."""

    def mask(self, steps: int, tokens_per_step: TokensPerStep, position: int) -> Mask:
        """Visible tokens [T, P] by modality."""
        mask = empty(steps, tokens_per_step)
        for name, timesteps in self.sees(steps, position).items():
            mask[name][timesteps] = True
        return mask


ROLES = {
    role.name: role
    for role in (
        Role("bc", lambda steps, i: {STATES: slice(i, i + 1)}, ACTIONS, acts=True),
        Role(
            "rcbc",
            lambda steps, i: {
                STATES: slice(0, i + 1),
                ACTIONS: slice(0, i),
                RETURNS: slice(0, steps),
            },
            ACTIONS,
            acts=True,
            history=True,
        ),
        Role("id", lambda steps, i: {STATES: slice(0, i + 2)}, ACTIONS, history=True),
        Role(
            "fd",
            lambda steps, i: {STATES: slice(0, i + 1), ACTIONS: slice(i, i + 1)},
            STATES,
            offset=1,
            history=True,
        ),
    )
}


def get_role(name: str) -> Role:
    """The role of that name; raises UserError for an unknown one."""
    if name not in ROLES:
        raise UserError(f"unknown role {name!r}; the roles are {', '.join(ROLES)}")
    return ROLES[name]
