"""An experiment's DAG: which stages there are, and what each depends on."""

from __future__ import annotations

import hashlib
from dataclasses import replace

from mtm import HeteromodalConfig, MLPConfig, checkpoint
from pipeline import collect, datasets, evaluate, ingest, pretrain, report, storage
from pipeline.config import DataConfig, Experiment
from pipeline.dag import Node


def data_nodes(data: DataConfig, label: str = "") -> tuple[Node, ...]:
    """Collect (only for ids that are rolled out here) and ingest; the last is what others need.

    ``label`` tells the stages of several datasets apart on the screen.
    """
    upstream: tuple[Node, ...] = ()
    signature = ""
    if datasets.is_shipped(data.dataset_id):
        upstream = (collect_node(data, label),)
    else:
        signature = datasets.local_signature(data.dataset_id)
    config = ingest.IngestConfig(data.dataset_id, data.seed, data.held_out, signature)
    node = Node(
        "ingest",
        ingest.VERSION,
        ingest.ingest,
        config,
        upstream,
        label,
        resources=datasets.current_root(),
        num_cpus=0,
        on_this_machine=not upstream,
    )
    return (*upstream, node)


def collect_node(data: DataConfig, label: str = "") -> Node:
    """Roll out a dataset that ships as behaviour policies."""
    digest = hashlib.sha256()
    for path in datasets.behaviour_weights(data.dataset_id):
        digest.update(path.read_bytes())
    config = collect.CollectConfig(
        data.dataset_id, data.transitions, data.seed, digest.hexdigest()[:16]
    )
    return Node("collect", collect.VERSION, collect.collect, config, label=label, num_cpus=0)


def build(experiment: Experiment) -> Node:
    """The report of an experiment, with all it depends on."""
    ingested = data_nodes(experiment.data)[-1]
    names = ("mtm", *(f"mlp-{role}" for role in experiment.baseline.roles))
    learners = [trained(experiment, name, ingested) for name in names]
    scores = [scored(experiment, learner, ingested) for learner in learners]
    config = report.ReportStage(
        tuple(name.split("-")[0].upper() for name in names),
        experiment.report.video,
        experiment.evaluate.seed,
    )
    upstream = (ingested, *learners, *scores)
    return Node("report", report.VERSION, report.report, config, upstream, num_cpus=0)


def trained(experiment: Experiment, learner: str, ingested: Node, label: str = "") -> Node:
    """A learner of the experiment: ``mtm``, or ``mlp-`` and its role."""
    kind, _, role = learner.partition("-")
    how, heteromodal = experiment.pretrain, experiment.heteromodal
    fraction = experiment.data.fraction
    if heteromodal.labelled_fraction >= fraction:
        heteromodal = (
            HeteromodalConfig()
        )  # all actions are known; how they would be missed says nothing
    config = pretrain.PretrainStage(
        learner=pretrain.MTMSpec(experiment.model, experiment.mask, experiment.tokenizer),
        optim=experiment.optim,
        fraction=fraction,
        heteromodal=heteromodal,
        seed=experiment.seed,
        validate_every=how.validate_every,
        validation_windows=how.validation_windows,
    )
    if kind == "mlp":
        baseline = experiment.baseline
        config = replace(
            config,
            learner=MLPConfig(role, baseline.width, baseline.hidden_layers),
            optim=baseline.optim,
            # It can learn nothing from episodes without actions.
            fraction=min(fraction, heteromodal.labelled_fraction),
            heteromodal=HeteromodalConfig(),
        )
        # An MLP is too small to gain from workers, or from more than one core.
        how = replace(how, num_workers=1, cpus_per_worker=1, use_gpu=False)
    elif how.init_from:
        config = _starting_from(how.init_from, config)
    alone = how.num_workers == 1
    return Node(
        "pretrain",
        pretrain.VERSION,
        pretrain.pretrain,
        config,
        (ingested,),
        label or learner,
        resources=how,
        num_cpus=how.cpus_per_worker if alone else 0,
        num_gpus=int(how.use_gpu and alone),
    )


def _starting_from(path: str, config: pretrain.PretrainStage) -> pretrain.PretrainStage:
    """With initial weights from a checkpoint; a wrong file is said now, not after the data are made."""
    uri = storage.absolute(path)
    content = storage.read(uri)
    checkpoint.from_bytes(content, uri)
    return replace(config, init_from=uri, init_digest=hashlib.sha256(content).hexdigest()[:16])


def scored(experiment: Experiment, learner: Node, ingested: Node) -> Node:
    """The evaluation of a trained learner."""
    how = experiment.evaluate
    config = evaluate.EvaluateStage(
        how.episodes,
        how.roles,
        how.targets,
        how.shards,
        how.seed,
        how.error_windows,
        how.open_loop_steps,
    )
    return Node(
        "evaluate",
        evaluate.VERSION,
        evaluate.evaluate,
        config,
        (ingested, learner),
        learner.label,
        num_cpus=int(how.shards == 1),  # one shard is played in the stage's own process
    )
