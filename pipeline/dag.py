"""The DAG: stages, their fingerprints, and their memory in MLflow.

A stage is a function of a config and of its upstream stages' references. Ray runs it: what it
depends on arrives as object references, so Ray's scheduling is the scheduler. Before it runs,
MLflow is asked for a finished run with the same fingerprint whose outputs still exist.
"""

from __future__ import annotations

import hashlib
import json
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, is_dataclass
from functools import cached_property
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from rich.console import Console

from mtm.errors import UserError
from pipeline import storage
from pipeline.errors import StageError
from pipeline.progress import Board, Display, Reporter
from pipeline.tracking import (
    Reference,
    RunHandle,
    Tracking,
    finish_stage,
    numbers,
    outputs_exist,
)


@dataclass(frozen=True)
class Context:
    """What a stage may use besides its config: a folder, an MLflow run, a progress line."""

    uri: str
    """Folder for outputs. It may hold what an interrupted attempt left."""
    run: RunHandle
    fingerprint: str
    progress: Reporter
    resources: Any
    """How to run, as opposed to what: never part of the fingerprint."""


StageFunction = Callable[..., dict[str, Any]]
"""``(context, config, *references) -> facts``"""


@dataclass(frozen=True, eq=False)
class Node:
    """A stage with its config and its place in the DAG."""

    stage: str
    version: int
    function: StageFunction
    config: Any
    upstream: tuple[Node, ...] = ()
    label: str = ""
    resources: Any = None
    num_cpus: int = 1
    num_gpus: int = 0
    on_this_machine: bool = False
    """Whether it needs files that only the driver's machine is sure to have."""

    @property
    def name(self) -> str:
        return f"{self.stage} {self.label}".strip()

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the stage's name, version and config and of its upstreams' fingerprints."""
        content = [self.stage, self.version, plain(self.config), [n.fingerprint for n in self.upstream]]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    def ancestors(self) -> Iterator[Node]:
        """This node and all it depends on, upstream first, each once."""
        seen: dict[str, Node] = {}

        def visit(node: Node) -> None:
            if node.fingerprint not in seen:
                for parent in node.upstream:
                    visit(parent)
                seen[node.fingerprint] = node

        visit(self)
        yield from seen.values()


def plain(value: Any) -> Any:
    """A config as JSON: dataclasses to dicts, with their class, so that two never look alike."""
    if is_dataclass(value) and not isinstance(value, type):
        return {"": type(value).__name__, **{k: plain(v) for k, v in vars(value).items()}}
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, tuple | list):
        return [plain(v) for v in value]
    return value


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """A config as ``{"optim.steps": 2000, ...}``."""
    if is_dataclass(value) and not isinstance(value, type):
        value = vars(value)
    if not isinstance(value, dict):
        return {prefix: value}
    rows: dict[str, Any] = {}
    for name, inner in value.items():
        rows |= flat(inner, f"{prefix}.{name}" if prefix else name)
    return rows


def plan(target: Node, known: dict[str, Reference]) -> tuple[dict[str, Reference], list[Node]]:
    """What the target builds on of the ``known`` references, by fingerprint, and what must run.

    Only what the target still needs is looked at: with the last stage done, nothing else matters,
    and outputs of earlier stages may have been deleted or damaged. Nodes come upstream first.
    """
    reused: dict[str, Reference] = {}
    needed: dict[str, Node] = {}

    def visit(node: Node) -> None:
        if node.fingerprint in reused or node.fingerprint in needed:
            return
        reference = known.get(node.fingerprint)
        if reference is not None and outputs_exist(reference):
            reused[node.fingerprint] = reference
            return
        for parent in node.upstream:
            visit(parent)
        needed[node.fingerprint] = node

    visit(target)
    return reused, list(needed.values())


@dataclass(frozen=True)
class _Job:
    """A node as it travels to the worker that runs it."""

    node: Node
    tracking: Tracking
    parent: str
    uri: str
    board: Any


@ray.remote(max_retries=0)
def _execute(job: _Job, *upstream: Reference) -> Reference:
    """Run a stage and remember it."""
    node, start = job.node, time.time()
    run = job.tracking.stage_run(node.name, node.fingerprint, job.parent)
    run.log_params(flat(node.config))
    progress = Reporter(job.board, node.name)
    progress(0, 1)
    context = Context(job.uri, run, node.fingerprint, progress, node.resources)
    try:
        facts = node.function(context, node.config, *upstream)
    except BaseException as error:
        if not isinstance(error, UserError):
            run.log_text(traceback.format_exc(), "traceback.txt")
        run.tag({"mtm.error": str(error)[:5000]})
        run.finish("FAILED")
        raise
    facts = {**facts, "seconds": round(time.time() - start, 1)}
    reference = Reference(
        node.stage, node.fingerprint, run.run_id, job.uri, facts, storage.files(job.uri)
    )
    finish_stage(run, reference)
    return reference


@dataclass(frozen=True)
class Runner:
    """Brings a DAG's last stage about: reuses what is done, runs the rest in parallel, says both."""

    tracking: Tracking
    storage_path: str
    console: Console
    start_ray: Callable[[], None]
    """Called only where something has to run."""
    summary: Callable[[Reference], str]
    """A stage's last line."""

    def run(self, name: str, target: Node, notes: Mapping[str, str] | None = None) -> Reference:
        """The target's reference. Raises UserError or StageError where a stage fails.

        ``notes`` are texts by file name, kept with the parent run from its beginning.
        """
        nodes = list(target.ancestors())
        known = self.tracking.finished(node.fingerprint for node in nodes)
        reused, needed = plan(target, known)
        display = Display([node.name for node in nodes], self.console)
        for node in nodes:
            if node not in needed and node.fingerprint in known:
                display.line(node.name, "reused", self._last_line(known[node.fingerprint]))
        if not needed:
            return reused[target.fingerprint]
        self.start_ray()
        parent = self.tracking.pipeline_run(name, target.fingerprint)
        for file, text in (notes or {}).items():
            parent.log_text(text, file)
        parent.tag({f"mtm.reused.{ref.stage}.{fp[:4]}": ref.run_id for fp, ref in reused.items()})
        try:
            references = self._run(needed, reused, parent, display)
        except BaseException as error:
            parent.finish("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
            raise
        last = references[target.fingerprint]
        parent.log_metrics(
            {f"seconds.{node.name}": references[node.fingerprint].facts["seconds"] for node in needed}
        )
        parent.log_metrics(numbers(last.facts))
        with storage.local_copy(last.uri) as folder:
            parent.log_folder(folder)
        parent.finish()
        return last

    def _run(
        self, needed: list[Node], reused: dict[str, Reference], parent: RunHandle, display: Display
    ) -> dict[str, Reference]:
        """References of the needed nodes, run as Ray tasks that wait for one another.

        Where one fails, all that does not depend on it is brought to its end before that is raised.
        """
        board = Board.remote()  # type: ignore[attr-defined]
        futures: dict[str, Any] = {fp: ray.put(reference) for fp, reference in reused.items()}
        waiting: dict[Any, Node] = {}
        options = [_resources(node) for node in needed]
        for node, how in zip(needed, options, strict=True):
            job = _Job(
                node,
                self.tracking,
                parent.run_id,
                storage.join(storage.absolute(self.storage_path), node.stage, node.fingerprint),
                board,
            )
            upstream = [futures[up.fingerprint] for up in node.upstream]
            future = _execute.options(**how, name=node.name).remote(job, *upstream)
            futures[node.fingerprint], waiting[future] = future, node
        done: dict[str, Reference] = {}
        failed: list[tuple[Node, UserError | StageError]] = []
        culprits: list[UserError | StageError] = []
        try:
            with display:
                while waiting:
                    ready, _ = ray.wait(list(waiting), timeout=0.5)
                    display.update(ray.get(board.read.remote()))
                    for future in ready:
                        node = waiting.pop(future)
                        try:
                            reference = _result(future, node)
                        except (UserError, StageError) as error:
                            failed.append((node, error))
                            continue
                        done[node.fingerprint] = reference
                        text = self._last_line(reference)
                        display.finished(node.name, reference.facts["seconds"], text)
                    # A stage fails with whatever it depends on; the one to name had all it needs.
                    there = done.keys() | reused.keys()
                    for stage, why in failed:
                        if why not in culprits and {up.fingerprint for up in stage.upstream} <= there:
                            culprits.append(why)
                            display.finished(stage.name, None, str(why))
        except BaseException:
            for future in waiting:
                ray.cancel(future, force=True)
            self.tracking.stop(node.fingerprint for node in waiting.values())
            raise
        if culprits:
            raise culprits[0]
        return done

    def _last_line(self, reference: Reference) -> str:
        return f"{self.summary(reference)}  [dim]run {reference.run_id[:8]}[/]"


def _resources(node: Node) -> dict[str, Any]:
    """Where Ray must run the node's task, and what it must give it.

    Raises UserError where no machine of the cluster ever could.
    """
    alive = [machine["Resources"] for machine in ray.nodes() if machine["Alive"]]
    largest = max(int(resources.get("CPU", 0)) for resources in alive)
    if node.num_cpus > largest:
        raise UserError(
            f"stage {node.name} asks for {node.num_cpus} CPU and the largest machine has {largest}; "
            "ask for fewer with --pretrain.cpus-per-worker, or add machines"
        )
    if node.num_gpus > max(int(resources.get("GPU", 0)) for resources in alive):
        raise UserError(
            f"stage {node.name} asks for a GPU and no machine has one; use --pretrain.no-use-gpu"
        )
    options: dict[str, Any] = {"num_cpus": node.num_cpus, "num_gpus": node.num_gpus}
    if node.on_this_machine:
        here = ray.get_runtime_context().get_node_id()
        options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(here, soft=False)
    return options


def _result(future: Any, node: Node) -> Reference:
    try:
        return ray.get(future)
    except ray.exceptions.RayError as error:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, UserError) and not isinstance(cause, ray.exceptions.RayError):
                raise cause from None
            cause = _inner(cause)
        last = str(error).strip().splitlines()[-1][:300]
        raise StageError(f"stage {node.name} failed: {last}") from error


def _inner(error: BaseException) -> BaseException | None:
    """The error behind an error: Ray and Ray Train each wrap what a worker raised."""
    workers = getattr(error, "worker_failures", None)
    if workers:
        return next(iter(workers.values()))
    return getattr(error, "cause", None) or error.__cause__
