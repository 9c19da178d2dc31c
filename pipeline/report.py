"""Tables and figures from what the other stages left; nothing is trained or played here."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import ray

from pipeline import storage, video
from pipeline.dag import Context
from pipeline.evaluate import ROWS, chosen_targets, normalised_score
from pipeline.figures import open_loop_figure, pyplot
from pipeline.tracking import Reference, RunHandle

VERSION = 2
ROLE_NAMES = {
    "bc": "BC",
    "rcbc": "RCBC",
    "id": "ID",
    "fd": "FD",
    "goal": "GOAL",
    "waypoint": "WAYPOINT",
    "two-stage": "two-stage",
}


@dataclass(frozen=True)
class ReportStage:
    """What to report on."""

    learners: tuple[str, ...]
    """Names in the table, in the order of the upstream stages."""
    video: bool
    seed: int
    """Seed of the episode in the video."""


def report(
    context: Context, config: ReportStage, ingested: Reference, *upstream: Reference
) -> dict[str, Any]:
    """Write tables (CSV, Markdown), figures (PNG) and the video; upstream: trained, then scored."""
    count = len(config.learners)
    trained, scored = upstream[:count], upstream[count:]
    episodes = load_episodes(config.learners, scored)
    scores = score_table(episodes, ingested.facts)
    errors = error_table(config.learners, scored)
    filming = _film(config, ingested, trained[0], scores)
    context.progress(0, 1, "tables and figures")
    storage.delete(context.uri)
    with storage.local_folder_for(context.uri) as name:
        folder = Path(name)
        for table, stem in ((scores, "scores"), (errors, "errors")):
            table.to_csv(folder / f"{stem}.csv", index=False)
        (folder / "table.md").write_text(markdown(scores, errors, ingested.facts))
        learning_curves(context.run, trained[0], folder / "learning-curves.png")
        curves = open_loop_curves(config.learners, scored, ingested.facts["dataset_id"])
        if len(curves):
            open_loop_figure(curves, folder / "open-loop.png")
        if len(episodes):
            episodes.to_csv(folder / "episodes.csv", index=False)
            target_figure(episodes, ingested.facts, folder / "scores.png")
        film = _developed(filming, folder / "rollout.gif")
        context.run.log_folder(str(folder))
    return {"video": film, **headline(scores, errors, ingested.facts)}


def load_episodes(names: tuple[str, ...], scored: tuple[Reference, ...]) -> pd.DataFrame:
    """One row an episode of every learner, with its name in ``policy``; empty without rollouts."""
    frames = []
    for name, reference in zip(names, scored, strict=True):
        if ROWS in reference.files:
            system, path = storage.resolve(storage.join(reference.uri, ROWS))
            frames.append(pq.read_table(path, filesystem=system).to_pandas().assign(policy=name))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def score_table(episodes: pd.DataFrame, facts: dict[str, Any]) -> pd.DataFrame:
    """Returns and normalised scores: the dataset's behaviour first, then a row for each role.

    Intervals are 95 % bootstrap intervals of the mean over episodes.
    """
    rows = [
        {
            "policy": "behaviour",
            "role": "",
            "checkpoint": "",
            "target": np.nan,
            "episodes": facts["train_episodes"],
            "return_mean": facts["return_mean"],
            "return_std": facts["return_std"],
            "return_low": np.nan,
            "return_high": np.nan,
        }
    ]
    if len(episodes):
        for policy in dict.fromkeys(episodes["policy"]):
            reported = chosen_targets(episodes[episodes["policy"] == policy])
            order = reported.groupby(["role", "checkpoint"], sort=True)
            for (role, checkpoint), group in order:
                returns = group["return"].to_numpy()
                low, high = mean_interval(returns)
                rows.append(
                    {
                        "policy": policy,
                        "role": role,
                        "checkpoint": checkpoint,
                        "target": group["target"].iloc[0],
                        "episodes": len(group),
                        "return_mean": returns.mean(),
                        "return_std": returns.std(ddof=1),
                        "return_low": low,
                        "return_high": high,
                    }
                )
    table = pd.DataFrame(rows)
    table["score"] = normalised_score(table["return_mean"].to_numpy(), facts)
    table["share_of_data"] = table["return_mean"] / facts["return_mean"]
    return table


def mean_interval(values: np.ndarray) -> tuple[float, float]:
    """95 % bootstrap interval of the mean [N]; the value itself where all are equal."""
    from scipy.stats import bootstrap

    if len(values) < 2 or np.ptp(values) == 0:
        return float(values.mean()), float(values.mean())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = bootstrap((values,), np.mean, method="percentile", rng=np.random.default_rng(0))
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def error_table(names: tuple[str, ...], scored: tuple[Reference, ...]) -> pd.DataFrame:
    """Held-out squared errors of the predicting roles, in normalised units."""
    rows = []
    for name, reference in zip(names, scored, strict=True):
        for key, value in reference.facts.items():
            checkpoint, _, metric = key.partition(".")
            if metric.endswith("_error"):
                role = metric.removesuffix("_error")
                rows.append({"policy": name, "role": role, "checkpoint": checkpoint, "error": value})
    return pd.DataFrame(rows, columns=["policy", "role", "checkpoint", "error"])


def open_loop_curves(
    names: tuple[str, ...], scored: tuple[Reference, ...], dataset: str
) -> pd.DataFrame:
    """Errors of the last checkpoints' forward dynamics, as ``open_loop_figure`` wants them."""
    return pd.DataFrame(
        [
            {"dataset": dataset, "arm": name, "seed": 0, "step": step, "error": error}
            for name, reference in zip(names, scored, strict=True)
            for step, error in enumerate(reference.facts.get("last.open_loop_errors", []), start=1)
        ]
    )


def headline(scores: pd.DataFrame, errors: pd.DataFrame, facts: dict[str, Any]) -> dict[str, float]:
    """The last checkpoint's results as metrics: ``mtm.rcbc.return``, ``mtm.fd.error``, ..."""
    metrics = {"behaviour.return": facts["return_mean"]}
    for _, row in scores[scores["checkpoint"] == "last"].iterrows():
        prefix = f"{row['policy'].lower()}.{row['role']}"
        metrics[f"{prefix}.return"] = float(row["return_mean"])
        metrics[f"{prefix}.share_of_data"] = float(row["share_of_data"])
    for _, row in errors[errors["checkpoint"] == "last"].iterrows():
        metrics[f"{row['policy'].lower()}.{row['role']}.error"] = float(row["error"])
    return metrics


def for_people(scores: pd.DataFrame) -> pd.DataFrame:
    """The score table as it is printed."""

    def shown(column: str, text: str) -> pd.Series:
        return scores[column].map(lambda value: "" if pd.isna(value) else format(value, text))

    interval = shown("return_low", ".0f") + " to " + shown("return_high", ".0f")
    return pd.DataFrame(
        {
            "policy": scores["policy"],
            "role": scores["role"].map(lambda role: ROLE_NAMES.get(role, role)),
            "target": shown("target", "g"),
            "ckpt": scores["checkpoint"],
            "return": shown("return_mean", ".0f") + " ± " + shown("return_std", ".0f"),
            "95% CI of mean": interval.where(scores["return_low"].notna(), ""),
            "score": shown("score", ".1f"),
            "of data": shown("share_of_data", ".0%"),
            "n": scores["episodes"].astype(str),
        }
    )


def errors_for_people(errors: pd.DataFrame) -> pd.DataFrame:
    """The error table as it is printed."""
    return pd.DataFrame(
        {
            "policy": errors["policy"],
            "role": errors["role"].map(lambda role: ROLE_NAMES.get(role, role)),
            "ckpt": errors["checkpoint"],
            "held-out squared error (normalised)": errors["error"].map("{:.4f}".format),
        }
    )


def markdown(scores: pd.DataFrame, errors: pd.DataFrame, facts: dict[str, Any]) -> str:
    """Both tables with a line on the data."""
    text = StringIO()
    text.write(
        f"Data: {facts['dataset_id']}, {facts['train_episodes']} training episodes "
        f"({facts['train_transitions']:,} transitions), {facts['held_out_episodes']} held out. "
        "Returns are mean ± standard deviation over episodes; a return target is chosen on other "
        "episodes than those reported.\n\n"
    )
    text.write(for_people(scores).to_markdown(index=False, disable_numparse=True))
    if len(errors):
        text.write("\n\n")
        text.write(errors_for_people(errors).to_markdown(index=False, disable_numparse=True))
    return text.getvalue() + "\n"


def learning_curves(run: RunHandle, trained: Reference, path: Path) -> None:
    """Losses, and held-out ID and FD errors, of the MTM over its training steps."""
    plt = pyplot()
    source = RunHandle(run.uri, trained.run_id)
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.0, 2.6), layout="constrained")
    curves = {
        left: {"train.loss": "training", "validation.loss": "held out"},
        right: {"validation.id_error": "ID", "validation.fd_error": "FD"},
    }
    for axes, metrics in curves.items():
        for metric, label in metrics.items():
            points = source.history(metric)
            if points:
                axes.plot(*zip(*points, strict=True), label=label, linewidth=1.5)
        axes.set(xlabel="training step", yscale="log")
        axes.legend()
    left.set_ylabel("reconstruction loss")
    right.set_ylabel("squared error (normalised)")
    figure.savefig(path)
    plt.close(figure)


def target_figure(episodes: pd.DataFrame, facts: dict[str, Any], path: Path) -> None:
    """Return against the return target asked for, with the data's mean and BC beside it."""
    plt = pyplot()
    figure, axes = plt.subplots(figsize=(4.6, 3.0), layout="constrained")
    colours = {"MTM": "C0", "MLP": "C1"}
    last = episodes[episodes["checkpoint"] == "last"]
    for (policy, role), group in last.groupby(["policy", "role"], sort=False):
        colour, label = colours.get(policy), f"{policy}, {ROLE_NAMES[role]}"
        if group["target"].notna().any():
            means = group.groupby("target")["return"].mean()
            bands = group.groupby("target")["return"].apply(lambda r: mean_interval(r.to_numpy()))
            low, high = zip(*bands, strict=True)
            style = "-" if role == "rcbc" else "--"
            axes.plot(means.index, means, marker="o", linestyle=style, color=colour, label=label)
            axes.fill_between(means.index, low, high, color=colour, alpha=0.2, linewidth=0)
        else:
            axes.axhline(group["return"].mean(), color=colour, linestyle=":", label=label)
    axes.axhline(facts["return_mean"], color="0.3", linestyle="--", label="behaviour (dataset)")
    axes.set(xlabel="return target (share of the training range)", ylabel="return")
    axes.set_ylim(bottom=0 if episodes["return"].min() >= 0 else None)
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.savefig(path)
    plt.close(figure)


def _film(config: ReportStage, ingested: Reference, trained: Reference, scores: pd.DataFrame) -> Any:
    """A video of the first learner as RCBC, being rendered; None where there is nothing to show."""
    mine = scores[(scores["policy"] == config.learners[0]) & (scores["role"] == "rcbc")]
    if not config.video or mine.empty:
        return None
    content = storage.read(storage.join(trained.uri, "last.safetensors"))
    target = float(mine[mine["checkpoint"] == "last"]["target"].iloc[0])
    return video.render.remote(content, ingested.facts, target, config.seed)


def _developed(filming: Any, path: Path) -> str:
    """The video's name once it is at ``path``, or why there is none."""
    if filming is None:
        return "none was asked for, or there is no environment"
    try:
        path.write_bytes(ray.get(filming))
    except ray.exceptions.RayError as error:
        return f"none: this machine cannot render ({str(error).strip().splitlines()[-1][:120]})"
    return path.name
