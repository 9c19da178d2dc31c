"""Features: what the encoder makes of a single step."""

from __future__ import annotations

import torch

from mtm.errors import UserError
from mtm.learner import Learner, MTMLearner
from mtm.masks import empty
from mtm.trajectory import ACTIONS, STATES


def features(
    learner: Learner, states: torch.Tensor, actions: torch.Tensor | None = None
) -> torch.Tensor:
    """Encoder outputs of single states [B, S], or of states and actions [B, A], all else hidden.

    [B, W] for each token that is seen, side by side: [B, W] and [B, 2 W] with continuous tokens.
    Raises UserError for another kind of learner. Gradients flow, so the encoder can be fine-tuned; use ``torch.no_grad`` for frozen features.
    """
    if not isinstance(learner, MTMLearner):
        raise UserError(f"features are an MTM's; this is an {learner.kind}")
    seen = {STATES: states} if actions is None else {STATES: states, ACTIONS: actions}
    mask = empty(learner.window, learner.model.tokens_per_step)
    batch = {m.name: states.new_zeros(len(states), learner.window, m.dim) for m in learner.modalities}
    for name, values in seen.items():
        mask[name][0] = True
        batch[name][:, 0] = values
    where = learner.model.visible_places(mask)
    return learner.model.encode(learner.tokenizer.encode(batch), where).flatten(1)
