"""Batched acting: a role in many environments at once."""

from __future__ import annotations

import numpy as np
import torch

from mtm.errors import UserError
from mtm.learner import Learner
from mtm.trajectory import ACTIONS, RETURNS, STATES


class Policy:
    """Chooses actions for ``num_envs`` environments, each with its own history.

    ``target`` is the return asked for by a return-conditioned role, as a share of the training
    range: 0 the lowest return-to-go seen, 1 the highest; one value, or one an environment [N].
    Raises UserError for a role that does not act.
    """

    def __init__(self, learner: Learner, role: str, num_envs: int, target: float | np.ndarray):
        self.learner, self.role = learner.eval(), learner.role(role)
        if not self.role.acts:
            raise UserError(f"role {role!r} predicts and does not act; ask held_out_error for it")
        device, steps = learner.device, learner.window
        self.history = {
            m.name: torch.zeros(num_envs, steps, m.dim, device=device) for m in learner.modalities
        }
        returns = learner.tokenizer[RETURNS]
        share = torch.as_tensor(target, dtype=torch.float32, device=device).expand(num_envs)
        wanted = returns.low + share[:, None] * (returns.high - returns.low)
        self.history[RETURNS][:] = wanted[:, None]
        self.elapsed = np.zeros(num_envs, dtype=np.int64)

    def reset(self, envs: np.ndarray | slice = slice(None)) -> None:
        """Forget the history of these environments (indices or booleans); their episode begins."""
        self.elapsed[envs] = 0

    @torch.inference_mode()
    def act(self, obs: np.ndarray, envs: np.ndarray | None = None) -> np.ndarray:
        """Actions [n, A] for observations [n, S] of the environments ``envs`` [n] (all of them).

        Actions lie in the range seen in training. Raises UserError for observations of another
        shape than the model was trained on.
        """
        envs = np.arange(len(self.elapsed)) if envs is None else envs
        expected = (len(envs), self.history[STATES].shape[-1])
        if obs.shape != expected:
            raise UserError(f"observations have shape {obs.shape}; this model expects {expected}")
        steps, device = self.learner.window, self.learner.device
        position = np.minimum(self.elapsed[envs], steps - 1) if self.role.history else 0 * envs
        states = torch.as_tensor(obs, dtype=torch.float32, device=device)
        actions = torch.empty(len(envs), self.history[ACTIONS].shape[-1], device=device)
        for i in np.unique(position):
            mine = np.flatnonzero(position == i)
            actions[mine] = self._act_at(int(i), envs[mine], states[mine])
        self.elapsed[envs] += 1
        return actions.cpu().numpy()

    def _act_at(self, position: int, envs: np.ndarray, states: torch.Tensor) -> torch.Tensor:
        """Actions of environments whose current step stands at the same place in the window."""
        full = envs[self.elapsed[envs] >= self.learner.window] if self.role.history else envs[:0]
        for name in (STATES, ACTIONS):
            self.history[name][full] = self.history[name][full].roll(-1, dims=1)
        self.history[STATES][envs, position] = states
        batch = {name: values[envs] for name, values in self.history.items()}
        tokenizer = self.learner.tokenizer[ACTIONS]
        predicted = self.learner.predict(self.role, batch, position)
        actions = tokenizer.decode(predicted[:, None, None])[:, 0]
        actions = actions.clamp(tokenizer.low, tokenizer.high)
        self.history[ACTIONS][envs, position] = actions
        return actions
