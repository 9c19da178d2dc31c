"""The paper's studies. Each is a base experiment and a few arms that change one thing in it.

A study's docstring states its command, its time on two cores, and the score to expect. Published
figures are those of Wu et al. 2023, on D4RL's data; they stand beside a study's own, whose data may
be others.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mtm import UserError
from pipeline import recipes
from pipeline.config import EvaluateConfig, Experiment
from pipeline.recipes import Scale
from sweeps.ablations import Arm, Published, Study, Sweep

EXPERT, REPLAY = "mtm/hopper/expert-v0", "mtm/hopper/replay-v0"
HETEROMODAL_PATTERN = "id+autoregressive"
LABELLED = 1.0
"""Percent of the episodes with actions in the heteromodal study."""
PERCENTS = (95.0, 5.0, 2.0, 1.0, 0.5)
"""Percent of the episodes in the data-efficiency study; the 5 beyond 95 are held out."""
ALL = ("bc", "rcbc", "id", "fd")
ACTING = ("bc", "rcbc", "two-stage")


def _base(
    scale: Scale,
    datasets: tuple[str, ...] = (EXPERT,),
    small: str = EXPERT,
    transitions: int = 1_000_000,
) -> Sweep:
    """The base of every study; ``datasets`` are the paper's.

    Smaller scales have the dataset ``small`` alone, of ``transitions`` on a laptop.
    """
    if scale == "paper":
        return _sweep(recipes.paper(), datasets, seeds=4)
    if scale == "smoke":
        smoke = recipes.smoke()
        return _sweep(replace(smoke, data=replace(smoke.data, transitions=20_000)), (small,))
    base = recipes.quickstart("laptop")
    base = replace(
        base,
        data=replace(base.data, transitions=transitions),
        optim=replace(base.optim, warmup_steps=200),
        evaluate=EvaluateConfig(targets=(0.6, 0.7, 0.8)),
    )
    return _sweep(base, (small,))


def _sweep(experiment: Experiment, datasets: tuple[str, ...], **changes: Any) -> Sweep:
    # Cells are parallel already, so each plays all its episodes in one process.
    fields = {**vars(experiment), "evaluate": replace(experiment.evaluate, shards=1), **changes}
    return Sweep(**fields, datasets=datasets)


def _locomotion(*kinds: str) -> tuple[str, ...]:
    return tuple(
        f"mtm/{env}/{kind}-v0" for env in ("hopper", "walker2d", "halfcheetah") for kind in kinds
    )


def _share(sweep: Sweep, percent: float) -> float:
    """A percentage of all episodes as a share of the training episodes."""
    share = percent / 100.0 / (1.0 - sweep.data.held_out)
    if share > 1.0 + 1e-9:
        raise UserError(
            f"held_out {sweep.data.held_out} leaves less than the {percent:g} % of the episodes that "
            "this study trains on; hold out less"
        )
    return min(1.0, round(share, 6))


def capabilities(scale: Scale) -> Sweep:
    """One set of weights for four roles, beside specialists (Wu et al. 2023, table 1).

    ``mtm run capabilities``: 21 minutes on two cores, 4 of them for the data. Hopper expert, 5,000
    steps, 2 seeds: MLP and S-MTM 100 to 101 as BC and RCBC; MTM 41 ± 36 and 90 ± 14. ID error 0.029
    (MLP), 0.058 (S-MTM), 0.38 (MTM); FD error 0.003, 0.019, 0.051. With the paper's pattern 5,000
    steps hold almost no mask of ID and FD: docs/LOG.md.
    """
    return _base(scale, _locomotion("expert", "medium-expert", "medium", "replay"))


def capabilities_arms(sweep: Sweep) -> list[Arm]:
    return [
        *(Arm("MLP", f"mlp-{role}", roles=(role,)) for role in ALL),
        *(Arm("S-MTM", "mtm", {"mask.pattern": role}, roles=(role,)) for role in ALL),
        Arm("MTM", "mtm", roles=ALL),
        # Ours: the paper's pattern never draws ID's and FD's masks where they are used.
        Arm("MTM, role masks too", "mtm", {"mask.pattern": "autoregressive+bc+rcbc+id+fd"}, roles=ALL),
    ]


def mask_patterns(scale: Scale) -> Sweep:
    """Which tokens to hide in training (Wu et al. 2023, mask pattern ablation).

    ``mtm run mask-patterns``: 4 minutes on two cores after capabilities, with which it shares two of
    three patterns. Hopper expert, 2 seeds: RANDOM 101.0 ± 0.3 as RCBC and 0.14 ± 0.05 ID error,
    autoregressive 90 ± 14 and 0.381, RCBC-specialised 100.3 ± 0.4 and 0.70 ± 0.14.
    """
    return _base(
        scale,
        tuple(
            f"mtm/{env}/{kind}-v0" for env in ("hopper", "walker2d") for kind in ("expert", "replay")
        ),
    )


def mask_patterns_arms(sweep: Sweep) -> list[Arm]:
    return [
        Arm("RANDOM", "mtm", {"mask.pattern": "random"}, roles=("rcbc", "id")),
        Arm("random autoregressive", "mtm", {"mask.pattern": "autoregressive"}, roles=("rcbc", "id")),
        Arm("RCBC-specialised", "mtm", {"mask.pattern": "rcbc"}, roles=("rcbc", "id")),
    ]


def heteromodal(scale: Scale) -> Sweep:
    """Actions known for 1 % of the episodes, states for all (Wu et al. 2023, heteromodal table).

    ``mtm run heteromodal``: 7 minutes on two cores. Hopper replay, 11 labelled episodes, 2 seeds: MLP
    94 ± 2 as RCBC; MTM 44 ± 40 (BC), 35 ± 14 (RCBC), 13 (two-stage); heteromodal MTM 12 ± 5, 13 ± 12,
    20 ± 7. It does not gain from the states of the other episodes at these sizes: docs/LOG.md.
    """
    return _base(scale, _locomotion("expert"), small=REPLAY, transitions=200_000)


def heteromodal_arms(sweep: Sweep) -> list[Arm]:
    few = _share(sweep, LABELLED)
    return [
        Arm("MLP-BC, all data", "mlp-bc", roles=("bc",)),
        Arm("MLP-BC", "mlp-bc", {"data.fraction": few}, roles=("bc",)),
        Arm("MLP-RCBC", "mlp-rcbc", {"data.fraction": few}, roles=("rcbc",)),
        Arm("MTM", "mtm", {"data.fraction": few}, roles=ACTING),
        _heteromodal_arm(few),
    ]


def _heteromodal_arm(labelled: float, level: float | None = None) -> Arm:
    change = {"heteromodal.labelled_fraction": labelled, "mask.pattern": HETEROMODAL_PATTERN}
    return Arm("Heteromodal MTM", "mtm", change, ACTING, level)


def data_efficiency(scale: Scale) -> Sweep:
    """From all of the data to 0.5 % of the episodes (Wu et al. 2023, data efficiency).

    ``mtm run data-efficiency``: 18 minutes on two cores after heteromodal, with which it shares 1 %.
    Hopper replay, 1,080 training episodes, 2 seeds, as RCBC: MTM 81 ± 17 on all data, 35 ± 14 on 1 %;
    MLP 49 ± 4 on all data, 94 ± 2 on 1 %; heteromodal MTM 53 ± 19 and 13 ± 12.
    """
    return _base(scale, small=REPLAY, transitions=200_000)


def data_efficiency_arms(sweep: Sweep) -> list[Arm]:
    arms = []
    for percent in PERCENTS:
        share = _share(sweep, percent)
        arms += [
            Arm("MLP-BC", "mlp-bc", {"data.fraction": share}, ("bc",), percent),
            Arm("MLP-RCBC", "mlp-rcbc", {"data.fraction": share}, ("rcbc",), percent),
            Arm("MTM", "mtm", {"data.fraction": share}, ACTING, percent),
            _heteromodal_arm(share, percent),
        ]
    return arms


def minari_benchmark(scale: Scale) -> Sweep:
    """Reference numbers for the published Minari datasets; downloads them, so it needs a network.

    ``mtm run minari-benchmark``: the CSV is results.csv. Not run yet: no network where it was written.
    Adroit needs the ``adroit`` extra.
    """
    return replace(_base(scale), datasets=MINARI_DATASETS)


def minari_benchmark_arms(sweep: Sweep) -> list[Arm]:
    return [
        *(Arm("MLP", f"mlp-{role}", roles=(role,)) for role in ALL),
        Arm("MTM", "mtm", roles=ALL),
    ]


MINARI_DATASETS = (
    *(
        f"mujoco/{env}/{kind}-v0"
        for env in ("hopper", "walker2d", "halfcheetah", "ant", "humanoid", "humanoidstandup")
        for kind in ("simple", "medium", "expert")
    ),
    *(f"mujoco/swimmer/{kind}-v0" for kind in ("medium", "expert")),
    *(
        f"D4RL/{task}/{kind}-v2"
        for task in ("door", "pen", "hammer", "relocate")
        for kind in ("human", "cloned", "expert")
    ),
)
"""Minari's locomotion and Adroit datasets, as its documentation lists them."""

PUBLISHED_HETEROMODAL: Published = {
    ("hopper/expert", "MLP-BC, all data", None): (110.7, 0.248),
    ("hopper/expert", "MLP-BC", None): (53.52, 16.6),
    ("hopper/expert", "MLP-RCBC", None): (64.54, 24.58),
    ("hopper/expert", "MTM", None): (73.74, 24.33),
    ("hopper/expert", "Heteromodal MTM", None): (87.7, 3.37),
    ("halfcheetah/expert", "MLP-BC, all data", None): (93.22, 0.0336),
    ("halfcheetah/expert", "MLP-BC", None): (1.184, 0.0344),
    ("halfcheetah/expert", "MLP-RCBC", None): (1.736, 0.227),
    ("halfcheetah/expert", "MTM", None): (13.88, 8.91),
    ("halfcheetah/expert", "Heteromodal MTM", None): (56.5, 15.71),
    ("walker2d/expert", "MLP-BC, all data", None): (108.94, 0.0873),
    ("walker2d/expert", "MLP-BC", None): (81.9, 19.9),
    ("walker2d/expert", "MLP-RCBC", None): (84.9, 22.7),
    ("walker2d/expert", "MTM", None): (88.7, 7.47),
    ("walker2d/expert", "Heteromodal MTM", None): (96.4, 8.9),
    ("door/expert", "MLP-BC, all data", None): (147.8, 0.374),
    ("door/expert", "MLP-BC", None): (5.796, 1.997),
    ("door/expert", "MLP-RCBC", None): (12.76, 14.2),
    ("door/expert", "MTM", None): (92.03, 18.1),
    ("door/expert", "Heteromodal MTM", None): (113.5, 1.34),
    ("pen/expert", "MLP-BC, all data", None): (61.5, 2.85),
    ("pen/expert", "MLP-BC", None): (23.1, 4.39),
    ("pen/expert", "MLP-RCBC", None): (25.6, 3.59),
    ("pen/expert", "MTM", None): (21.2, 6.69),
    ("pen/expert", "Heteromodal MTM", None): (29.2, 3.76),
}

_EFFICIENCY = {
    ("hopper/expert", "MLP-BC"): (110.72, 99.48, 81.5, 45.44, 20.62),
    ("hopper/expert", "MTM"): (110.79, 107.02, 75.61, 73.74, 53.13),
    ("hopper/expert", "Heteromodal MTM"): (110.97, 109.92, 91.12, 85.95, 73.65),
    ("door/expert", "MLP-BC"): (147.7, 72.1, 22.4, 6.678, 4.71),
    ("door/expert", "MTM"): (148.4, 129.2, 115.5, 103.3, 47.7),
    ("door/expert", "Heteromodal MTM"): (148.5, 126.8, 116.3, 114.2, 91.03),
}
PUBLISHED_EFFICIENCY: Published = {
    (dataset, arm, percent): (mean, None)
    for (dataset, arm), means in _EFFICIENCY.items()
    for percent, mean in zip(PERCENTS, means, strict=True)
}

STUDIES = {
    study.name: study
    for study in (
        Study("capabilities", capabilities, capabilities_arms, columns="arm"),
        Study("mask-patterns", mask_patterns, mask_patterns_arms, columns="role"),
        Study("heteromodal", heteromodal, heteromodal_arms, "role", PUBLISHED_HETEROMODAL),
        Study("data-efficiency", data_efficiency, data_efficiency_arms, "level", PUBLISHED_EFFICIENCY),
        Study("minari-benchmark", minari_benchmark, minari_benchmark_arms, columns="role"),
    )
}
