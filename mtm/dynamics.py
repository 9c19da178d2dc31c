"""Forward dynamics, rolled out open-loop: predictions are fed back, and only actions are given."""

from __future__ import annotations

import torch

from mtm.learner import Learner
from mtm.trajectory import ACTIONS, STATES, Batch


@torch.inference_mode()
def open_loop(learner: Learner, states: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
    """States [B, K, S] that follow from the first ones [B, S] under actions [B, K, A], raw values.

    The FD role is asked step after step. Within the first window it sees the true first state and
    its own predictions after it; from then on the window slides over its predictions.
    """
    role, steps = learner.role("fd"), learner.window
    was_training = learner.training
    learner.eval()
    batch = {m.name: states.new_zeros(len(states), steps, m.dim) for m in learner.modalities}
    batch[STATES][:, 0] = states
    last = role.positions(steps)[-1]
    predicted = []
    for k in range(actions.shape[1]):
        position = min(k, last)
        batch[ACTIONS][:, position] = actions[:, k]
        after = learner.predict(role, batch, position)
        predicted.append(after)
        if position == last:
            batch = {name: values.roll(-1, dims=1) for name, values in batch.items()}
        batch[STATES][:, min(k + 1, last)] = after
    learner.train(was_training)
    return torch.stack(predicted, dim=1)


def open_loop_error(learner: Learner, batches: list[Batch]) -> torch.Tensor:
    """Squared error [K], in normalised units, after 1 to K steps, over raw windows [B, K + 1, dim]."""
    states = learner.tokenizer[STATES]
    total, count = torch.zeros((), dtype=torch.float64), 0
    for batch in batches:
        truth, actions = batch[STATES], batch[ACTIONS]
        predicted = open_loop(learner, truth[:, 0], actions[:, :-1])
        error = states.normalise(predicted) - states.normalise(truth[:, 1:])
        total = total + error.double().square().mean(2).sum(0).cpu()
        count += len(truth)
    return total / count
