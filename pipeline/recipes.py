"""Named experiments. A recipe is a function of the scale; its docstring says what to expect."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

from mtm import ModelConfig, OptimConfig, UserError
from pipeline.config import BaselineConfig, DataConfig, EvaluateConfig, Experiment, PretrainConfig

Scale = Literal["smoke", "laptop", "paper"]
SCALES: tuple[Scale, ...] = ("smoke", "laptop", "paper")


def smoke() -> Experiment:
    """Seconds: does every stage run? The scores mean nothing."""
    optim = OptimConfig(learning_rate=1e-3, warmup_steps=5, steps=40, batch_size=64)
    return Experiment(
        data=DataConfig(transitions=4_000),
        model=ModelConfig(width=32, dropout=0.0),
        optim=optim,
        pretrain=PretrainConfig(
            log_every=10, validate_every=20, checkpoint_every=20, validation_windows=256
        ),
        baseline=BaselineConfig(width=32, optim=optim),
        evaluate=EvaluateConfig(episodes=2, targets=(0.8, 1.0), error_windows=256),
    )


def laptop() -> Experiment:
    """Minutes on two cores: hopper-expert took 11 m 14 s with two workers, BC and RCBC 101 % of the data's return, with checkpoints of format 1."""
    return Experiment(
        data=DataConfig(transitions=200_000),
        model=ModelConfig(width=128, dropout=0.0),
        optim=OptimConfig(learning_rate=1e-3, warmup_steps=500, steps=10_000, batch_size=64),
        pretrain=PretrainConfig(log_every=100, validate_every=500, checkpoint_every=500),
        baseline=BaselineConfig(
            width=256,
            optim=OptimConfig(learning_rate=1e-3, warmup_steps=0, steps=5_000, batch_size=256),
        ),
    )


def paper() -> Experiment:
    """The paper's sizes: 1 M transitions, width 512, 140,010 steps; for a GPU."""
    return Experiment(
        pretrain=PretrainConfig(log_every=500, validate_every=5_000, checkpoint_every=5_000),
    )


BASES: dict[Scale, Callable[[], Experiment]] = {"smoke": smoke, "laptop": laptop, "paper": paper}


def _on(dataset_id: str) -> Callable[[Scale], Experiment]:
    def recipe(scale: Scale) -> Experiment:
        base = BASES[scale]()
        return replace(base, data=replace(base.data, dataset_id=dataset_id))

    recipe.__doc__ = f"The MTM in its roles, and MLPs, on {dataset_id}."
    return recipe


def quickstart(scale: Scale) -> Experiment:
    """Hopper expert, the first thing to run: 3 m 10 s on two cores; MTM as RCBC 100 % of the data's return, as BC 13 %."""
    base = _on("mtm/hopper/expert-v0")(scale)
    if scale != "laptop":
        return base
    return replace(
        base,
        data=replace(base.data, transitions=100_000),
        model=replace(base.model, width=64),
        optim=replace(base.optim, learning_rate=2e-3, steps=5_000),
    )


def recipes() -> dict[str, Callable[[Scale], Experiment]]:
    """All recipes by name: the quickstart, and one for each dataset that can be rolled out here."""
    from pipeline.datasets import shipped_datasets

    named: dict[str, Callable[[Scale], Experiment]] = {"quickstart": quickstart}
    for dataset_id in shipped_datasets():
        _, env, kind = dataset_id.removesuffix("-v0").split("/")
        named[f"{env}-{kind}"] = _on(dataset_id)
    return named


def recipe(name: str, scale: Scale = "laptop", also: tuple[str, ...] = ()) -> Experiment:
    """The config of that name at that scale.

    Raises UserError for an unknown one; the nearest is named, among these and ``also``.
    """
    known = recipes()
    if name not in known:
        close = difflib.get_close_matches(name, [*known, *also], n=1)
        hint = f"did you mean {close[0]}?" if close else "`mtm recipes` lists them"
        raise UserError(f"unknown recipe {name!r}; {hint}")
    return replace(known[name](scale), name=title(name, scale))


def title(name: str, scale: Scale) -> str:
    """The name of a run: that of its recipe, with the scale where it is not the usual one."""
    return name if scale == "laptop" else f"{name} {scale}"
