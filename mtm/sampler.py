"""Windows of consecutive steps, drawn by index from episodes that lie on the device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from mtm.errors import UserError
from mtm.trajectory import Batch


class WindowSampler:
    """All windows of T steps that lie within one episode.

    ``episodes`` are raw values [steps, dim] by modality; those shorter than ``window`` hold no
    window and are left out. Raises UserError where that leaves nothing.
    """

    def __init__(
        self,
        episodes: Sequence[Batch],
        window: int,
        device: torch.device | str = "cpu",
    ):
        lengths = [len(next(iter(episode.values()))) for episode in episodes]
        kept = [episode for episode, length in zip(episodes, lengths, strict=True) if length >= window]
        if not kept:
            longest = max(lengths, default=0)
            raise UserError(
                f"none of {len(episodes)} episodes holds a window of {window} steps "
                f"(the longest has {longest}); use more data or a shorter window"
            )
        self.window = window
        self.values = {
            name: torch.cat([episode[name] for episode in kept]).to(device) for name in kept[0]
        }
        starts, first = [], 0
        for length in (length for length in lengths if length >= window):
            starts.append(torch.arange(first, first + length - window + 1))
            first += length
        self.starts = torch.cat(starts).to(device)
        self.offsets = torch.arange(window, device=device)

    def __len__(self) -> int:
        """Number of windows."""
        return len(self.starts)

    def draw(self, count: int, generator: torch.Generator) -> torch.Tensor:
        """Indices [count] of windows, uniform with replacement, on the generator's device."""
        return torch.randint(len(self), (count,), generator=generator, device=generator.device)

    def windows(self, index: torch.Tensor) -> Batch:
        """Raw windows [B, T, dim] by modality."""
        rows = self.starts[index][:, None] + self.offsets
        return {name: values[rows] for name, values in self.values.items()}

    def evenly(self, count: int, batch_size: int) -> Iterator[Batch]:
        """At most ``count`` windows spread evenly over the data, in batches; the same every time."""
        index = torch.linspace(0, len(self) - 1, min(count, len(self)), device=self.starts.device)
        for part in index.round().long().split(batch_size):
            yield self.windows(part)
