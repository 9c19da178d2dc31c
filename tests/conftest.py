"""Fixtures that several test folders share."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(autouse=True)
def _own_minari_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees or changes the user's datasets, runs or cluster."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """A local Ray of two CPUs, for tests that run stages in this process."""
    import ray

    from pipeline.cluster import start_ray

    start_ray()
    yield
    ray.shutdown()


@pytest.fixture
def mtm_command() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the ``mtm`` command as a user does; its output and exit code."""

    def run(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "sweeps.cli", *arguments],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, **env},
        )

    return run


@pytest.fixture
def mistake(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Give ``mtm`` wrong input, in this process; the one line it answers with exit code 2."""
    from sweeps.cli import main

    def run(*arguments: str) -> str:
        with pytest.raises(SystemExit) as stop:
            main(list(arguments))
        said = capsys.readouterr()
        assert stop.value.code == 2, said.out + said.err
        assert said.err.startswith("mtm: ")
        assert said.err.count("\n") == 1, said.err
        return said.err

    return run
