"""Runs: the same seed gives the same run, a resumed one equals an unbroken one, workers agree."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import pytest
import torch

from mtm import (
    HeteromodalConfig,
    MaskConfig,
    OptimConfig,
    TrainState,
    UserError,
    WindowSampler,
    checkpoint,
)
from mtm.trajectory import Batch
from tests import fakes

OPTIM = OptimConfig(learning_rate=1e-3, warmup_steps=3, steps=12, batch_size=16)

ALTERNATE = HeteromodalConfig(0.5)
TWO_STATE_ONLY = HeteromodalConfig(0.5, state_only_per_full=2)
MIXED = HeteromodalConfig(0.5, batches="mixed")
HETEROMODAL = pytest.mark.parametrize(
    "heteromodal", [None, ALTERNATE, TWO_STATE_ONLY, MIXED], ids=["full", "alternate", "two", "mixed"]
)
Per = Literal["batch", "window"]
PER = pytest.mark.parametrize("per", ["batch", "window"])

LABELLED = [True, False, False, True, False, True]


def new_state(
    seed: int = 0,
    rank: int = 0,
    world_size: int = 1,
    dropout: float = 0.1,
    mask: MaskConfig | None = None,
    heteromodal: HeteromodalConfig | None = None,
    data: list[Batch] | None = None,
) -> TrainState:
    """A run on ``data``, half of which has actions if training is heteromodal."""
    learner = fakes.mtm_learner(dropout=dropout, mask=mask)
    labelled = LABELLED if heteromodal else None
    sampler = WindowSampler(data or fakes.episodes(), learner.window, labelled=labelled)
    return TrainState(learner, OPTIM, sampler, seed, rank, world_size, heteromodal=heteromodal)


def run(state: TrainState, steps: int) -> list[float]:
    return [float(state.train_step()["loss"]) for _ in range(steps)]


def assert_same(first: TrainState, second: TrainState) -> None:
    """Bit for bit, with the optimizer's moments and the random generators."""
    expected, got = first.state_dict(), second.state_dict()
    assert expected.keys() == got.keys()
    for name, value in expected.items():
        assert torch.equal(value, got[name]), name


@HETEROMODAL
@PER
def test_the_same_seed_gives_the_same_run_whatever_the_global_generator(
    heteromodal: HeteromodalConfig | None, per: Per
) -> None:
    mask = MaskConfig(per=per)
    torch.manual_seed(1)
    first = run(new_state(mask=mask, heteromodal=heteromodal), 6)
    torch.manual_seed(2)
    assert run(new_state(mask=mask, heteromodal=heteromodal), 6) == first
    assert run(new_state(seed=7, mask=mask, heteromodal=heteromodal), 6) != first


@HETEROMODAL
@PER
def test_a_resumed_run_equals_an_unbroken_one_bit_for_bit(
    heteromodal: HeteromodalConfig | None, per: Per
) -> None:
    """It is broken off amid the schedule of full and state-only batches, and by way of a file."""
    mask = MaskConfig(per=per)
    whole = new_state(mask=mask, heteromodal=heteromodal)
    losses = run(whole, 12)
    half = new_state(mask=mask, heteromodal=heteromodal)
    run(half, 5)
    content = checkpoint.to_bytes(half.learner, half.state_dict())
    # With another seed: everything that matters comes from the checkpoint.
    resumed = new_state(seed=99, mask=mask, heteromodal=heteromodal)
    resumed.load_state_dict(checkpoint.from_bytes(content, "here")[1])
    assert run(resumed, 7) == losses[5:]
    assert_same(whole, resumed)


@HETEROMODAL
@PER
@pytest.mark.parametrize("world_size", [2, 4])
def test_workers_slices_make_the_single_workers_gradient(
    heteromodal: HeteromodalConfig | None, per: Per, world_size: int
) -> None:
    """At every step: they see the same windows and masks, and meet the same noise of dropout."""
    mask = MaskConfig(per=per)
    single = new_state(mask=mask, heteromodal=heteromodal)
    shared = [
        new_state(5, rank, world_size, mask=mask, heteromodal=heteromodal) for rank in range(world_size)
    ]
    for _ in range(4):
        before = {name: value.clone() for name, value in single.state_dict().items()}
        for state in shared:
            state.load_state_dict(before)
        losses, parts = single.train_step(), [state.train_step() for state in shared]
        for name, loss in losses.items():
            mean = torch.stack([part[name] for part in parts]).mean(0)
            torch.testing.assert_close(mean, loss, rtol=1e-5, atol=1e-6)
        for alone, *mine in zip(
            single.learner.parameters(), *(s.learner.parameters() for s in shared), strict=True
        ):
            mean = torch.stack([parameter.grad for parameter in mine]).mean(0)
            torch.testing.assert_close(mean, alone.grad, rtol=1e-4, atol=1e-6)
        for state in shared:  # so that they agree at the next step too
            assert torch.equal(state.generator.get_state(), single.generator.get_state())
            assert torch.equal(state.mask_generator.get_state(), single.mask_generator.get_state())


def test_workers_have_windows_of_their_own() -> None:
    first, second = (new_state(rank=rank, world_size=2).train_step()["loss"] for rank in range(2))
    assert abs(float(first) - float(second)) > 1e-3


def with_other(
    name: str, change: Callable[[torch.Tensor], torch.Tensor], labelled: bool
) -> list[Batch]:
    """The episodes, with one modality changed in those that have actions, or in the others."""
    return [
        {**episode, name: change(episode[name])} if known == labelled else episode
        for episode, known in zip(fakes.episodes(), LABELLED, strict=True)
    ]


@PER
@pytest.mark.parametrize("heteromodal", [ALTERNATE, TWO_STATE_ONLY, MIXED])
def test_training_does_not_know_the_actions_of_unlabelled_episodes(
    heteromodal: HeteromodalConfig, per: Per
) -> None:
    mask = MaskConfig(per=per)

    def trained(data: list[Batch]) -> TrainState:
        state = new_state(mask=mask, heteromodal=heteromodal, data=data)
        run(state, 6)
        return state

    expected = trained(fakes.episodes())
    assert_same(
        expected, trained(with_other("actions", lambda values: values * 50 + 7, labelled=False))
    )
    # What the comparison would show if it mattered: all else does.
    weight = "learner.model.encoder.blocks.0.attention.qkv.weight"
    for name, labelled in [("actions", True), ("states", True), ("states", False), ("returns", False)]:
        other = trained(with_other(name, lambda values: values + 0.1, labelled))
        assert not torch.equal(other.state_dict()[weight], expected.state_dict()[weight])


@PER
@pytest.mark.parametrize("heteromodal", [ALTERNATE, MIXED])
def test_training_does_not_know_what_stands_in_the_place_of_unknown_actions(
    heteromodal: HeteromodalConfig, per: Per
) -> None:
    """Zeros stand there; it could be anything."""
    states = [new_state(mask=MaskConfig(per=per), heteromodal=heteromodal) for _ in range(2)]
    labelled_steps = sum(LABELLED) * 30
    states[1].sampler.values["actions"][labelled_steps:] = 1e3
    for state in states:
        run(state, 6)
    assert_same(*states)


@PER
@pytest.mark.parametrize(
    ("heteromodal", "full"),
    [
        (None, [True] * 6),
        (ALTERNATE, [True, False] * 3),
        (TWO_STATE_ONLY, [True, False, False] * 2),
        (HeteromodalConfig(0.5, state_only_per_full=0), [True] * 6),
        (MIXED, [True] * 6),
    ],
)
def test_actions_are_out_of_the_loss_of_a_state_only_batch(
    heteromodal: HeteromodalConfig | None, full: list[bool], per: Per
) -> None:
    state = new_state(mask=MaskConfig(per=per), heteromodal=heteromodal)
    steps = [state.train_step() for _ in range(6)]
    assert [float(losses["actions"]) > 0 for losses in steps] == full
    for losses in steps:
        total = losses["states"] + losses["returns"] + losses["actions"]
        torch.testing.assert_close(losses["loss"], total)


def test_the_head_of_the_actions_learns_nothing_from_a_state_only_batch() -> None:
    state = new_state(heteromodal=ALTERNATE)
    head = state.learner.get_submodule("model.head.actions")
    run(state, 1)
    assert any(p.grad.any() for p in head.parameters())
    run(state, 1)
    assert not any(p.grad.any() for p in head.parameters())


@PER
def test_a_mixed_batch_counts_the_actions_of_its_full_half(per: Per) -> None:
    """By hand, from windows and masks drawn in the same way."""
    state = new_state(dropout=0.0, mask=MaskConfig(per=per), heteromodal=MIXED)
    before = {name: value.clone() for name, value in state.state_dict().items()}
    index, _ = state.sampler.draw(16, state.generator, "mixed")
    mask = state.learner.draw(state.mask_generator, 16)
    windows = state.sampler.windows(index)
    alone = []
    with torch.inference_mode():
        for i in range(16):
            own = {name: (m[i] if m.dim() == 3 else m).clone() for name, m in mask.items()}
            own["actions"] &= i % 2 == 0  # full and state-only windows take turns
            alone.append(state.learner({name: v[i : i + 1] for name, v in windows.items()}, own))
    state.load_state_dict(before)
    losses = state.train_step()
    for name, count in {"states": 16, "returns": 16, "actions": 8}.items():
        by_hand = sum(float(alone[i][name]) for i in range(0, 16, 16 // count)) / count
        assert float(losses[name]) == pytest.approx(by_hand, rel=1e-4)


def test_with_all_actions_known_heteromodal_training_is_plain_training() -> None:
    plain = new_state()
    labelled = [
        TrainState(fakes.mtm_learner(dropout=0.1), OPTIM, fakes.sampler(), seed=0, heteromodal=config)
        for config in (HeteromodalConfig(), HeteromodalConfig(batches="mixed"))
    ]
    losses = run(plain, 4)
    for state in labelled:
        assert run(state, 4) == losses
        assert_same(plain, state)


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


def test_a_mixed_batch_without_a_half_for_each_worker_is_refused() -> None:
    with pytest.raises(UserError, match="batch_size 16 over 16 workers is no even number each"):
        new_state(world_size=16, heteromodal=MIXED)
