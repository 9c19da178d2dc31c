"""Fixtures that several test files share."""

from __future__ import annotations

import pytest

from mtm import MaskConfig, MTMLearner, OptimConfig, TrainState
from tests import fakes


@pytest.fixture(scope="session")
def discrete_learner() -> MTMLearner:
    """With bins, and trained a little, or the likeliest bin would be the same whatever it sees."""
    learner = fakes.mtm_learner(tokenizer=fakes.BINS, mask=MaskConfig(per="window"))
    optim = OptimConfig(learning_rate=3e-3, warmup_steps=20, steps=120, batch_size=32)
    state = TrainState(learner, optim, fakes.sampler(), seed=0)
    for _ in range(optim.steps):
        state.train_step()
    return learner.eval()
