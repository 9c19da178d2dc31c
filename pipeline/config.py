"""The one config of an experiment: frozen dataclasses, validated when they are built."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from mtm import HeteromodalConfig, MaskConfig, ModelConfig, OptimConfig, TokenizerConfig, UserError
from mtm.roles import get_role

_POSITIVE = "it must be at least 1"


def _need(condition: bool, name: str, value: object, allowed: str) -> None:
    if not condition:
        raise UserError(f"{name} is {value}; {allowed}")


@dataclass(frozen=True)
class DataConfig:
    """Which trajectories."""

    dataset_id: str = "mtm/hopper/expert-v0"
    """Minari dataset. ids under mtm/ are rolled out here; others are found locally or downloaded."""
    transitions: int = 1_000_000
    """Transitions to roll out, for ids under mtm/."""
    seed: int = 0
    """Seed of the rollouts, of the held-out split and of the fractions."""
    held_out: float = 0.05
    """Share of the episodes held out from training."""
    fraction: float = 1.0
    """Share of the training episodes used; smaller fractions lie inside larger ones."""

    def __post_init__(self) -> None:
        _need(
            bool(self.dataset_id),
            "dataset_id",
            "empty",
            "give a Minari id such as mtm/hopper/expert-v0",
        )
        _need(self.transitions >= 1, "transitions", self.transitions, _POSITIVE)
        _need(0 < self.held_out < 1, "held_out", self.held_out, "it must lie in (0, 1)")
        _need(0 < self.fraction <= 1, "fraction", self.fraction, "it must lie in (0, 1]")


@dataclass(frozen=True)
class PretrainConfig:
    """How training runs, for every learner of the experiment."""

    num_workers: int = 1
    """Data-parallel workers. The result is the same for any number, up to summation order."""
    cpus_per_worker: int = 1
    """CPU cores, and torch threads, of a worker."""
    use_gpu: bool = False
    """Give each worker a GPU."""
    log_every: int = 50
    """Steps between logged training losses."""
    validate_every: int = 250
    """Steps between validations on held-out episodes."""
    checkpoint_every: int = 250
    """Steps between checkpoints to resume from."""
    validation_windows: int = 2048
    """Held-out windows in a validation."""
    max_failures: int = 3
    """Lost workers after which a run with several workers gives up."""
    init_from: str = ""
    """Checkpoint whose weights the MTM starts from; empty: from scratch."""

    def __post_init__(self) -> None:
        for name in (
            "num_workers",
            "cpus_per_worker",
            "log_every",
            "validate_every",
            "checkpoint_every",
            "validation_windows",
        ):
            _need(getattr(self, name) >= 1, name, getattr(self, name), _POSITIVE)
        _need(self.max_failures >= 0, "max_failures", self.max_failures, "it must not be negative")


@dataclass(frozen=True)
class BaselineConfig:
    """MLPs trained beside the MTM, one for each role. The defaults are the paper's."""

    roles: tuple[str, ...] = ("bc", "rcbc")
    """Roles with an MLP of their own; empty for none."""
    width: int = 1024
    """Units in a hidden layer."""
    hidden_layers: int = 2
    """Hidden layers."""
    optim: OptimConfig = field(
        default_factory=lambda: OptimConfig(learning_rate=2e-4, batch_size=4096, warmup_steps=0)
    )
    """Optimizer and schedule."""


@dataclass(frozen=True)
class EvaluateConfig:
    """Rollouts and held-out errors."""

    episodes: int = 20
    """Episodes for each role and return target."""
    roles: tuple[str, ...] = ("bc", "rcbc", "id", "fd")
    """Roles to score, of those that a learner has: bc, rcbc and two-stage in the environment, id, fd,
    goal and waypoint by their held-out error."""
    targets: tuple[float, ...] = (0.6, 0.7, 0.8, 0.9, 1.0, 1.1)
    """Return targets of RCBC and two-stage, as shares of the training range."""
    shards: int = 2
    """Parallel tasks; each takes its share of the episodes of every setting."""
    seed: int = 1000
    """Seed of the first episode."""
    error_windows: int = 4096
    """Held-out windows for the errors."""
    open_loop_steps: int = 50
    """Steps of the forward dynamics rolled out open-loop."""

    def __post_init__(self) -> None:
        _need(
            self.episodes >= 2,
            "episodes",
            self.episodes,
            "at least 2 are needed: half choose the target",
        )
        _need(1 <= self.shards <= self.episodes, "shards", self.shards, "it must lie in [1, episodes]")
        _need(len(self.targets) >= 1, "targets", "empty", "give at least one")
        _need(
            all(math.isfinite(t) for t in self.targets), "targets", self.targets, "they must be finite"
        )
        _need(self.error_windows >= 1, "error_windows", self.error_windows, _POSITIVE)
        _need(self.open_loop_steps >= 1, "open_loop_steps", self.open_loop_steps, _POSITIVE)
        _need(len(self.roles) >= 1, "roles", "empty", "give at least one")
        for role in self.roles:
            get_role(role)


@dataclass(frozen=True)
class TrackingConfig:
    """Where MLflow keeps runs."""

    uri: str = ""
    """MLflow tracking URI; empty: MLFLOW_TRACKING_URI, else a database in the storage path."""
    experiment: str = "mtm"
    """MLflow experiment; stages are reused within it."""


@dataclass(frozen=True)
class ReportConfig:
    """Tables and figures."""

    video: bool = True
    """Render a short GIF of the policies, where the machine can render."""


@dataclass(frozen=True)
class Experiment:
    """Everything that determines an experiment."""

    name: str = "experiment"
    """Name of the MLflow run."""
    seed: int = 0
    """Seed of the weights, windows, masks and dropout."""
    storage_path: str = "runs"
    """Folder or URI (s3://, gs://, ...) for data, checkpoints and results."""
    data: DataConfig = field(default_factory=DataConfig)
    """Trajectories."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """Transformer."""
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    """Continuous or discrete tokens, by modality."""
    mask: MaskConfig = field(default_factory=MaskConfig)
    """Training mask pattern."""
    heteromodal: HeteromodalConfig = field(default_factory=HeteromodalConfig)
    """Episodes without actions."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """Optimizer of the MTM."""
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    """Training."""
    baseline: BaselineConfig = field(default_factory=BaselineConfig)
    """MLP baselines."""
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    """Evaluation."""
    report: ReportConfig = field(default_factory=ReportConfig)
    """Report."""
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    """MLflow."""
