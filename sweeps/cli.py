"""The ``mtm`` command."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from mtm.errors import UserError
from pipeline.errors import StageError

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

    from pipeline.config import Experiment
    from pipeline.tracking import Reference, Tracking
    from sweeps.ablations import Study

Config = TypeVar("Config")
MANIFEST = "study.json"
"""File of a study's MLflow run that says what its table is made of."""


class _Parser(argparse.ArgumentParser):
    """argparse with its error on one line."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help")


def main(argv: list[str] | None = None) -> None:
    """Run a command; a user's mistake ends in one line and exit code 2."""
    from rich.console import Console

    try:
        arguments, rest = _parser().parse_known_args(argv)
        arguments.command(arguments, rest, Console())
    except UserError as error:
        print(f"mtm: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("mtm: interrupted; the same command goes on from here", file=sys.stderr)
        raise SystemExit(130) from None
    except StageError as error:
        print(f"mtm: {error}; its run in MLflow has the traceback", file=sys.stderr)
        raise SystemExit(1) from None


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="mtm", description="Experiments with masked trajectory models.", allow_abbrev=False
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, command: Any, text: str, **kwargs: Any) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text, allow_abbrev=False, **kwargs)
        added.set_defaults(command=command)
        return added

    scale = argparse.ArgumentParser(add_help=False)
    scale.add_argument("--scale", default="laptop", help="sizes: smoke, laptop or paper")
    text = "run the main job on Hopper, small: data to table"
    quick = add("quickstart", _run, text, parents=[scale], add_help=False)
    quick.set_defaults(recipe="quickstart")
    text = "run a recipe: mtm run RECIPE [--dotted.override VALUE ...]"
    run = add("run", _run, text, parents=[scale], add_help=False)
    run.add_argument("recipe", nargs="?")
    add("recipes", _recipes, "list the recipes and the datasets that can be rolled out here")
    collected = add(
        "collect", _collect, "roll out a dataset: mtm collect mtm/hopper/expert-v0", add_help=False
    )
    collected.add_argument("dataset_id", nargs="?")
    table = add("table", _table, "make a study's table again from MLflow, running nothing")
    table.add_argument(
        "study", help="name or id of its run in MLflow: capabilities, 'heteromodal smoke', ..."
    )
    table.add_argument("--storage-path", default="runs", help="where the runs are, and the table goes")
    table.add_argument(
        "--tracking-uri", default="", help="MLflow tracking URI, as --tracking.uri of a run"
    )
    table.add_argument("--experiment", default="mtm", help="MLflow experiment")
    ui = add("ui", _ui, "start the MLflow UI on localhost")
    ui.add_argument("--storage-path", default="runs", help="where the runs are")
    ui.add_argument("--port", type=int, default=5000, help="port on localhost")
    return parser


def _overrides(config: type[Config] | Any, default: Config, prog: str, rest: list[str]) -> Config:
    """The default with the command line's dotted overrides; tyro's error boxes become one line."""
    import tyro

    def parse() -> Config:
        return tyro.cli(config, default=default, prog=prog, args=rest)

    if any(word in ("-h", "--help") or word.startswith("--tyro-") for word in rest):
        return parse()  # it prints for the user, and ends
    said = io.StringIO()
    # tyro draws the box that is taken apart below for the encoding of what it thinks is the terminal.
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    with (
        contextlib.redirect_stderr(said),
        contextlib.redirect_stdout(terminal),
        contextlib.suppress(SystemExit),  # what it said is raised below, on one line
    ):
        return parse()
    text = re.sub(r"\x1b\[[0-9;]*m", "", said.getvalue())
    lines = [line.strip(" │") for line in text.splitlines() if line.startswith("│")]
    sections = " ".join(lines).split("────")
    hint = re.search(r"Perhaps you meant:\s*(--\S+)", " ".join(lines))
    message = sections[0].strip().removeprefix("Error parsing ")
    raise UserError(message + (f"; did you mean {hint[1]}?" if hint else f"; see {prog} --help"))


def _run(arguments: argparse.Namespace, rest: list[str], console: Console) -> None:
    from pipeline import recipes

    if arguments.recipe is None or arguments.recipe.startswith("-"):
        if {"-h", "--help"} & set(rest):
            print("usage: mtm run RECIPE [--scale SCALE] [--dotted.override VALUE ...]")
            print("`mtm recipes` lists the recipes; `mtm run RECIPE --help` their fields.")
            return
        raise UserError("which recipe? `mtm recipes` lists them; for example: mtm run hopper-expert")
    if arguments.scale not in recipes.SCALES:
        raise UserError(
            f"unknown scale {arguments.scale!r}; the scales are {', '.join(recipes.SCALES)}"
        )
    from sweeps.studies import STUDIES

    prog = f"mtm run {arguments.recipe}"
    if arguments.recipe in STUDIES:
        from pipeline.datasets import ensure_local
        from sweeps.ablations import build as build_study
        from sweeps.ablations import check

        study = STUDIES[arguments.recipe]
        base = replace(study.base(arguments.scale), name=recipes.title(study.name, arguments.scale))
        sweep = _overrides(type(base), base, prog, rest)
        check(study, base, sweep)
        for dataset in sweep.datasets:
            ensure_local(dataset)
        target, manifest = build_study(study, sweep)
        notes = {MANIFEST: manifest.to_json()}
        reference = _runner(sweep, console).run(sweep.name, target, notes)
        _print_study(console, reference)
        return

    from pipeline.datasets import ensure_local
    from pipeline.experiment import build

    experiment_base = recipes.recipe(arguments.recipe, arguments.scale, also=tuple(STUDIES))
    experiment = _overrides(type(experiment_base), experiment_base, prog, rest)
    ensure_local(experiment.data.dataset_id)
    reference = _runner(experiment, console).run(experiment.name, build(experiment))
    _print_results(console, reference)


def _table(arguments: argparse.Namespace, rest: list[str], console: Console) -> None:
    """A study's table from MLflow alone: whatever cells are finished."""
    from pathlib import Path

    from pipeline import storage
    from pipeline.config import Experiment, TrackingConfig
    from sweeps import tables
    from sweeps.ablations import Manifest
    from sweeps.studies import STUDIES

    _no_more(rest)
    experiment = Experiment(
        storage_path=arguments.storage_path,
        tracking=TrackingConfig(arguments.tracking_uri, arguments.experiment),
    )
    uri = _tracking_uri(experiment.tracking.uri, experiment.storage_path)
    _need_database(uri, experiment.storage_path)
    tracking = _connect(uri, experiment, create=False)
    manifest = Manifest.from_json(tracking.latest_pipeline(arguments.study).read_bytes(MANIFEST))
    wanted = [*(entry.fingerprint for entry in manifest.entries), *manifest.data.values()]
    references = tracking.finished(wanted)
    summary = tables.summarise(tables.results(manifest, references, uri), manifest)
    name = arguments.study.replace(" ", "-")
    folder = storage.join(storage.absolute(arguments.storage_path), "tables", name)
    storage.delete(folder)
    with storage.local_folder_for(folder) as local:
        tables.write(manifest, references, Path(local), summary)
    _show_study(console, summary, STUDIES[manifest.study])
    console.print(f"\ntables and figures  {folder}", highlight=False, soft_wrap=True)


def _collect(arguments: argparse.Namespace, rest: list[str], console: Console) -> None:
    from pipeline.config import DataConfig, Experiment
    from pipeline.datasets import is_shipped
    from pipeline.experiment import collect_node

    default = Experiment(name="collect", data=DataConfig(transitions=100_000))
    if arguments.dataset_id is None:
        if {"-h", "--help"} & set(rest):
            _overrides(Experiment, default, "mtm collect DATASET", rest)
        raise UserError(
            "which dataset? `mtm recipes` lists them; for example: mtm collect mtm/hopper/expert-v0"
        )
    if not is_shipped(arguments.dataset_id):
        raise UserError(
            f"{arguments.dataset_id!r} is not rolled out here; `mtm recipes` lists the datasets that are. "
            "Minari downloads others by itself when they are used"
        )
    default = replace(default, data=replace(default.data, dataset_id=arguments.dataset_id))
    experiment = _overrides(Experiment, default, "mtm collect", rest)
    name = f"collect {experiment.data.dataset_id}"
    reference = _runner(experiment, console).run(name, collect_node(experiment.data))
    console.print(f"\n{reference.facts['dataset_id']} is ready for Minari:", highlight=False)
    console.print(f"  export MINARI_DATASETS_PATH={reference.uri}", highlight=False, soft_wrap=True)


def _recipes(arguments: argparse.Namespace, rest: list[str], console: Console) -> None:
    from pipeline.recipes import recipes
    from sweeps.studies import STUDIES

    _no_more(rest)
    for name, function in recipes().items():
        console.print(f"{name:24} {_first_line(function.__doc__)}", highlight=False)
    console.print("\nStudies:", highlight=False)
    for name, study in STUDIES.items():
        console.print(f"{name:24} {_first_line(study.doc)}", highlight=False)
    console.print("\nmtm run NAME --scale smoke | laptop | paper", highlight=False)


def _first_line(text: str | None) -> str:
    return (text or "").split("\n", maxsplit=1)[0]


def _ui(arguments: argparse.Namespace, rest: list[str], console: Console) -> None:

    _no_more(rest)
    uri = _tracking_uri("", arguments.storage_path)
    _need_database(uri, arguments.storage_path)
    console.print(f"MLflow at http://127.0.0.1:{arguments.port}, Ctrl-C ends it", highlight=False)
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", uri]
    command += ["--host", "127.0.0.1", "--port", str(arguments.port)]
    with contextlib.suppress(KeyboardInterrupt):
        subprocess.run(command, check=False)


def _need_database(uri: str, storage_path: str) -> None:
    """Raises UserError where MLflow would make an empty database, in a place with no runs."""
    from pipeline import storage

    if uri.startswith("sqlite:") and not os.path.exists(uri.removeprefix("sqlite:///")):
        raise UserError(
            f"there are no runs in {storage.absolute(storage_path)}; run an experiment first"
        )


def _no_more(rest: list[str]) -> None:
    if rest:
        raise UserError(f"unrecognised: {' '.join(rest)}; see mtm --help")


def _tracking_uri(configured: str, storage_path: str) -> str:
    """The configured URI, the environment's, or a database in the storage path."""
    from pipeline import storage

    uri = configured or os.environ.get("MLFLOW_TRACKING_URI", "")
    if uri:
        return uri
    if not storage.is_local(storage_path):
        raise UserError(
            f"storage path {storage_path} is remote, so MLflow needs a server: set --tracking.uri"
        )
    return f"sqlite:///{storage.absolute(storage_path)}/mlflow.db"


def _runner(experiment: Experiment, console: Console) -> Any:
    """Storage and MLflow, checked before anything starts, and what runs the DAG."""
    from pipeline import storage

    storage.check_writable(storage.absolute(experiment.storage_path))
    uri = _tracking_uri(experiment.tracking.uri, experiment.storage_path)
    with console.status("connecting to MLflow"):
        tracking = _connect(uri, experiment)

    from pipeline.cluster import start_ray
    from pipeline.dag import Runner

    def start() -> None:
        with console.status("starting Ray"):
            start_ray()

    return Runner(tracking, experiment.storage_path, console, start, _summary)


def _connect(uri: str, experiment: Experiment, create: bool = True) -> Tracking:
    from pipeline import storage
    from pipeline.tracking import Tracking

    artifacts = storage.join(experiment.storage_path, "mlartifacts")
    # A server knows where its artifacts go; a database alone does not.
    is_server = uri.startswith(("http://", "https://"))
    return Tracking(uri, experiment.tracking.experiment, None if is_server else artifacts, create)


def _summary(reference: Reference) -> str:
    """The last line of a stage."""
    facts = reference.facts
    if reference.stage == "collect":
        return f"{facts['transitions']:,} transitions, return {facts['return_mean']:.0f}"
    if reference.stage == "ingest":
        return f"{facts['episodes']:,} episodes, {facts['transitions']:,} transitions in {facts['shards']} shards"
    if reference.stage == "pretrain":
        return f"{facts['step']:,} steps, held-out loss {facts['validation_loss']:.4f}"
    if reference.stage == "evaluate":
        names = [k for k, v in facts.items() if k.startswith("last.") and isinstance(v, float)]
        shown = [f"{n.removeprefix('last.').replace('_', ' ')} {facts[n]:.4g}" for n in names]
        return ", ".join(shown)
    return ""


def _print_results(console: Console, reference: Reference) -> None:
    from pipeline.report import errors_for_people, for_people

    scores, errors = _read(reference, "scores.csv"), _read(reference, "errors.csv")
    _show(console, for_people(scores), errors_for_people(errors))
    _print_places(console, reference)


def _print_study(console: Console, reference: Reference) -> None:
    from sweeps.studies import STUDIES

    _show_study(console, _read(reference, "results.csv"), STUDIES[reference.facts["study"]])
    _print_places(console, reference)


def _show_study(console: Console, summary: pd.DataFrame, study: Study) -> None:
    """The last checkpoints; the best ones are in the files."""
    from sweeps import tables

    last = summary[summary["checkpoint"] == "last"]
    _show(console, tables.pivot(summary, study), tables.for_people(last))


def _read(reference: Reference, name: str) -> pd.DataFrame:
    import pandas as pd

    from pipeline import storage

    table = pd.read_csv(io.BytesIO(storage.read(storage.join(reference.uri, name))))
    texts = [column for column in ("policy", "role", "checkpoint") if column in table]
    return table.fillna(dict.fromkeys(texts, ""))


def _show(console: Console, *tables: pd.DataFrame) -> None:
    from tabulate import tabulate

    for table in tables:
        if not table.empty:
            text = tabulate(
                table, headers="keys", tablefmt="plain", showindex=False, disable_numparse=True
            )
            console.print()
            console.print(text, highlight=False, markup=False, soft_wrap=True)


def _print_places(console: Console, reference: Reference) -> None:
    console.print()
    console.print(f"tables and figures  {reference.uri}", highlight=False, soft_wrap=True)
    console.print(
        f"MLflow run          {reference.run_id}  (`mtm ui` shows it)", highlight=False, soft_wrap=True
    )


if __name__ == "__main__":
    main()
