"""A study from the command line: killed, resumed, and its table made again from MLflow alone."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from pipeline.tracking import FINGERPRINT
from tests import fakes

Command = Callable[..., subprocess.CompletedProcess[str]]
DATASET = "test/pendulum-v0"
STAGES = 1 + 2 * (3 + 3) + 1
"""Ingest; training and evaluation of three patterns with two seeds; table."""


def arguments(folder: Path) -> list[str]:
    return [
        *["run", "mask-patterns", "--scale", "smoke", "--storage-path", str(folder)],
        *["--datasets", DATASET, "--seeds", "2", "--optim.steps", "60"],
    ]


def finished(folder: Path) -> dict[str, int]:
    """When each stage ended that MLflow has as finished, by fingerprint; each once, or it is an error."""
    import mlflow  # after pipeline.tracking, which sets how much it says

    client = mlflow.MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiment = client.get_experiment_by_name("mtm") if (folder / "mlflow.db").exists() else None
    if experiment is None:
        return {}
    runs = client.search_runs([experiment.experiment_id], "attributes.status = 'FINISHED'")
    stages = [run for run in runs if FINGERPRINT in run.data.tags]
    ended = {run.data.tags[FINGERPRINT]: run.info.end_time for run in stages}
    assert len(ended) == len(stages), "a stage was run twice"
    return ended


def test_a_killed_study_runs_only_what_is_missing_and_its_table_comes_from_mlflow(
    mtm_command: Command, mistake: Callable[..., str], tmp_path: Path
) -> None:
    fakes.pendulum_dataset(tmp_path / "minari", DATASET)
    runs = tmp_path / "runs"
    process = subprocess.Popen(
        [sys.executable, "-m", "sweeps.cli", *arguments(runs)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while process.poll() is None and len(finished(runs)) < 3:
        time.sleep(0.2)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before = finished(runs)
    assert 3 <= len(before) < STAGES, "it was over before it could be killed"

    # What is there so far is a table already, with the rest missing.
    partly = mtm_command("table", "mask-patterns smoke", "--storage-path", str(runs))
    assert partly.returncode == 0, partly.stderr
    assert "missing" in partly.stdout
    assert "has no run with the name or id 'mask-patterns'" in mistake(
        "table", "mask-patterns", "--storage-path", str(runs)
    )

    resumed = mtm_command(*arguments(runs))
    assert resumed.returncode == 0, resumed.stderr
    assert "missing" not in resumed.stdout
    assert len(re.findall(" reused ", resumed.stdout)) >= len(before)
    after = finished(runs)
    assert len(after) == STAGES
    assert {fingerprint: after[fingerprint] for fingerprint in before} == before

    (table,) = runs.glob("table/*/results.csv")
    written = pd.read_csv(table)
    assert written["seeds"].eq(2).all()
    # Nothing but MLflow is left, and the table is the same.
    for stage in ("pretrain", "evaluate", "table", "ingest"):
        shutil.rmtree(runs / stage)
    again = mtm_command("table", "mask-patterns smoke", "--storage-path", str(runs))
    assert again.returncode == 0, again.stderr
    pd.testing.assert_frame_equal(
        pd.read_csv(runs / "tables" / "mask-patterns-smoke" / "results.csv"), written
    )


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["table", "capabilities"], "there are no runs in"),
        (["run", "heteromodal", "--data.dataset-id", "mtm/walker2d/expert-v0"], "use --datasets"),
        (
            ["run", "heteromodal", "--heteromodal.labelled-fraction", "0.5"],
            "heteromodal.labelled_fraction is what heteromodal sets for its arms",
        ),
        (["run", "data-efficiency", "--data.held-out", "0.2"], "hold out less"),
        (["run", "capabilties"], "did you mean capabilities?"),
        (["run", "mask-patterns", "--seeds", "0"], "seeds is 0; at least 1 is needed"),
        (["run", "mask-patterns", "--mask.pattern", "bert"], "names 'bert'; the patterns are"),
        (["run", "heteromodal", "--heteromodal.labelled-fraction", "0"], "labelled_fraction is 0.0"),
        (["run", "hopper-expert", "--tokenizer.actions", "1"], "actions has 1 bins; use at least 2"),
        (["run", "hopper-expert", "--evaluate.roles", "pilot"], "unknown role 'pilot'"),
        (["run", "hopper-expert", "--baseline.roles", "goal"], "there is no MLP for role 'goal'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_users_mistake_is_one_line_and_exit_code_2(
    mistake: Callable[..., str], tmp_path: Path, given: list[str], expected: str
) -> None:
    assert expected in mistake(*given, "--storage-path", str(tmp_path / "runs"))
