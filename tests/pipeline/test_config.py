"""Configs are checked when they are built, and say what is wrong."""

from __future__ import annotations

import dataclasses

import pytest

from mtm import MLPConfig, OptimConfig, UserError
from pipeline import recipes
from pipeline.config import DataConfig, EvaluateConfig, PretrainConfig


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: DataConfig(fraction=1.5), r"fraction is 1\.5; it must lie in \(0, 1\]"),
        (lambda: DataConfig(fraction=0.0), r"fraction is 0\.0"),
        (lambda: DataConfig(held_out=1.0), r"held_out is 1\.0"),
        (lambda: DataConfig(transitions=0), "transitions is 0"),
        (lambda: PretrainConfig(num_workers=0), "num_workers is 0"),
        (lambda: EvaluateConfig(episodes=1), "episodes is 1; at least 2"),
        (lambda: EvaluateConfig(targets=(float("nan"),)), "targets is"),
        (
            lambda: OptimConfig(steps=10, warmup_steps=10),
            r"warmup_steps is 10; it lies in \[0, steps 10\)",
        ),
        (lambda: MLPConfig(role="pilot"), "unknown role 'pilot'"),
    ],
)
def test_wrong_values_are_named(build: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build()  # type: ignore[operator]


@pytest.mark.parametrize("scale", recipes.SCALES)
def test_every_recipe_is_a_complete_config_with_a_claim(scale: recipes.Scale) -> None:
    for name, function in recipes.recipes().items():
        experiment = recipes.recipe(name, scale)
        assert dataclasses.is_dataclass(experiment)
        assert function.__doc__


def test_the_paper_scale_is_the_papers() -> None:
    experiment = recipes.recipe("hopper-expert", "paper")
    assert (experiment.model.width, experiment.model.dropout) == (512, 0.1)
    assert (experiment.optim.steps, experiment.optim.warmup_steps) == (140_010, 40_000)
    assert (experiment.optim.learning_rate, experiment.optim.weight_decay) == (1e-4, 0.005)
    assert (experiment.baseline.width, experiment.baseline.optim.batch_size) == (1024, 4096)
    assert experiment.data.transitions == 1_000_000


def test_an_unknown_recipe_is_named_with_the_nearest() -> None:
    with pytest.raises(UserError, match="unknown recipe 'hoper-expert'; did you mean hopper-expert"):
        recipes.recipe("hoper-expert")
