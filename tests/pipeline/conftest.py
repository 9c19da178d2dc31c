"""A small ingested dataset, and a way to run stages, for the tests of single stages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from pipeline import datasets, recipes
from pipeline.cluster import start_ray
from pipeline.config import Experiment
from pipeline.dag import Node, Runner
from pipeline.experiment import data_nodes
from pipeline.tracking import Reference, Tracking
from tests import fakes

Run = Callable[[Node], Reference]


def runner(folder: Path) -> Runner:
    """A runner with storage and MLflow of its own in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    tracking = Tracking(f"sqlite:///{folder}/mlflow.db", "mtm", str(folder / "mlartifacts"))
    return Runner(tracking, str(folder), Console(quiet=True), start_ray, lambda reference: "")


@pytest.fixture(scope="session")
def pendulum_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Minari data root with ``test/pendulum-v0``: 12 episodes of 60 steps."""
    root = tmp_path_factory.mktemp("minari")
    fakes.pendulum_dataset(root, "test/pendulum-v0")
    return root


@pytest.fixture
def pendulum(pendulum_root: Path, monkeypatch: pytest.MonkeyPatch) -> Experiment:
    """A smoke experiment on the pendulum."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(pendulum_root))
    base = recipes.smoke()
    return replace(base, data=replace(base.data, dataset_id="test/pendulum-v0"))


@pytest.fixture(scope="session")
def ingested(
    ray_cluster: None, pendulum_root: Path, tmp_path_factory: pytest.TempPathFactory
) -> Reference:
    """The pendulum's shards."""
    data = replace(recipes.smoke().data, dataset_id="test/pendulum-v0", held_out=0.2)
    with datasets.minari_root(str(pendulum_root)):
        return runner(tmp_path_factory.mktemp("ingested")).run("ingest", data_nodes(data)[-1])
