"""An experiment's DAG: which stages there are, and what each depends on."""

from __future__ import annotations

import hashlib
from dataclasses import replace

from mtm import MLPConfig, OptimConfig, checkpoint
from pipeline import collect, datasets, evaluate, ingest, pretrain, report, storage
from pipeline.config import DataConfig, Experiment
from pipeline.dag import Node


def data_nodes(data: DataConfig) -> tuple[Node, ...]:
    """Collect (only for ids that are rolled out here) and ingest; the last is what others need."""
    upstream: tuple[Node, ...] = ()
    signature = ""
    if datasets.is_shipped(data.dataset_id):
        upstream = (collect_node(data),)
    else:
        signature = datasets.local_signature(data.dataset_id)
    config = ingest.IngestConfig(data.dataset_id, data.seed, data.held_out, signature)
    node = Node(
        "ingest",
        ingest.VERSION,
        ingest.ingest,
        config,
        upstream,
        resources=datasets.current_root(),
        num_cpus=0,
        on_this_machine=not upstream,
    )
    return (*upstream, node)


def collect_node(data: DataConfig) -> Node:
    """Roll out a dataset that ships as behaviour policies."""
    digest = hashlib.sha256()
    for path in datasets.behaviour_weights(data.dataset_id):
        digest.update(path.read_bytes())
    config = collect.CollectConfig(
        data.dataset_id, data.transitions, data.seed, digest.hexdigest()[:16]
    )
    return Node("collect", collect.VERSION, collect.collect, config, num_cpus=0)


def build(experiment: Experiment) -> Node:
    """The report of an experiment, with all it depends on."""
    ingested = data_nodes(experiment.data)[-1]
    mtm_spec = pretrain.MTMSpec(experiment.model, experiment.mask)
    learners = [("MTM", _pretrain(experiment, mtm_spec, experiment.optim, "mtm", ingested))]
    for role in experiment.baseline.roles:
        spec = MLPConfig(role, experiment.baseline.width, experiment.baseline.hidden_layers)
        name = f"mlp-{role}"
        learners.append(("MLP", _pretrain(experiment, spec, experiment.baseline.optim, name, ingested)))
    scored = [_evaluate(experiment, ingested, trained) for _, trained in learners]
    config = report.ReportStage(
        tuple(name for name, _ in learners), experiment.report.video, experiment.evaluate.seed
    )
    upstream = (ingested, *(trained for _, trained in learners), *scored)
    return Node("report", report.VERSION, report.report, config, upstream, num_cpus=0)


def _pretrain(
    experiment: Experiment,
    spec: pretrain.MTMSpec | MLPConfig,
    optim: OptimConfig,
    label: str,
    ingested: Node,
) -> Node:
    how = experiment.pretrain
    init_from, init_digest = "", ""
    if how.init_from and isinstance(spec, pretrain.MTMSpec):
        init_from = storage.absolute(how.init_from)
        content = storage.read(init_from)
        checkpoint.from_bytes(
            content, init_from
        )  # a wrong file is said now, not after the data are made
        init_digest = hashlib.sha256(content).hexdigest()[:16]
    config = pretrain.PretrainStage(
        learner=spec,
        optim=optim,
        fraction=experiment.data.fraction,
        seed=experiment.seed,
        validate_every=how.validate_every,
        validation_windows=how.validation_windows,
        init_from=init_from,
        init_digest=init_digest,
    )
    if isinstance(spec, MLPConfig):
        # An MLP is too small to gain from workers, or from more than one core.
        how = replace(how, num_workers=1, cpus_per_worker=1, use_gpu=False)
    alone = how.num_workers == 1
    return Node(
        "pretrain",
        pretrain.VERSION,
        pretrain.pretrain,
        config,
        (ingested,),
        label,
        resources=how,
        num_cpus=how.cpus_per_worker if alone else 0,
        num_gpus=int(how.use_gpu and alone),
    )


def _evaluate(experiment: Experiment, ingested: Node, trained: Node) -> Node:
    how = experiment.evaluate
    config = evaluate.EvaluateStage(how.episodes, how.targets, how.shards, how.seed, how.error_windows)
    upstream = (ingested, trained)
    return Node(
        "evaluate", evaluate.VERSION, evaluate.evaluate, config, upstream, trained.label, num_cpus=0
    )
