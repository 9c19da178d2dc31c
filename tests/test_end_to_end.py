"""The ``mtm`` command from data to table: killed, resumed, repeated, and given wrong input."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch

from mtm import checkpoint
from pipeline import storage
from tests import fakes

Command = Callable[..., subprocess.CompletedProcess[str]]
Mistake = Callable[..., str]
DATASET = "test/pendulum-v0"


@pytest.fixture(scope="module")
def pendulum_root(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("minari")
    fakes.pendulum_dataset(root, DATASET)
    return str(root)


def pendulum_arguments(folder: Path) -> list[str]:
    """A run on another environment than the recipe's, with an MTM alone and 300 steps."""
    return [
        *["run", "hopper-expert", "--scale", "smoke", "--storage-path", str(folder)],
        *["--data.dataset-id", DATASET, "--baseline.roles", "--report.no-video"],
        *["--optim.steps", "300", "--model.dropout", "0.1"],
    ]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    (path,) = folder.glob("pretrain/*/last.safetensors")
    return checkpoint.from_bytes(path.read_bytes(), str(path))[0].state_dict()


def kill_in_training(arguments: list[str], folder: Path, root: str) -> int:
    """Start a run, kill it with all its processes' parent after a checkpoint; the checkpoint's step."""
    process = subprocess.Popen(
        [sys.executable, "-m", "sweeps.cli", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "MINARI_DATASETS_PATH": root},
    )
    while process.poll() is None:
        found = list(folder.glob("pretrain/*/checkpoints/step-*.safetensors"))
        if found:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            break
        time.sleep(0.02)
    assert process.returncode == -signal.SIGKILL, "the run was over before it could be killed"
    return int(found[0].stem.removeprefix("step-"))


def test_a_killed_run_goes_on_and_ends_bit_for_bit_as_an_unbroken_one(
    mtm_command: Command, tmp_path: Path, pendulum_root: str
) -> None:
    env = {"MINARI_DATASETS_PATH": pendulum_root}
    unbroken = mtm_command(*pendulum_arguments(tmp_path / "whole"), **env)
    assert unbroken.returncode == 0, unbroken.stderr

    killed = tmp_path / "killed"
    step = kill_in_training(pendulum_arguments(killed), killed, pendulum_root)
    assert 0 < step < 300
    resumed = mtm_command(*pendulum_arguments(killed), **env)
    assert resumed.returncode == 0, resumed.stderr
    lines = {line.split("  ")[0].strip(): line for line in resumed.stdout.splitlines()}
    assert "reused" in lines["ingest"]
    assert "reused" not in lines["pretrain mtm"]

    whole, again = weights(tmp_path / "whole"), weights(killed)
    for name, value in whole.items():
        assert torch.equal(value, again[name]), name

    repeated = mtm_command(*pendulum_arguments(killed), **env)
    stages = [line for line in repeated.stdout.splitlines() if re.search(r"run [0-9a-f]{8}$", line)]
    assert len(stages) == 4
    assert all("reused" in line for line in stages)
    # The pendulum has no reference returns: returns are shown, and no invented score.
    (table,) = killed.glob("report/*/scores.csv")
    scores = pd.read_csv(table)
    assert scores["score"].isna().all()
    assert set(scores["role"].dropna()) == {"bc", "rcbc"}


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    """The line of a user's mistake: exit code 2, one line, no traceback."""
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.startswith("mtm: ")
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["run", "hoper-expert"], "unknown recipe 'hoper-expert'; did you mean hopper-expert?"),
        (["run"], "which recipe?"),
        (["run", "hopper-expert", "--scale", "huge"], "unknown scale 'huge'"),
        (["run", "hopper-expert", "--data.fraction", "1.5"], "fraction is 1.5; it must lie in (0, 1]"),
        (["run", "hopper-expert", "--data.fraction", "half"], "--data.fraction"),
        (["run", "hopper-expert", "--data.fractoin", "0.5"], "did you mean --data.fraction?"),
        (["run", "hopper-expert", "--model.window", "0"], "window is 0; a window needs at least 2"),
        (
            ["run", "hopper-expert", "--data.dataset-id", "mtm/hoper/expert-v0"],
            "did you mean mtm/hopper/expert-v0?",
        ),
        (
            ["run", "hopper-expert", "--tracking.uri", "http://127.0.0.1:9"],
            "no MLflow server answers at http://127.0.0.1:9",
        ),
        (["run", "hopper-expert", "--storage-path", "{tmp}/file/runs"], "is not writable"),
        (["run", "hopper-expert", "--storage-path", "nowhere://x"], "is not usable"),
        (["run", "hopper-expert", "--pretrain.init-from", "{tmp}/none.safetensors"], "cannot read"),
        (
            ["run", "hopper-expert", "--pretrain.init-from", "{tmp}/file"],
            "is no checkpoint of this project",
        ),
        (["collect", "D4RL/door/expert-v2"], "is not rolled out here"),
        (["ui", "--storage-path", "{tmp}/nothing"], "there are no runs in"),
        (["fly"], "invalid choice: 'fly'"),
        (["recipes", "--all"], "unrecognised: --all"),
    ],
    ids=lambda value: " ".join(value[1:]) if isinstance(value, list) else "",
)
def test_a_users_mistake_is_one_line_and_exit_code_2(
    mistake: Mistake, tmp_path: Path, arguments: list[str], expected: str
) -> None:
    (tmp_path / "file").write_text("in the way")
    given = [argument.replace("{tmp}", str(tmp_path)) for argument in arguments]
    if given[0] == "run" and len(given) > 1 and "--storage-path" not in given:
        given += ["--storage-path", str(tmp_path / "runs")]
    assert expected in mistake(*given)
    assert (
        not (tmp_path / "runs" / "mlflow.db").exists()
        or storage.files(str(tmp_path / "runs" / "pretrain")) == {}
    )


def test_mistakes_in_the_data_are_one_line_too(mtm_command: Command, tmp_path: Path) -> None:
    def run(*arguments: str) -> str:
        runs = ["--scale", "smoke", "--storage-path", str(tmp_path / "runs")]
        return one_line(mtm_command("run", "hopper-expert", *runs, *arguments, HF_HUB_OFFLINE="1"))

    missing = run("--data.dataset-id", "nobody/nothing-v0")
    assert "dataset nobody/nothing-v0 is not in" in missing
    assert "could not be downloaded" in missing
    # A checkpoint of another environment.
    path = tmp_path / "other.safetensors"
    path.write_bytes(checkpoint.to_bytes(fakes.mtm_learner()))
    mistake = run("--pretrain.init-from", str(path))
    assert "has 5 states, this run has 11 states" in mistake
    # A shard cut in half, with a stage still to run on it.
    (shard,) = tmp_path.glob("runs/ingest/*/*.parquet")
    shard.write_bytes(shard.read_bytes()[:1000])
    cut = run()
    assert f"{shard} is damaged: it has 1,000 bytes" in cut
    assert "delete that file and run again" in cut


def test_help_names_every_command_and_every_field(mtm_command: Command) -> None:
    done = mtm_command("--help")
    assert done.returncode == 0
    for command in ("quickstart", "run", "recipes", "collect", "table", "ui"):
        assert command in done.stdout
    assert "--data.fraction" in mtm_command("run", "hopper-expert", "--help").stdout
