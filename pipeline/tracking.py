"""MLflow, and nothing else imports it: what ran, with what outcome, and what can be used again."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

# Read by MLflow when it is imported: a server that is down is reported, not waited for.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "true")

import mlflow
from mlflow.entities import Metric, Param, Run, RunTag, ViewType
from mlflow.exceptions import MlflowException

from mtm.errors import UserError
from pipeline import storage

FINGERPRINT, PIPELINE, PARENT = "mtm.fingerprint", "mtm.pipeline", "mlflow.parentRunId"
REFERENCE = "reference.json"


@dataclass(frozen=True)
class Reference:
    """What a finished stage hands to the next ones; JSON, kept with its MLflow run."""

    stage: str
    fingerprint: str
    run_id: str
    uri: str
    """Folder of the stage's outputs."""
    facts: dict[str, Any]
    """What downstream stages need to know without opening a file."""
    files: dict[str, int] = field(default_factory=dict)
    """Size in bytes of every output, by path below ``uri``."""


def damaged_file(reference: Reference) -> tuple[str, int] | None:
    """An output whose size is not what was written, and its size now."""
    present = storage.files(reference.uri)
    for name, size in reference.files.items():
        if name in present and present[name] != size:
            return name, present[name]
    return None


def outputs_exist(reference: Reference) -> bool:
    """Whether every output is there. UserError where one is there but damaged."""
    damaged = damaged_file(reference)
    if damaged is not None:
        name, size = damaged
        raise UserError(
            f"{storage.join(reference.uri, name)} is damaged: it has {size:,} bytes and was written "
            f"with {reference.files[name]:,}; delete that file and run again to rebuild it"
        )
    return not set(reference.files) - set(storage.files(reference.uri))


@dataclass(frozen=True)
class RunHandle:
    """A run to write to; travels to any process."""

    uri: str
    run_id: str

    def _client(self) -> mlflow.MlflowClient:
        return mlflow.MlflowClient(self.uri)

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        now = int(time.time() * 1000)
        rows = [Metric(_allowed(name), float(value), now, step) for name, value in metrics.items()]
        self._client().log_batch(self.run_id, metrics=rows)

    def log_series(self, name: str, values: Mapping[int, float]) -> None:
        """One metric's values by step, in one call."""
        now = int(time.time() * 1000)
        rows = [Metric(name, float(value), now, step) for step, value in values.items()]
        self._client().log_batch(self.run_id, metrics=rows)

    def log_params(self, params: Mapping[str, Any]) -> None:
        present = self._client().get_run(self.run_id).data.params
        rows = [Param(k, str(v)[:6000]) for k, v in params.items() if k not in present]
        self._client().log_batch(self.run_id, params=rows)

    def log_text(self, text: str, name: str) -> None:
        self._client().log_text(self.run_id, text, name)

    def log_bytes(self, content: bytes, name: str) -> None:
        """Keep a small file with the run."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name
            path.write_bytes(content)
            self._client().log_artifact(self.run_id, str(path))

    def read_bytes(self, name: str) -> bytes:
        """A file that is kept with the run. UserError where it is not there."""
        try:
            with tempfile.TemporaryDirectory() as folder:
                return Path(self._client().download_artifacts(self.run_id, name, folder)).read_bytes()
        except (MlflowException, OSError) as error:
            raise UserError(
                f"MLflow run {self.run_id} has no {name} any more; delete the run and run again"
            ) from error

    def log_folder(self, folder: str) -> None:
        self._client().log_artifacts(self.run_id, folder)

    def tag(self, tags: Mapping[str, str]) -> None:
        self._client().log_batch(self.run_id, tags=[RunTag(k, v) for k, v in tags.items()])

    def history(self, metric: str) -> list[tuple[int, float]]:
        """(step, value) in order of the step; a step that was logged twice has its last value."""
        rows = self._client().get_metric_history(self.run_id, metric)
        return sorted({row.step: row.value for row in rows}.items())

    def finish(self, status: str = "FINISHED") -> None:
        self._client().set_terminated(self.run_id, status)


class Tracking:
    """One MLflow experiment, and the memory of what was done in it.

    Raises UserError where the server or the database cannot be reached.
    """

    def __init__(
        self, uri: str, experiment: str, artifact_root: str | None = None, create: bool = True
    ):
        _check_reachable(uri)
        self.uri = uri
        try:
            found = self._client.get_experiment_by_name(experiment)
            if found is None and not create:
                raise UserError(f"MLflow at {uri} has no experiment {experiment!r}")
            if found is None:
                location = artifact_root and storage.absolute(artifact_root)
                self.experiment_id = self._client.create_experiment(experiment, location)
            else:
                self.experiment_id = found.experiment_id
        except (MlflowException, OSError) as error:
            line = str(error).split("\n", maxsplit=1)[0][:200]
            raise UserError(f"MLflow at {uri} does not answer as expected ({line})") from error

    @property
    def _client(self) -> mlflow.MlflowClient:
        """Made when it is used, for the memory itself travels to other processes."""
        return mlflow.MlflowClient(self.uri)

    def finished(self, fingerprints: Iterable[str]) -> dict[str, Reference]:
        """References of finished runs by fingerprint, whether or not their outputs still exist."""
        wanted, found = set(fingerprints), {}
        for run in self._search(f"tags.`{FINGERPRINT}` != '' AND attributes.status = 'FINISHED'"):
            fingerprint = run.data.tags[FINGERPRINT]
            if fingerprint in wanted and fingerprint not in found:
                found[fingerprint] = self._reference(run)
        return {fingerprint: ref for fingerprint, ref in found.items() if ref is not None}

    def pipeline_run(self, name: str, fingerprint: str) -> RunHandle:
        """The parent run of a pipeline: the one it had before it was interrupted, or a new one."""
        runs = self._search(f"tags.`{PIPELINE}` = '{fingerprint}'")
        return self._resume_or_create(runs, name, {PIPELINE: fingerprint})

    def latest_pipeline(self, name: str) -> RunHandle:
        """The parent run of that id, or the newest of that name. UserError where there is none."""
        runs = [
            run
            for run in self._search(f"tags.`{PIPELINE}` != ''")
            if name in (run.info.run_id, run.info.run_name)
        ]
        if not runs:
            raise UserError(f"MLflow at {self.uri} has no run with the name or id {name!r}")
        newest = max(runs, key=lambda run: run.info.end_time or float("inf"))
        return RunHandle(self.uri, newest.info.run_id)

    def stage_run(self, name: str, fingerprint: str, parent: str) -> RunHandle:
        """The run of a stage: the one an interrupted attempt left, or a new one."""
        runs = self._search(
            f"tags.`{FINGERPRINT}` = '{fingerprint}' AND attributes.status != 'FINISHED'"
        )
        return self._resume_or_create(runs, name, {FINGERPRINT: fingerprint, PARENT: parent})

    def stop(self, fingerprints: Iterable[str]) -> None:
        """Mark what still runs of these stages as killed."""
        for run in self._search(f"tags.`{FINGERPRINT}` != '' AND attributes.status = 'RUNNING'"):
            if run.data.tags[FINGERPRINT] in set(fingerprints):
                self._client.set_terminated(run.info.run_id, "KILLED")

    def _resume_or_create(self, runs: list[Run], name: str, tags: dict[str, str]) -> RunHandle:
        if runs:
            run_id = runs[0].info.run_id
            self._client.update_run(run_id, status="RUNNING")
            for key, value in tags.items():
                self._client.set_tag(run_id, key, value)
        else:
            tags = {**tags, **_commit()}
            run = self._client.create_run(self.experiment_id, tags=tags, run_name=name)
            run_id = run.info.run_id
        return RunHandle(self.uri, run_id)

    def _search(self, query: str) -> list[Run]:
        runs: list[Run] = []
        token = None
        while True:
            page = self._client.search_runs(
                [self.experiment_id], query, ViewType.ACTIVE_ONLY, max_results=1000, page_token=token
            )
            runs += page
            token = page.token
            if not token:
                return runs

    def _reference(self, run: Run) -> Reference | None:
        try:
            folder = self._client.download_artifacts(run.info.run_id, REFERENCE)
        except (MlflowException, OSError):
            return None  # its artifacts were deleted: as good as never run
        return Reference(**json.loads(Path(folder).read_text()))


def _allowed(name: str) -> str:
    """A metric's name without what MLflow does not allow in it, such as commas."""
    return re.sub(r"[^\w\-./: ]", "", name)


def numbers(facts: Mapping[str, Any]) -> dict[str, float]:
    """The facts that are numbers, as metrics."""
    return {k: float(v) for k, v in facts.items() if isinstance(v, int | float)}


def finish_stage(run: RunHandle, reference: Reference) -> None:
    """Keep the reference with the run, then mark it finished, in this order."""
    run.log_metrics(numbers(reference.facts))
    run.log_text(json.dumps(asdict(reference), indent=2), REFERENCE)
    run.finish()


def _check_reachable(uri: str) -> None:
    """A server is asked for a connection first: MLflow itself would retry for a long time."""
    parsed = urlparse(uri)
    if parsed.scheme not in ("http", "https"):
        return
    port = parsed.port or (443 if parsed.scheme == "https" else 80)
    try:
        socket.create_connection((parsed.hostname or "", port), timeout=10).close()
    except OSError as error:
        raise UserError(
            f"no MLflow server answers at {uri} ({error.strerror or error}); "
            "start it, or set --tracking.uri to one that runs"
        ) from error


def _commit() -> dict[str, str]:
    """The code's commit, where the package runs from a checkout."""
    git = subprocess.run(
        ["git", "rev-parse", "HEAD"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return {"mlflow.source.git.commit": git.stdout.strip()} if git.returncode == 0 else {}
