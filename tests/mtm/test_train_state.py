"""Runs: the same seed gives the same run, a resumed one equals an unbroken one, workers agree."""

from __future__ import annotations

import pytest
import torch

from mtm import MLPConfig, MLPLearner, OptimConfig, TrainState, UserError, checkpoint
from tests import fakes

OPTIM = OptimConfig(learning_rate=1e-3, warmup_steps=3, steps=12, batch_size=16)


def new_state(seed: int = 0, rank: int = 0, world_size: int = 1, dropout: float = 0.1) -> TrainState:
    learner = fakes.mtm_learner(dropout=dropout)
    return TrainState(learner, OPTIM, fakes.sampler(), seed, rank, world_size)


def run(state: TrainState, steps: int) -> list[float]:
    return [float(state.train_step()["loss"]) for _ in range(steps)]


def test_the_same_seed_gives_the_same_run_whatever_the_global_generator() -> None:
    torch.manual_seed(1)
    first = run(new_state(), 6)
    torch.manual_seed(2)
    assert run(new_state(), 6) == first
    assert run(new_state(seed=7), 6) != first


def test_a_resumed_run_equals_an_unbroken_one_bit_for_bit() -> None:
    whole = new_state()
    losses = run(whole, 12)
    half = new_state()
    run(half, 5)
    content = checkpoint.to_bytes(half.learner, half.state_dict())
    resumed = new_state(seed=99)  # everything that matters comes from the checkpoint
    resumed.load_state_dict(checkpoint.from_bytes(content, "here")[1])
    assert run(resumed, 7) == losses[5:]
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


@pytest.mark.parametrize("world_size", [2, 4])
def test_workers_slices_make_the_single_workers_gradient(world_size: int) -> None:
    """Dropout included: a window meets the same noise whichever worker it falls to."""
    single = new_state()
    single.train_step()
    shared = [new_state(rank=rank, world_size=world_size) for rank in range(world_size)]
    for state in shared:
        state.train_step()
    for alone, *parts in zip(
        single.learner.parameters(), *(s.learner.parameters() for s in shared), strict=True
    ):
        mean = torch.stack([part.grad for part in parts]).mean(0)
        torch.testing.assert_close(mean, alone.grad, rtol=1e-4, atol=1e-6)


def test_learning_rate_warms_up_and_decays_to_nothing() -> None:
    optim = OptimConfig(learning_rate=1.0, warmup_steps=10, steps=30)
    rates = [optim.learning_rate_at(step) for step in range(31)]
    assert rates[:11] == pytest.approx([i / 10 for i in range(11)])
    assert rates[20] == pytest.approx(0.5)
    assert rates[30] == pytest.approx(0.0)


def test_only_linear_weights_decay() -> None:
    state = new_state()
    decayed, plain = state.optimizer.param_groups
    names = {id(p): name for name, p in state.learner.named_parameters()}
    assert {names[id(p)].rsplit(".", 1)[1] for p in decayed["params"]} == {"weight"}
    assert not any("norm" in names[id(p)] for p in decayed["params"])
    assert plain["weight_decay"] == 0.0
    assert len(names) == len(decayed["params"]) + len(plain["params"])


def test_a_batch_that_cannot_be_shared_out_is_refused() -> None:
    with pytest.raises(UserError, match="batch_size 16 cannot be split over 3 workers"):
        new_state(world_size=3)


@pytest.mark.parametrize("role", ["bc", "rcbc", "id", "fd"])
def test_an_mlp_learns_every_role(role: str) -> None:
    learner = MLPLearner(fakes.MODALITIES, MLPConfig(role, width=64))
    learner.initialise(torch.Generator().manual_seed(0))
    sampler = fakes.sampler(learner.window)
    learner.tokenizer.fit(sampler.values)
    optim = OptimConfig(learning_rate=3e-3, warmup_steps=0, steps=300, batch_size=64)
    losses = run(TrainState(learner, optim, sampler, seed=0), 300)
    assert losses[-1] < 0.1 * losses[0]
