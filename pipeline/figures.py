"""The look of all figures, and those that experiments and studies share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd


def pyplot() -> Any:
    """Matplotlib without a screen, in the look of all figures here."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams.update(
        {
            "font.size": 9,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.alpha": 0.3,
            "legend.frameon": False,
            "savefig.dpi": 200,
            "savefig.bbox": "tight",
        }
    )
    return plt


def open_loop_figure(curves: pd.DataFrame, path: Path) -> None:
    """Error of the forward dynamics against the number of steps predicted open-loop.

    ``curves`` has ``dataset``, ``arm`` (a line each), ``seed`` (the band is their range), ``step``
    and ``error``.
    """
    plt = pyplot()
    datasets = list(dict.fromkeys(curves["dataset"]))
    figure, panels = plt.subplots(
        1, len(datasets), figsize=(0.8 + 3.2 * len(datasets), 2.6), layout="constrained", squeeze=False
    )
    for dataset, axes in zip(datasets, panels[0], strict=True):
        chosen = curves[curves["dataset"] == dataset]
        for arm, group in chosen.groupby("arm", sort=False):
            by_step = group.groupby("step")["error"]
            mean = by_step.mean()
            (line,) = axes.plot(mean.index, mean, label=arm)
            axes.fill_between(
                mean.index, by_step.min(), by_step.max(), color=line.get_color(), alpha=0.2, linewidth=0
            )
        axes.set(title=dataset, xlabel="steps predicted open-loop", yscale="log")
        axes.legend()
    panels[0][0].set_ylabel("squared error (normalised)")
    figure.savefig(path)
    plt.close(figure)
