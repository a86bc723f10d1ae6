"""Weights with a NaN or an infinity in them are refused, by name, before anything is computed from them."""

from __future__ import annotations

import torch

from eestudy.backbone.packs import BackboneError


def refuse_nonfinite(module: torch.nn.Module, remedy: str) -> None:
    """Look at every weight once.

    Args:
        module: a language model, or the exit heads.
        remedy: what to do, for the message.

    Raises:
        BackboneError: names the parameter (its layer is part of the name) and the first row that holds one.
    """
    for name, weight in module.named_parameters():
        if not bool(torch.isfinite(weight).all()):
            row = int(torch.nonzero(~torch.isfinite(torch.atleast_1d(weight)))[0, 0])
            raise BackboneError(f"{name}, row {row}: a weight is not finite (NaN or infinity). {remedy}")
