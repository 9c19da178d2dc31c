"""Studies as DAGs: a base experiment, arms that change a field of it, seeds; cells share what they can."""

from __future__ import annotations

import difflib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, is_dataclass, replace
from typing import Any, Literal, TypeVar

from mtm import UserError
from pipeline.config import Experiment
from pipeline.dag import Node
from pipeline.experiment import data_nodes, scored, trained
from pipeline.recipes import Scale

Published = Mapping[tuple[str, str, float | None], tuple[float, float | None]]
"""Published mean and standard deviation by dataset (``hopper/expert``), arm and level."""

Config = TypeVar("Config")


@dataclass(frozen=True)
class Sweep(Experiment):
    """An experiment that is run on several datasets and seeds, in several arms."""

    seeds: int = 2
    """Seeds of every cell, from ``seed`` on."""
    datasets: tuple[str, ...] = ("mtm/hopper/expert-v0",)
    """Minari datasets; they take the place of data.dataset_id."""

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise UserError(f"seeds is {self.seeds}; at least 1 is needed")
        if not self.datasets:
            raise UserError("datasets is empty; give at least one Minari id")


@dataclass(frozen=True)
class Arm:
    """One way of doing it: a learner, and the fields in which its experiment differs from the base."""

    label: str
    learner: str = "mtm"
    """``mtm``, or ``mlp-`` and its role."""
    change: Mapping[str, Any] = field(default_factory=dict)
    """Values by dotted field, such as ``{"mask.pattern": "random"}``."""
    roles: tuple[str, ...] = ("bc", "rcbc", "id", "fd")
    """The roles that are scored."""
    level: float | None = None
    """Where the arm stands on the study's axis, if it has one."""


@dataclass(frozen=True)
class Study:
    """A named comparison."""

    name: str
    base: Callable[[Scale], Sweep]
    arms: Callable[[Sweep], list[Arm]]
    columns: Literal["arm", "role", "level"]
    """What stands in the columns of its table."""
    published: Published = field(default_factory=dict)

    @property
    def doc(self) -> str:
        return self.base.__doc__ or ""


@dataclass(frozen=True)
class Cell:
    """One training run and its evaluation."""

    dataset: str
    arm: Arm
    seed: int
    evaluated: Node


@dataclass(frozen=True)
class Entry:
    """A cell as it is written down: from these alone a table can be made, with MLflow's help."""

    dataset: str
    arm: str
    level: float | None
    roles: tuple[str, ...]
    seed: int
    fingerprint: str
    """Of the cell's evaluation."""


@dataclass(frozen=True)
class Manifest:
    """What a study's table is made of; JSON, kept with the study's MLflow run."""

    study: str
    entries: tuple[Entry, ...]
    data: dict[str, str]
    """Fingerprint of each dataset's ingest."""

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2)

    @classmethod
    def from_json(cls, text: str | bytes) -> Manifest:
        content = json.loads(text)
        entries = tuple(
            Entry(**{**entry, "roles": tuple(entry["roles"])}) for entry in content["entries"]
        )
        return cls(content["study"], entries, content["data"])


def override(config: Config, dotted: str, value: Any) -> Config:
    """The config with one field changed, ``data.fraction`` for example. UserError for an unknown one."""
    name, _, rest = dotted.partition(".")
    known = list(vars(config))
    if name not in known or (rest and not is_dataclass(getattr(config, name))):
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(known)}"
        raise UserError(f"there is no field {dotted!r}; {hint}")
    inner = override(getattr(config, name), rest, value) if rest else value
    return replace(config, **{name: inner})  # type: ignore[type-var]


FIXED = ("data.dataset_id", "evaluate.roles", "baseline.roles")
"""Fields that every study sets itself, from ``datasets`` and its arms."""


def check(study: Study, base: Sweep, sweep: Sweep) -> None:
    """Raises UserError where the command line changes what the study's arms set anyway."""
    own = {field: None for field in FIXED} | {f: None for arm in study.arms(base) for f in arm.change}
    for dotted in own:
        if _value(base, dotted) != _value(sweep, dotted):
            instead = "use --datasets" if dotted == "data.dataset_id" else "it cannot be changed"
            raise UserError(f"{dotted} is what {study.name} sets for its arms; {instead}")


def _value(config: Any, dotted: str) -> Any:
    for name in dotted.split("."):
        config = getattr(config, name)
    return config


def cells(study: Study, sweep: Sweep) -> tuple[list[Cell], dict[str, Node]]:
    """All cells, and the ingest of every dataset. Arms that come to the same share their stages."""
    short = short_names(sweep.datasets)
    ingested = {
        dataset: data_nodes(
            replace(sweep.data, dataset_id=dataset), short[dataset] if len(short) > 1 else ""
        )[-1]
        for dataset in sweep.datasets
    }
    made = []
    for dataset, data in ingested.items():
        for arm in study.arms(sweep):
            for seed in range(sweep.seed, sweep.seed + sweep.seeds):
                scores = replace(sweep.evaluate, roles=arm.roles)
                experiment = replace(sweep, seed=seed, evaluate=scores)
                for dotted, value in arm.change.items():
                    experiment = override(experiment, dotted, value)
                label = _label(arm, short[dataset], seed)
                learner = trained(experiment, arm.learner, data, label)
                made.append(Cell(dataset, arm, seed, scored(experiment, learner, data)))
    return made, ingested


def _label(arm: Arm, dataset: str, seed: int) -> str:
    """A cell's name on the screen and in MLflow."""
    role = arm.roles[0] if len(arm.roles) == 1 else ""
    level = "" if arm.level is None else f"{arm.level:g}"
    words = (arm.label, role, level, dataset, f"seed {seed}")
    return " ".join(word for word in words if word)


def family(dataset: str) -> str:
    """``hopper/expert`` of ``mtm/hopper/expert-v0``: what a dataset is, whoever made it."""
    return "/".join(dataset.split("/")[1:]).rsplit("-v", 1)[0] or dataset


def short_names(datasets: Iterable[str]) -> dict[str, str]:
    """Each dataset's family, or its whole id where two are of one family."""
    families = Counter(family(dataset) for dataset in set(datasets))
    return {d: family(d) if families[family(d)] == 1 else d for d in datasets}


def build(study: Study, sweep: Sweep) -> tuple[Node, Manifest]:
    """The study's table, with all it depends on."""
    from sweeps import tables

    made, ingested = cells(study, sweep)
    written = _manifest(study, made, ingested)
    upstream = {node.fingerprint: node for node in [*ingested.values(), *(c.evaluated for c in made)]}
    node = Node(
        "table", tables.VERSION, tables.table, written, tuple(upstream.values()), study.name, num_cpus=0
    )
    return node, written


def _manifest(study: Study, made: list[Cell], ingested: Mapping[str, Node]) -> Manifest:
    entries = tuple(
        Entry(
            cell.dataset,
            cell.arm.label,
            cell.arm.level,
            cell.arm.roles,
            cell.seed,
            cell.evaluated.fingerprint,
        )
        for cell in made
    )
    return Manifest(study.name, entries, {name: node.fingerprint for name, node in ingested.items()})
