"""Reconstruction loss."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def reconstruction(
    predicted: dict[str, torch.Tensor], tokens: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Squared error by modality, averaged over ALL tokens, visible ones too, and their sum ``loss``.

    Both arguments [B, T, P, D] in normalised units. Wu et al. 2023, section 3.
    """
    losses = {name: F.mse_loss(predicted[name], tokens[name]) for name in predicted}
    return {"loss": torch.stack(list(losses.values())).sum(), **losses}
