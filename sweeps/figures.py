"""Figures of a study."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline.figures import pyplot
from pipeline.report import ROLE_NAMES
from sweeps.ablations import short_names


def study_figure(summary: pd.DataFrame, path: Path) -> None:
    """A panel for each dataset and role: curves over the levels, or else a point for each arm.

    IQM of the last checkpoint with its 95 % interval; published means are hollow.
    """
    plt = pyplot()
    last = summary[summary["checkpoint"] == "last"]
    roles, datasets = list(dict.fromkeys(last["role"])), list(dict.fromkeys(last["dataset"]))
    figure, panels = plt.subplots(
        len(datasets),
        len(roles),
        figsize=(0.6 + 2.5 * len(roles), 0.6 + 2.3 * len(datasets)),
        layout="constrained",
        squeeze=False,
    )
    short = short_names(datasets)
    arms = {arm: f"C{i}" for i, arm in enumerate(dict.fromkeys(last["arm"]))}
    curves = last["level"].notna().any()
    for dataset, row in zip(datasets, panels, strict=True):
        for role, axes in zip(roles, row, strict=True):
            chosen = last[(last["dataset"] == dataset) & (last["role"] == role)]
            (_curves if curves else _points)(axes, chosen, arms)
            axes.set_title(f"{short[dataset]}, {ROLE_NAMES.get(role, role)}", fontsize=9)
            metric = chosen["metric"].iloc[0] if len(chosen) else "score"
            axes.set_ylabel(
                {"score": "normalised score", "return": "return", "error": "squared error"}[metric]
            )
            _limits(axes, chosen)
            if curves:
                axes.set_xlabel("episodes used (%)")
    if curves:
        handles, labels = panels[0][0].get_legend_handles_labels()
        for axes in panels.flat:
            more = axes.get_legend_handles_labels()
            handles += [h for h, name in zip(*more, strict=True) if name not in labels]
            labels += [name for name in more[1] if name not in labels]
        figure.legend(handles, labels, loc="outside lower center", ncols=3)
    figure.savefig(path)
    plt.close(figure)


def _limits(axes: Any, chosen: pd.DataFrame) -> None:
    """From zero, or a score below it, to a little above the highest mark."""
    marks = chosen[["low", "high", "published_mean"]].to_numpy(dtype=float)
    marks = marks[np.isfinite(marks)]
    if len(marks):
        axes.set_ylim(min(0.0, 1.1 * marks.min()), 1.08 * max(marks.max(), 0.0) or 1.0)


def _curves(axes: Any, chosen: pd.DataFrame, arms: dict[str, str]) -> None:
    for arm, group in chosen.sort_values("level", kind="stable").groupby("arm", sort=False):
        colour = arms[str(arm)]
        axes.plot(group["level"], group["iqm"], marker="o", markersize=4, color=colour, label=arm)
        axes.fill_between(
            group["level"], group["low"], group["high"], color=colour, alpha=0.2, linewidth=0
        )
        if group["published_mean"].notna().any():
            axes.plot(
                group["level"],
                group["published_mean"],
                linestyle=":",
                linewidth=1,
                marker="o",
                markersize=3,
                markerfacecolor="none",
                color=colour,
                label=f"{arm}, published (D4RL)",
            )
    axes.set_xscale("log")
    levels = sorted(chosen["level"].dropna().unique())
    axes.set_xticks(levels, [f"{level:g}" for level in levels])
    axes.minorticks_off()


def _points(axes: Any, chosen: pd.DataFrame, arms: dict[str, str]) -> None:
    for place, (_, row) in enumerate(chosen.iterrows()):
        colour = arms[row["arm"]]
        if row["seeds"] and np.isnan(row["low"]):
            axes.plot(place, row["iqm"], "o", color=colour)
        elif row["seeds"]:
            error = [[row["iqm"] - row["low"]], [row["high"] - row["iqm"]]]
            axes.errorbar(
                place, row["iqm"], yerr=np.maximum(error, 0), fmt="o", capsize=3, color=colour
            )
        if not np.isnan(row["published_mean"]):
            axes.plot(
                place, row["published_mean"], "D", markerfacecolor="none", color=colour, alpha=0.6
            )
    names = list(chosen["arm"])
    axes.set_xticks(
        range(len(names)), names, rotation=30, ha="right", rotation_mode="anchor", fontsize=8
    )
    axes.set_xlim(-0.6, max(0.6, len(names) - 0.4))
