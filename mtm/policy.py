"""Batched acting: a role in many environments at once."""

from __future__ import annotations

import numpy as np
import torch

from mtm.errors import UserError
from mtm.learner import Learner
from mtm.trajectory import ACTIONS, RETURNS, STATES


class Policy:
    """Chooses actions for ``num_envs`` environments, each with its own history.

    ``target`` is the return asked for by a return-conditioned role (RCBC, two-stage), as a share of
    the training range: 0 the lowest return-to-go seen, 1 the highest; one value, or one an
    environment [N]. ``goal`` is the state [S] or [N, S] that GOAL and WAYPOINT are to reach, ``due``
    the number of steps after which WAYPOINT is to be there, one value or [N]; ``aim`` sets new ones
    at any time. Raises UserError for a role that does not act, and for a missing goal.
    """

    def __init__(
        self,
        learner: Learner,
        role: str,
        num_envs: int = 1,
        target: float | np.ndarray = 1.0,
        goal: np.ndarray | None = None,
        due: int | np.ndarray | None = None,
    ):
        self.learner, self.role = learner.eval(), learner.role(role)
        if not self.role.acts:
            raise UserError(f"role {role!r} predicts and does not act; ask held_out_error for it")
        device, steps = learner.device, learner.window
        self.history = {
            m.name: torch.zeros(num_envs, steps, m.dim, device=device) for m in learner.modalities
        }
        returns = learner.tokenizer[RETURNS]
        if np.shape(target) not in ((), (num_envs,)):
            raise UserError(f"target has shape {np.shape(target)}; give one value, or {num_envs}")
        share = torch.as_tensor(target, dtype=torch.float32, device=device).expand(num_envs)
        wanted = returns.low + share[:, None] * (returns.high - returns.low)
        self.history[RETURNS][:] = wanted[:, None]
        self.elapsed = np.zeros(num_envs, dtype=np.int64)
        self.remaining = np.full(num_envs, steps, dtype=np.int64)
        self.goal = torch.zeros(num_envs, self.history[STATES].shape[-1], device=device)
        if self.role.goal:
            if goal is None:
                raise UserError(f"role {role!r} needs a goal: the state to reach, goal=[{self._dim}]")
            self.aim(goal, due)

    @property
    def _dim(self) -> int:
        return self.history[STATES].shape[-1]

    def aim(
        self,
        goal: np.ndarray,
        due: int | np.ndarray | None = None,
        envs: np.ndarray | slice = slice(None),
    ) -> None:
        """A new state to reach for these environments, WAYPOINT's within ``due`` steps.

        A due step beyond the window counts as its end, until it comes within reach. Raises
        UserError for a state of another shape, or a due step that is not ahead.
        """
        count, given = len(self.elapsed[envs]), np.asarray(goal)
        if given.shape not in ((self._dim,), (count, self._dim)):
            raise UserError(
                f"the goal has shape {given.shape}; give ({self._dim},) for all environments "
                f"or ({count}, {self._dim})"
            )
        if self.role.name == "waypoint":
            steps = np.asarray(0 if due is None else due)
            if steps.shape not in ((), (count,)) or np.any((steps < 1) | (steps % 1 != 0)):
                raise UserError(
                    f"waypoint is due in {due} steps; give a whole number from 1, one value or {count}"
                )
            self.remaining[envs] = steps
        self.goal[envs] = torch.as_tensor(given, dtype=torch.float32, device=self.goal.device)

    def reset(self, envs: np.ndarray | slice = slice(None)) -> None:
        """Forget the history of these environments (indices or booleans); their episode begins.

        A waypoint is not part of the history: its steps count on until ``aim`` sets another.
        """
        self.elapsed[envs] = 0

    @torch.inference_mode()
    def act(self, obs: np.ndarray, envs: np.ndarray | None = None) -> np.ndarray:
        """Actions [n, A] for observations [n, S] of the environments ``envs`` [n] (all of them).

        Actions lie in the range seen in training. Raises UserError for observations of another
        shape than the model was trained on.
        """
        envs = np.arange(len(self.elapsed)) if envs is None else envs
        expected = (len(envs), self._dim)
        if obs.shape != expected:
            raise UserError(f"observations have shape {obs.shape}; this model expects {expected}")
        device, last = self.learner.device, self.role.positions(self.learner.window)[-1]
        position = np.minimum(self.elapsed[envs], last)
        ahead = (
            np.clip(self.remaining[envs], 1, self.learner.window - 1) if self.role.goal else 0 * envs
        )
        states = torch.as_tensor(obs, dtype=torch.float32, device=device)
        actions = torch.empty(len(envs), self.history[ACTIONS].shape[-1], device=device)
        for i, k in np.unique(np.stack([position, ahead]), axis=1).T.tolist():
            mine = np.flatnonzero((position == i) & (ahead == k))
            actions[mine] = self._act_at(i, k, envs[mine], states[mine])
        self.elapsed[envs] += 1
        self.remaining[envs] -= self.role.name == "waypoint"
        return actions.cpu().numpy()

    def _act_at(
        self, position: int, ahead: int, envs: np.ndarray, states: torch.Tensor
    ) -> torch.Tensor:
        """Actions of environments whose current step and goal stand at the same places in the window."""
        full = envs[self.elapsed[envs] > position] if self.role.history else envs[:0]
        for name in (STATES, ACTIONS):
            self.history[name][full] = self.history[name][full].roll(-1, dims=1)
        self.history[STATES][envs, position] = states
        batch = {name: values[envs] for name, values in self.history.items()}
        if self.role.goal:
            batch[STATES][:, position + ahead] = self.goal[envs]
        actions = self.learner.predict(self.role, batch, position, ahead or None)
        tokenizer = self.learner.tokenizer[ACTIONS]
        actions = actions.clamp(tokenizer.low, tokenizer.high)
        self.history[ACTIONS][envs, position] = actions
        return actions
