"""Windows of consecutive steps, drawn by index from episodes that lie on the device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from mtm.errors import UserError
from mtm.trajectory import ACTIONS, Batch

BatchKind = Literal["full", "state-only", "mixed"]


@dataclass(frozen=True)
class HeteromodalConfig:
    """Training on episodes of which only some have actions (Wu et al. 2023, section 4)."""

    labelled_fraction: float = 1.0
    """Share of the training episodes whose actions are known; of the others, states and returns are."""
    batches: Literal["alternate", "mixed"] = "alternate"
    """alternate: full batches from labelled episodes, and state-only batches from all; mixed: half of
    every batch is full and half state-only."""
    state_only_per_full: int = 1
    """State-only batches after each full one, where they alternate."""

    def __post_init__(self) -> None:
        if not 0.0 < self.labelled_fraction <= 1.0:
            raise UserError(
                f"labelled_fraction is {self.labelled_fraction}; it must lie in (0, 1]; "
                "the model needs some actions"
            )
        if self.batches not in ("alternate", "mixed"):
            raise UserError(f"batches is {self.batches!r}; use alternate or mixed")
        if self.state_only_per_full < 0:
            raise UserError(
                f"state_only_per_full is {self.state_only_per_full}; it must not be negative"
            )

    def kind(self, step: int) -> BatchKind:
        """What the batch of that training step holds."""
        if self.batches == "mixed":
            return "mixed"
        return "state-only" if step % (1 + self.state_only_per_full) else "full"


class WindowSampler:
    """All windows of T steps that lie within one episode.

    ``episodes`` are raw values [steps, dim] by modality; those shorter than ``window`` hold no
    window and are left out. ``labelled`` says of which episodes the actions are known (by default
    all); the actions of others are not even kept. Raises UserError where nothing is left.
    """

    def __init__(
        self,
        episodes: Sequence[Batch],
        window: int,
        device: torch.device | str = "cpu",
        labelled: Sequence[bool] | None = None,
    ):
        lengths = [len(next(iter(episode.values()))) for episode in episodes]
        known = [True] * len(episodes) if labelled is None else list(labelled)
        if len(known) != len(episodes):
            raise UserError(f"labelled has {len(known)} values for {len(episodes)} episodes")
        # Labelled episodes first, so that their windows are the first ones.
        order = sorted(range(len(episodes)), key=lambda i: not known[i])
        kept = [i for i in order if lengths[i] >= window]
        if not any(known[i] for i in kept):
            longest = max((lengths[i] for i in order if known[i]), default=0)
            raise UserError(
                f"none of {sum(known)} episodes with actions holds a window of {window} steps "
                f"(the longest has {longest}); use more data or a shorter window"
            )
        self.window = window
        self.values = {
            name: torch.cat([episodes[i][name] for i in kept]).to(device) for name in episodes[0]
        }
        self.labelled_windows = sum(lengths[i] - window + 1 for i in kept if known[i])
        self.values[ACTIONS][sum(lengths[i] for i in kept if known[i]) :] = 0.0
        starts, first = [], 0
        for length in (lengths[i] for i in kept):
            starts.append(torch.arange(first, first + length - window + 1))
            first += length
        self.starts = torch.cat(starts).to(device)
        self.offsets = torch.arange(window, device=device)

    def __len__(self) -> int:
        """Number of windows."""
        return len(self.starts)

    def draw(
        self, count: int, generator: torch.Generator, kind: BatchKind = "full"
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Indices [count] of windows, uniform with replacement, on the generator's device.

        Beside them, by modality, which windows count as having it, [count] or one for all [], on the
        CPU like masks; a modality that is not named is known everywhere. State-only windows are drawn from all
        episodes, labelled ones too. In a mixed batch, full and state-only windows take turns.
        """

        def among(windows: int, count: int) -> torch.Tensor:
            return torch.randint(windows, (count,), generator=generator, device=generator.device)

        if kind == "full" or self.labelled_windows == len(self):
            return among(self.labelled_windows, count), {}
        if kind == "state-only":
            return among(len(self), count), {ACTIONS: torch.tensor(False)}
        if count % 2:
            raise UserError(f"a mixed batch of {count} windows has no half; use an even batch_size")
        full, states = among(self.labelled_windows, count // 2), among(len(self), count // 2)
        known = torch.tensor([True, False]).repeat(count // 2)
        return torch.stack([full, states], dim=1).flatten(), {ACTIONS: known}

    def windows(self, index: torch.Tensor) -> Batch:
        """Raw windows [B, T, dim] by modality."""
        rows = self.starts[index][:, None] + self.offsets
        return {name: values[rows] for name, values in self.values.items()}

    def evenly(self, count: int, batch_size: int) -> Iterator[Batch]:
        """At most ``count`` windows spread evenly over the data, in batches; the same every time."""
        index = torch.linspace(0, len(self) - 1, min(count, len(self)), device=self.starts.device)
        for part in index.round().long().split(batch_size):
            yield self.windows(part)
