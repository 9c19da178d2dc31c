"""Reconstruction loss."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
import torch.nn.functional as F


def reconstruction(
    predicted: dict[str, torch.Tensor],
    tokens: dict[str, torch.Tensor],
    known: Mapping[str, torch.Tensor] | None = None,
    discrete: Collection[str] = (),
) -> dict[str, torch.Tensor]:
    """The loss by modality, averaged over ALL tokens, visible ones too, and the sum ``loss``.

    Both arguments [B, T, P, D]: squared error in normalised units, cross-entropy for the
    ``discrete`` modalities, whose predictions are logits. ``known`` has, for modalities that some
    windows lack, booleans [B], or one for the batch []: only known windows count. Wu et al. 2023,
    section 3.
    """
    losses = {}
    for name, prediction in predicted.items():
        error = (_cross_entropy if name in discrete else _squared_error)(prediction, tokens[name])
        if known and name in known:
            weight = known[name].to(error).expand(len(error))
            # The sum of nothing is zero, and still hangs on the weights, as data-parallel training needs.
            losses[name] = (error * weight).sum() / weight.sum().clamp(min=1.0)
        else:
            losses[name] = error.mean()
    return {"loss": torch.stack(list(losses.values())).sum(), **losses}


def _squared_error(predicted: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """[B]"""
    return F.mse_loss(predicted, tokens, reduction="none").flatten(1).mean(1)


def _cross_entropy(logits: torch.Tensor, one_hot: torch.Tensor) -> torch.Tensor:
    """[B]"""
    error = F.cross_entropy(logits.flatten(0, 2), one_hot.flatten(0, 2).argmax(-1), reduction="none")
    return error.view(len(logits), -1).mean(1)
