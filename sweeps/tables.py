"""Tables of a study, made from what its cells left in MLflow; nothing is trained or played here."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mtm.roles import ROLES
from pipeline import storage
from pipeline.dag import Context
from pipeline.evaluate import ROWS, chosen_targets
from pipeline.figures import open_loop_figure
from pipeline.report import ROLE_NAMES
from pipeline.tracking import Reference, RunHandle
from sweeps import figures
from sweeps.ablations import Entry, Manifest, Study, family, short_names
from sweeps.studies import STUDIES

VERSION = 3
KEYS = ["dataset", "arm", "level", "role", "metric", "checkpoint"]
"""What makes a row of the long table."""
RESAMPLES = 2000


def table(context: Context, config: Manifest, *upstream: Reference) -> dict[str, Any]:
    """Write the study's tables (CSV, Markdown, LaTeX) and figure."""
    references = {reference.fingerprint: reference for reference in upstream}
    summary = summarise(results(config, references, context.run.uri), config)
    storage.delete(context.uri)
    with storage.local_folder_for(context.uri) as folder:
        write(config, references, Path(folder), summary)
        context.run.log_folder(folder)
    last = summary[summary["checkpoint"] == "last"]
    return {
        "study": config.study,
        "seeds": int(last["seeds"].max()),
        **{_metric_name(row): float(row["mean"]) for _, row in last.iterrows() if row["seeds"]},
    }


def write(
    config: Manifest,
    references: Mapping[str, Reference],
    folder: Path,
    summary: pd.DataFrame,
) -> None:
    """All files of a study into a folder."""
    study = STUDIES[config.study]
    summary.to_csv(folder / "results.csv", index=False)
    short, long = pivot(summary, study), for_people(summary)
    (folder / "table.md").write_text(
        f"{study.doc}\n\n{note(config, references)}\n\n"
        + short.to_markdown(index=False, disable_numparse=True)
        + "\n\n"
        + long.to_markdown(index=False, disable_numparse=True)
        + "\n"
    )
    (folder / "table.tex").write_text(latex(short))
    figures.study_figure(summary, folder / "figure.png")
    curves = open_loop_curves(config, references)
    if len(curves):
        open_loop_figure(curves, folder / "open-loop.png")


def results(config: Manifest, references: Mapping[str, Reference], tracking_uri: str) -> pd.DataFrame:
    """One row an episode or error: the KEYS, ``seed`` and ``value``; nothing for cells not finished.

    Where a cell's best checkpoint is its last one, its values count as both.
    """
    frames = [
        _cell(entry, references[entry.fingerprint], tracking_uri)
        for entry in config.entries
        if entry.fingerprint in references
    ]
    columns = [*KEYS, "seed", "value"]
    return pd.concat(frames, ignore_index=True)[columns] if frames else pd.DataFrame(columns=columns)


def _cell(entry: Entry, reference: Reference, tracking_uri: str) -> pd.DataFrame:
    facts = reference.facts
    parts = [
        pd.DataFrame({"checkpoint": [name], "role": [role], "metric": ["error"], "value": [error]})
        for name in facts["checkpoints"]
        for role in entry.roles
        if (error := facts.get(f"{name}.{role}_error")) is not None
    ]
    if ROWS in reference.files:
        content = RunHandle(tracking_uri, reference.run_id).read_bytes(ROWS)
        episodes = chosen_targets(pd.read_parquet(io.BytesIO(content)))
        scored = episodes["score"].notna().all()
        episodes["metric"], episodes["value"] = (
            ("score", episodes["score"]) if scored else ("return", episodes["return"])
        )
        parts.append(episodes[episodes["role"].isin(entry.roles)])
    if not parts:
        return pd.DataFrame(columns=[*KEYS, "seed", "value"])  # no environment to play in
    frame = pd.concat([part[["checkpoint", "role", "metric", "value"]] for part in parts])
    if "best" not in facts["checkpoints"]:
        frame = pd.concat([frame, frame.assign(checkpoint="best")])
    level = np.nan if entry.level is None else entry.level
    return frame.assign(dataset=entry.dataset, arm=entry.arm, level=level, seed=entry.seed)


def summarise(rows: pd.DataFrame, config: Manifest) -> pd.DataFrame:
    """One row for each thing that was measured, in the study's order, missing ones too.

    ``mean`` over seeds of their means and ``std`` between them (NaN for one seed), ``iqm`` with its
    95 % interval ``low`` to ``high``, seeds finished and planned, and the published figures.
    """
    published = STUDIES[config.study].published
    groups = {key: group for key, group in rows.fillna({"level": -1.0}).groupby(KEYS)}
    made = []
    for (dataset, arm, level, role), entries in _planned(config).items():
        for checkpoint in ("last", "best"):
            start = (dataset, arm, -1.0 if level is None else level, role)
            found = {k: v for k, v in groups.items() if k[:4] == start and k[5] == checkpoint}
            key, group = next(iter(found.items()), (None, None))
            mean, std = published.get((family(dataset), arm, level), (None, None))
            made.append(
                {
                    "dataset": dataset,
                    "arm": arm,
                    "level": level,
                    "role": role,
                    "metric": key[4] if key else "score" if ROLES[role].played else "error",
                    "checkpoint": checkpoint,
                    **(_statistics(group) if group is not None else _NOTHING),
                    "planned": len(entries),
                    "published_mean": mean,
                    "published_std": std,
                }
            )
    return pd.DataFrame(made).astype({"level": float, "published_mean": float, "published_std": float})


def _planned(config: Manifest) -> dict[tuple[str, str, float | None, str], list[int]]:
    """Seeds of everything that is measured, in order."""
    planned: dict[tuple[str, str, float | None, str], list[int]] = {}
    for entry in config.entries:
        for role in entry.roles:
            planned.setdefault((entry.dataset, entry.arm, entry.level, role), []).append(entry.seed)
    return planned


_NOTHING = {"seeds": 0, "mean": np.nan, "std": np.nan, "iqm": np.nan, "low": np.nan, "high": np.nan}


def _statistics(group: pd.DataFrame) -> dict[str, float]:
    by_seed = np.stack([values.to_numpy() for _, values in group.groupby("seed")["value"]])
    means = by_seed.mean(axis=1)
    iqm, low, high = iqm_interval(by_seed)
    if by_seed.size == 1:
        low = high = np.nan  # one value says nothing of its spread
    std = float(means.std(ddof=1)) if len(means) > 1 else np.nan
    return {
        "seeds": len(means),
        "mean": float(means.mean()),
        "std": std,
        "iqm": iqm,
        "low": low,
        "high": high,
    }


def iqm_interval(values: np.ndarray, resamples: int = RESAMPLES) -> tuple[float, float, float]:
    """Interquartile mean of ``values`` [seeds, episodes], with its 95 % bootstrap interval over both.

    Seeds are drawn first and then, within each, episodes: episodes of one seed share its weights,
    and to draw them as if they were independent would make the interval too narrow. (Agarwal et
    al. 2021 draw runs within each task; here a run is a seed with its episodes.)
    """
    from scipy.stats import trim_mean

    rng = np.random.default_rng(0)
    seeds = rng.integers(values.shape[0], size=(resamples, values.shape[0], 1))
    episodes = rng.integers(values.shape[1], size=(resamples, *values.shape))
    drawn = values[seeds, episodes].reshape(resamples, -1)
    low, high = np.quantile(trim_mean(drawn, 0.25, axis=1), [0.025, 0.975])
    return float(trim_mean(values.ravel(), 0.25)), float(low), float(high)


def note(config: Manifest, references: Mapping[str, Reference]) -> str:
    """What the numbers are, and of which data."""
    lines = [
        "Scores are D4RL-normalised (100 is its expert, 0 a random policy), or returns where an "
        "environment has no reference; errors are held-out squared errors in normalised units. Mean ± "
        "standard deviation over seeds; IQM with its 95 % bootstrap interval over seeds and episodes: "
        "with two seeds that of an error is no more than their range, and the draw of the episodes, "
        "which all seeds share, is not in it. A return target is chosen on other episodes than those "
        "reported. Best is the checkpoint with the lowest loss on the held-out episodes, whose actions "
        "are all known. Published figures are the maximum over a training run, on D4RL's data; which "
        "role an MTM's are of is not known here."
    ]
    for dataset, fingerprint in config.data.items():
        if fingerprint in references:
            facts = references[fingerprint].facts
            lines.append(
                f"{dataset}: {facts['train_episodes']} training episodes ({facts['train_transitions']:,} "
                f"transitions), {facts['held_out_episodes']} held out; return "
                f"{facts['return_mean']:.0f} ± {facts['return_std']:.0f}."
            )
    return "\n".join(lines)


def number(value: float, metric: str) -> str:
    """With the digits that the metric deserves; empty for a missing one."""
    return (
        ""
        if pd.isna(value)
        else format(value, {"score": ".1f", "return": ".0f", "error": ".4f"}[metric])
    )


def _mean_std(row: pd.Series) -> str:
    if not row["seeds"]:
        return "missing"
    spread = f" ± {number(row['std'], row['metric'])}" if row["seeds"] > 1 else ""
    return number(row["mean"], row["metric"]) + spread


def _level(level: float) -> str:
    return "" if pd.isna(level) else f"{level:g}"


def for_people(summary: pd.DataFrame) -> pd.DataFrame:
    """The long table as it is printed: the last checkpoint, then the best."""
    ordered = pd.concat([summary[summary["checkpoint"] == name] for name in ("last", "best")])

    def each(function: Any) -> list[str]:
        return [function(row) for _, row in ordered.iterrows()]

    def interval(row: pd.Series) -> str:
        if not row["seeds"]:
            return ""
        low, iqm, high = (number(row[name], row["metric"]) for name in ("low", "iqm", "high"))
        return f"{iqm} [{low}, {high}]" if low else iqm

    def published(row: pd.Series) -> str:
        spread = "" if pd.isna(row["published_std"]) else f" ± {row['published_std']:g}"
        return "" if pd.isna(row["published_mean"]) else f"{row['published_mean']:g}{spread}"

    shown = pd.DataFrame(
        {
            "dataset": ordered["dataset"].map(short_names(ordered["dataset"])),
            "arm": ordered["arm"],
            "level": ordered["level"].map(_level),
            "role": ordered["role"].map(lambda role: ROLE_NAMES.get(role, role)),
            "metric": ordered["metric"],
            "ckpt": ordered["checkpoint"],
            "mean ± std": each(_mean_std),
            "IQM [95% CI]": each(interval),
            "seeds": each(lambda row: f"{row['seeds']}/{row['planned']}"),
            "published": each(published),
        }
    )
    return shown[[column for column in shown if (shown[column] != "").any()]]


def pivot(summary: pd.DataFrame, study: Study) -> pd.DataFrame:
    """The table as the paper lays it out: mean ± std of the last checkpoint."""
    last = summary[summary["checkpoint"] == "last"].copy()
    last["text"] = [_mean_std(row) for _, row in last.iterrows()]
    last["dataset"] = last["dataset"].map(short_names(last["dataset"]))
    last["role"] = last["role"].map(lambda role: ROLE_NAMES.get(role, role)) + last["metric"].map(
        {"score": "", "return": " (return)", "error": " (error)"}
    )
    last["level"] = last["level"].map(_level)
    index = [name for name in ("dataset", "arm", "role") if name != study.columns]
    wide = last.pivot_table(
        index=index, columns=study.columns, values="text", aggfunc="first", sort=False
    )
    wide = wide.fillna("").reset_index()
    wide.columns.name = None
    return wide


def latex(short: pd.DataFrame) -> str:
    from tabulate import tabulate

    return tabulate(short, headers="keys", tablefmt="latex_booktabs", showindex=False) + "\n"


def open_loop_curves(config: Manifest, references: Mapping[str, Reference]) -> pd.DataFrame:
    """Open-loop errors of the last checkpoints: ``dataset``, ``arm``, ``seed``, ``step``, ``error``."""
    rows = []
    for entry in config.entries:
        facts = references[entry.fingerprint].facts if entry.fingerprint in references else {}
        if "fd" in entry.roles:
            rows += [
                {
                    "dataset": entry.dataset,
                    "arm": entry.arm,
                    "seed": entry.seed,
                    "step": k,
                    "error": error,
                }
                for k, error in enumerate(facts.get("last.open_loop_errors", []), start=1)
            ]
    return pd.DataFrame(rows)


def _metric_name(row: pd.Series) -> str:
    words = [row["dataset"], row["arm"], _level(row["level"]), row["role"], row["metric"]]
    return "/".join(word.replace(" ", "-").lower() for word in words if word)
