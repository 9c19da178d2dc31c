"""Train one learner with Ray Train: the MTM, or an MLP of one role."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch

from mtm import (
    HeteromodalConfig,
    Learner,
    MaskConfig,
    MLPConfig,
    MLPLearner,
    ModelConfig,
    MTMLearner,
    OptimConfig,
    TokenizerConfig,
    TrainState,
    UserError,
    WindowSampler,
    checkpoint,
    held_out_error,
    standard_modalities,
    validation_losses,
)
from mtm.trajectory import ACTIONS, Batch
from pipeline import shards, storage
from pipeline.config import PretrainConfig
from pipeline.dag import Context
from pipeline.tracking import Reference

VERSION = 2


@dataclass(frozen=True)
class MTMSpec:
    """An MTM to train."""

    model: ModelConfig
    mask: MaskConfig
    tokenizer: TokenizerConfig


@dataclass(frozen=True)
class PretrainStage:
    """What determines the trained weights."""

    learner: MTMSpec | MLPConfig
    optim: OptimConfig
    fraction: float
    heteromodal: HeteromodalConfig
    seed: int
    validate_every: int
    validation_windows: int
    init_from: str = ""
    init_digest: str = ""
    """Digest of that file's content, for the fingerprint."""


@dataclass(frozen=True)
class _Job:
    """What each worker is given."""

    context: Context
    config: PretrainStage
    ingested: Reference


def error_window(learner: Learner) -> int:
    """Length of the held-out windows for ID and FD errors: an MTM's own, for an MLP the paper's, of 4.

    At any other window the two answer for different steps of the same episodes.
    """
    return learner.window if isinstance(learner, MTMLearner) else 4


def build(spec: MTMSpec | MLPConfig, facts: dict[str, Any]) -> Learner:
    """An untrained learner for a dataset with these dimensions."""
    dims = facts["state_dim"], facts["action_dim"]
    if isinstance(spec, MLPConfig):
        return MLPLearner(standard_modalities(*dims), spec)
    return MTMLearner(standard_modalities(*dims, spec.tokenizer), spec.model, spec.mask)


def pretrain(context: Context, config: PretrainStage, ingested: Reference) -> dict[str, Any]:
    """Train to the last step and write ``last.safetensors`` and ``best.safetensors``.

    ``best`` has the lowest validation loss. An interrupted run goes on from its last checkpoint.
    """
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer
    from ray.train.v2.api.config import LoggingConfig

    how: PretrainConfig = context.resources
    _check_room(how)
    # Ray Train's own files are not needed: checkpoints are ours, the same with any number of workers.
    ray_storage = storage.join(context.uri, "ray_train")
    TorchTrainer(
        train_loop,
        train_loop_config={"job": _Job(context, config, ingested)},
        scaling_config=ScalingConfig(
            # 0 runs the loop in this very process, which saves the start of a worker group.
            num_workers=how.num_workers if how.num_workers > 1 else 0,
            use_gpu=how.use_gpu,
            resources_per_worker={"CPU": how.cpus_per_worker, **({"GPU": 1} if how.use_gpu else {})},
        ),
        run_config=RunConfig(
            name=f"attempt-{time.time_ns()}",
            storage_path=ray_storage,
            failure_config=FailureConfig(max_failures=how.max_failures),
            logging_config=LoggingConfig("ERROR"),
        ),
    ).fit()
    storage.delete(ray_storage)
    storage.delete(storage.join(context.uri, "checkpoints"))
    last = _learner(storage.join(context.uri, "last.safetensors"))
    best = _learner(storage.join(context.uri, "best.safetensors"))
    return {
        "kind": last.kind,
        "roles": list(last.roles),
        "step": last.facts["step"],
        "best_step": best.facts["step"],
        "validation_loss": last.facts["validation_loss"],
        "best_validation_loss": best.facts["validation_loss"],
        "parameters": sum(p.numel() for p in last.parameters()),
    }


def _check_room(how: PretrainConfig) -> None:
    """Raises UserError where the cluster lacks what is asked for; Ray would wait for ever."""
    import ray

    if how.num_workers == 1:
        return
    machines = [machine["Resources"] for machine in ray.nodes() if machine["Alive"]]
    room = sum(int(resources.get("CPU", 0)) // how.cpus_per_worker for resources in machines)
    if room < how.num_workers:
        raise UserError(
            f"num_workers is {how.num_workers} with {how.cpus_per_worker} CPU each and the cluster "
            f"has room for {room}; ask for fewer, or add machines"
        )
    gpus = sum(int(resources.get("GPU", 0)) for resources in machines)
    if how.use_gpu and gpus < how.num_workers:
        raise UserError(f"num_workers is {how.num_workers} with a GPU each and the cluster has {gpus}")


def _learner(uri: str) -> Learner:
    return checkpoint.from_bytes(storage.read(uri), uri)[0]


def train_loop(arguments: dict[str, Any]) -> None:
    """The training loop, run by every worker."""
    import ray.train
    from ray.train.torch import get_device, prepare_model

    job: _Job = arguments["job"]
    worker = ray.train.get_context()
    rank, world_size = worker.get_world_rank(), worker.get_world_size()
    how: PretrainConfig = job.context.resources
    torch.set_num_threads(how.cpus_per_worker)
    device = get_device()
    learner, samplers = _prepare(job, device)
    state = TrainState(
        learner,
        job.config.optim,
        samplers.train,
        job.config.seed,
        rank,
        world_size,
        wrap=prepare_model if world_size > 1 else lambda module: module,
        heteromodal=job.config.heteromodal,
    )
    keeper = _Keeper(job, learner, state, samplers)
    keeper.resume()
    steps, started, first = job.config.optim.steps, time.monotonic(), state.step
    since_log: list[torch.Tensor] = []
    while state.step < steps:
        losses = state.train_step()
        since_log.append(torch.stack(list(losses.values())))
        step, last = state.step, state.step == steps
        if step % how.log_every == 0 or last:
            means = _means(torch.stack(since_log), world_size)
            since_log.clear()
            if rank == 0:
                rate = (step - first) / (time.monotonic() - started)
                keeper.log(dict(zip(losses, means, strict=True)), rate)
        if rank == 0 and (step % job.config.validate_every == 0 or last):
            keeper.validate()
        if rank == 0 and (step % how.checkpoint_every == 0 and not last):
            keeper.save()
    if rank == 0:
        keeper.finish()


@dataclass(frozen=True)
class _Samplers:
    train: WindowSampler
    validation: WindowSampler
    errors: list[Batch]


def _prepare(job: _Job, device: torch.device) -> tuple[Learner, _Samplers]:
    """The learner with its initial weights and statistics, and the data on the device."""
    config, facts = job.config, job.ingested.facts
    learner = build(config.learner, facts)
    learner.initialise(torch.Generator().manual_seed(config.seed))
    train = shards.load(job.ingested, shards.TRAIN, config.fraction)
    held_out = shards.load(job.ingested, shards.HELD_OUT).values
    labelled = _labelled(train, config.heteromodal.labelled_fraction)
    _fit(learner, train.values, labelled)
    learner.facts = {
        "dataset_id": facts["dataset_id"],
        "env_spec": facts["env_spec"],
        "fingerprint": job.context.fingerprint,
    }
    if config.init_from:
        checkpoint.start_from(learner, _learner(config.init_from), config.init_from)
    learner.to(device)
    errors = WindowSampler(held_out, error_window(learner), device)
    return learner, _Samplers(
        WindowSampler(train.values, learner.window, device, labelled),
        WindowSampler(held_out, learner.window, device),
        list(errors.evenly(config.validation_windows, 1024)),
    )


def _labelled(train: shards.Episodes, fraction: float) -> list[bool]:
    """Of which episodes the actions are known: the same draw that makes fractions of the data."""
    labelled = (train.u < fraction).tolist()
    if not any(labelled):
        raise UserError(
            f"labelled_fraction {fraction} leaves none of the {len(labelled)} training episodes with "
            f"actions; use more than {train.u.min():.4f}, or more transitions"
        )
    return labelled


def _fit(learner: Learner, episodes: list[Batch], labelled: list[bool]) -> None:
    """Statistics of what is known: states and returns of every episode, actions of the labelled ones."""
    with_actions = [e for e, known in zip(episodes, labelled, strict=True) if known]
    for name, tokenizer in learner.tokenizer.items():
        known = with_actions if name == ACTIONS else episodes
        tokenizer.fit(torch.cat([episode[name] for episode in known]))


def _means(losses: torch.Tensor, world_size: int) -> list[float]:
    """Means over steps [steps, losses] and workers; the one place in the loop that waits for the device.

    Over steps, because one mask stands for a whole batch and some masks are far harder than others.
    """
    means = losses.mean(0)
    if world_size > 1:
        torch.distributed.all_reduce(means)
        means = means / world_size
    return means.tolist()


class _Keeper:
    """What rank 0 does beside training: logs, validation, checkpoints. Others only resume."""

    def __init__(self, job: _Job, learner: Learner, state: TrainState, samplers: _Samplers):
        self.job, self.learner, self.state, self.samplers = job, learner, state, samplers
        self.folder = storage.join(job.context.uri, "checkpoints")
        self.best: bytes = b""
        self.best_loss = float("inf")

    def log(self, losses: dict[str, float], rate: float) -> None:
        step = self.state.step
        metrics = {f"train.{name}": value for name, value in losses.items()}
        metrics["train.steps_per_second"] = rate
        metrics["train.learning_rate"] = self.job.config.optim.learning_rate_at(step - 1)
        self.job.context.run.log_metrics(metrics, step)
        text = f"loss {losses['loss']:.4f}  {rate:.1f} steps/s"
        self.job.context.progress(step, self.job.config.optim.steps, text)

    def validate(self) -> None:
        """Held-out losses and errors; a copy of the weights where the loss is the lowest so far."""
        losses = validation_losses(
            self.learner, self.samplers.validation, self.job.config.validation_windows
        )
        metrics = {f"validation.{name}": value for name, value in losses.items()}
        for role in ("id", "fd"):
            if role in self.learner.roles:
                error = held_out_error(self.learner, role, self.samplers.errors)
                metrics[f"validation.{role}_error"] = error
        self.job.context.run.log_metrics(metrics, self.state.step)
        self.learner.facts |= {"step": self.state.step, "validation_loss": losses["loss"]}
        if losses["loss"] < self.best_loss:
            self.best_loss = losses["loss"]
            self.best = checkpoint.to_bytes(self.learner)

    def save(self) -> None:
        """A checkpoint to resume from, written whole or not at all; the one before it is deleted."""
        training = self.state.state_dict()
        training["best_loss"] = torch.tensor(self.best_loss, dtype=torch.float64)
        training["best"] = torch.frombuffer(bytearray(self.best), dtype=torch.uint8)
        older = storage.files(self.folder)
        name = f"step-{self.state.step:09d}.safetensors"
        storage.write(storage.join(self.folder, name), checkpoint.to_bytes(self.learner, training))
        system, path = storage.resolve(self.folder)
        for file in older:
            system.delete_file(storage.join(path, file))

    def resume(self) -> None:
        """Go on from the newest checkpoint, if there is one."""
        names = [n for n in storage.files(self.folder) if n.endswith(".safetensors")]
        if not names:
            return
        uri = storage.join(self.folder, max(names))
        _, training = checkpoint.from_bytes(storage.read(uri), uri)
        self.best_loss = float(training.pop("best_loss"))
        self.best = bytes(training.pop("best").numpy())
        self.state.load_state_dict(training)

    def finish(self) -> None:
        uri = self.job.context.uri
        storage.write(storage.join(uri, "last.safetensors"), checkpoint.to_bytes(self.learner))
        if not self.best:
            raise UserError("the validation loss is not finite; lower the learning rate")
        storage.write(storage.join(uri, "best.safetensors"), self.best)
