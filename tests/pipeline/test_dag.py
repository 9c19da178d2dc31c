"""Fingerprints change when and only when they should; what is done is not done again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mtm import UserError
from pipeline import recipes, storage
from pipeline.config import Experiment
from pipeline.dag import Context, Node, plan
from pipeline.errors import StageError
from pipeline.experiment import build
from pipeline.tracking import Reference
from tests.pipeline.conftest import runner

BASE = recipes.smoke()


def changed_stages(other: Experiment) -> set[str]:
    """Names of stages whose fingerprint differs from the base experiment's."""
    before = {node.name: node.fingerprint for node in build(BASE).ancestors()}
    after = {node.name: node.fingerprint for node in build(other).ancestors()}
    return {name for name in after if before.get(name) != after[name]}


MTM = {"pretrain mtm", "evaluate mtm", "report"}
TRAINING = MTM | {
    f"{stage} mlp-{role}" for stage in ("pretrain", "evaluate") for role in ("bc", "rcbc")
}
EVERYTHING = TRAINING | {"collect", "ingest"}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"name": "other"}, set()),
        ({"storage_path": "elsewhere"}, set()),
        ({"pretrain": replace(BASE.pretrain, num_workers=2)}, set()),
        ({"pretrain": replace(BASE.pretrain, cpus_per_worker=1, log_every=1)}, set()),
        ({"model": replace(BASE.model, width=64)}, MTM),
        ({"mask": replace(BASE.mask, pattern="random")}, MTM),
        ({"optim": replace(BASE.optim, learning_rate=3e-4)}, MTM),
        ({"seed": 1}, TRAINING),
        ({"data": replace(BASE.data, fraction=0.5)}, TRAINING),
        ({"data": replace(BASE.data, held_out=0.5)}, TRAINING | {"ingest"}),
        ({"data": replace(BASE.data, transitions=5_000)}, EVERYTHING),
        ({"data": replace(BASE.data, seed=1)}, EVERYTHING),
        (
            {"evaluate": replace(BASE.evaluate, episodes=4)},
            {n for n in TRAINING if "pretrain" not in n},
        ),
        ({"report": replace(BASE.report, video=False)}, {"report"}),
    ],
)
def test_a_change_reaches_the_stages_that_depend_on_it(
    change: dict[str, Any], expected: set[str]
) -> None:
    assert changed_stages(replace(BASE, **change)) == expected


def test_fingerprints_are_the_same_in_every_process() -> None:
    """A constant: if this fails without a change of meaning, users lose what they have computed."""
    node = Node("stage", 1, leaf, {"a": 1, "b": (0.5, "x")})
    assert node.fingerprint == "91ef4b995f4c2aaa"


def test_a_new_version_of_a_stage_is_another_stage() -> None:
    assert Node("s", 1, leaf, {}).fingerprint != Node("s", 2, leaf, {}).fingerprint


def leaf(context: Context, config: dict[str, Any], *upstream: Reference) -> dict[str, Any]:
    """A stage that writes what it was given, and counts in a file how often it ran."""
    calls = Path(config["calls"])
    calls.write_text(calls.read_text() + config["name"] if calls.exists() else config["name"])
    if config.get("fail") == "user":
        raise UserError("the value is wrong; use another")
    if config.get("fail") == "bug":
        raise KeyError("a bug")
    storage.write(storage.join(context.uri, "out.txt"), b"x" * 10)
    return {"sum": config.get("value", 0) + sum(up.facts["sum"] for up in upstream)}


def diamond(calls: Path, **last: Any) -> Node:
    def node(name: str, *upstream: Node, **config: Any) -> Node:
        config = {"name": name, "calls": str(calls), **config}
        return Node("leaf", 1, leaf, config, upstream, name, num_cpus=1)

    a = node("a", value=1)
    return node("d", node("b", a, value=10), node("c", a, value=100), **last)


@pytest.mark.usefixtures("ray_cluster")
def test_a_dag_runs_each_stage_once_and_then_never_again(tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    first = runner(tmp_path / "runs").run("test", diamond(calls))
    assert first.facts["sum"] == 112
    assert sorted(calls.read_text()) == list("abcd")
    assert runner(tmp_path / "runs").run("test", diamond(calls)) == first
    assert sorted(calls.read_text()) == list("abcd")
    # Another last stage: the three before it are reused.
    runner(tmp_path / "runs").run("test", diamond(calls, value=1000))
    assert sorted(calls.read_text()) == list("abcdd")


@pytest.mark.usefixtures("ray_cluster")
def test_after_a_failure_only_what_is_missing_runs_in_the_same_mlflow_runs(tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    with pytest.raises(StageError, match="stage leaf d failed: KeyError: 'a bug'"):
        runner(tmp_path / "runs").run("test", diamond(calls, fail="bug"))
    with pytest.raises(StageError):
        runner(tmp_path / "runs").run("test", diamond(calls, fail="bug"))
    assert sorted(calls.read_text()) == list("abcdd")
    runs = runner(tmp_path / "runs").tracking._search("")
    assert sorted(run.info.run_name for run in runs) == ["leaf a", "leaf b", "leaf c", "leaf d", "test"]
    failed = next(run for run in runs if run.info.run_name == "leaf d")
    assert failed.info.status == "FAILED"
    parent = next(run for run in runs if run.info.run_name == "test")
    assert failed.data.tags["mlflow.parentRunId"] == parent.info.run_id


@pytest.mark.usefixtures("ray_cluster")
def test_what_does_not_depend_on_a_failed_stage_is_finished(tmp_path: Path) -> None:
    calls = tmp_path / "calls"

    def node(name: str, *upstream: Node, **config: Any) -> Node:
        return Node("leaf", 1, leaf, {"name": name, "calls": str(calls), **config}, upstream, name)

    # c waits for a; b fails at once, and d needs both.
    last = node("d", node("b", fail="bug"), node("c", node("a")))
    with pytest.raises(StageError, match="stage leaf b failed"):
        runner(tmp_path / "runs").run("test", last)
    assert sorted(calls.read_text()) == list("abc")


@pytest.mark.usefixtures("ray_cluster")
def test_a_users_mistake_in_a_stage_stays_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^the value is wrong; use another$"):
        runner(tmp_path / "runs").run("test", diamond(tmp_path / "calls", fail="user"))


def reference(folder: Path, name: str) -> Reference:
    (folder / name).mkdir()
    (folder / name / "out").write_bytes(b"12345")
    return Reference("leaf", name, "run", str(folder / name), {}, {"out": 5})


def test_deleted_outputs_are_made_again_and_damaged_ones_are_reported(tmp_path: Path) -> None:
    first = Node("leaf", 1, leaf, {"name": "a"})
    last = Node("leaf", 1, leaf, {"name": "b"}, (first,))
    known = {first.fingerprint: reference(tmp_path, "a"), last.fingerprint: reference(tmp_path, "b")}
    assert plan(last, known) == ({last.fingerprint: known[last.fingerprint]}, [])
    (tmp_path / "b" / "out").unlink()
    assert plan(last, known) == ({first.fingerprint: known[first.fingerprint]}, [last])
    (tmp_path / "a" / "out").write_bytes(b"12")
    with pytest.raises(UserError, match="a/out is damaged: it has 2 bytes and was written with 5"):
        plan(last, known)
    (tmp_path / "a" / "out").unlink()
    assert plan(last, known) == ({}, [first, last])
    (tmp_path / "b" / "out").write_bytes(b"12345")
    assert plan(last, known)[1] == [], "what is no longer needed may be gone"
