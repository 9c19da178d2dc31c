"""Training with Ray Train: two workers make the run of one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mtm import HeteromodalConfig, MaskConfig, UserError, checkpoint
from mtm.model import ModelConfig
from pipeline import storage
from pipeline.config import Experiment
from pipeline.dag import Node
from pipeline.experiment import build
from pipeline.tracking import Reference, RunHandle
from tests.pipeline.conftest import runner

pytestmark = pytest.mark.usefixtures("ray_cluster")


def pretrain_node(experiment: Experiment) -> Node:
    return next(node for node in build(experiment).ancestors() if node.name == "pretrain mtm")


def curve(folder: Path, reference: Reference, metric: str) -> list[tuple[int, float]]:
    return RunHandle(f"sqlite:///{folder}/mlflow.db", reference.run_id).history(metric)


def test_two_workers_make_the_run_of_one(pendulum: Experiment, tmp_path: Path) -> None:
    """The same losses and weights up to summation order, with dropout and state-only batches."""
    pendulum = replace(
        pendulum,
        model=ModelConfig(width=32, dropout=0.1),
        mask=MaskConfig(pattern="id+autoregressive"),
        heteromodal=HeteromodalConfig(labelled_fraction=0.5),
    )
    made = {}
    for workers in (1, 2):
        how = replace(pendulum.pretrain, num_workers=workers, cpus_per_worker=1)
        folder = tmp_path / str(workers)
        node = pretrain_node(replace(pendulum, pretrain=how))
        reference = runner(folder).run("pretrain", node)
        losses = [v for m in ("train.loss", "validation.loss") for _, v in curve(folder, reference, m)]
        learner, _ = checkpoint.from_bytes(
            storage.read(storage.join(reference.uri, "last.safetensors")), ""
        )
        made[workers] = torch.tensor(losses), learner.state_dict()
        assert set(reference.files) == {"last.safetensors", "best.safetensors"}
    torch.testing.assert_close(made[2][0], made[1][0], rtol=1e-4, atol=1e-6)
    for name, one in made[1][1].items():
        two = made[2][1][name]
        # Softmax ignores a bias of the keys: its gradient is rounding, which AdamW scales up.
        parts = (0, 2) if name.endswith("qkv.bias") else (0, 1, 2)
        for part in parts:
            torch.testing.assert_close(
                two.chunk(3)[part : part + 1], one.chunk(3)[part : part + 1], rtol=1e-3, atol=1e-5
            )


def test_more_workers_than_the_cluster_has_room_for_are_refused(
    pendulum: Experiment, tmp_path: Path
) -> None:
    how = replace(pendulum.pretrain, num_workers=64, cpus_per_worker=1)
    with pytest.raises(
        UserError, match="num_workers is 64 with 1 CPU each and the cluster has room for"
    ):
        runner(tmp_path).run("pretrain", pretrain_node(replace(pendulum, pretrain=how)))


def test_a_gpu_that_no_machine_has_is_refused(pendulum: Experiment, tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    how = replace(pendulum.pretrain, use_gpu=True)
    with pytest.raises(UserError, match="asks for a GPU and no machine has one"):
        runner(tmp_path).run("pretrain", pretrain_node(replace(pendulum, pretrain=how)))


def test_a_labelled_fraction_that_holds_no_episode_says_how_many_there_are(
    pendulum: Experiment, tmp_path: Path
) -> None:
    few = replace(pendulum, heteromodal=HeteromodalConfig(labelled_fraction=1e-6))
    with pytest.raises(
        UserError, match="labelled_fraction 1e-06 leaves none of the 11 training episodes"
    ):
        runner(tmp_path).run("pretrain", pretrain_node(few))
