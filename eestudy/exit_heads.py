"""Exit heads: a small yes/no classifier after several layers, their joint loss, and their calibration.

Each head starts from what the LLM already has: its final norm and the yes − no direction of its LM head. Such an
untrained head is the *logit lens*. The last head, untrained, is the unmodified model.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn
from torch.nn import functional as F

MIN_LOGIT_STD = 0.25  # a lens that knows nothing would fit a slope near 0, and then its direction could not learn


class ExitHead(nn.Module):
    r"""One head: $z = \langle \mathrm{RMSNorm}(h),\; v \rangle + b$ for a raw state $h$.

    $v$ starts as $w \odot d$, the model's final norm weight times the yes − no direction of its LM head. Norm
    weight, direction and scale are one vector here, so that a step of the optimiser means the same in every head.
    """

    def __init__(self, weight: torch.Tensor, eps: float):
        super().__init__()
        self.weight = nn.Parameter(weight.clone().float())  # [D]
        self.bias = nn.Parameter(torch.zeros(()))
        self.eps = eps

    def forward(self, state: torch.Tensor) -> torch.Tensor:
        """Yes/no logit of raw states: [..., D] -> [...]."""
        state = state.float()
        normed = state * torch.rsqrt(state.pow(2).mean(-1, keepdim=True) + self.eps)  # [..., D]
        return normed @ self.weight + self.bias


class ExitHeads(nn.Module):
    """One head per exit layer (1-based, ascending)."""

    def __init__(self, exit_layers: Sequence[int], norm_weight: torch.Tensor, direction: torch.Tensor, eps: float):
        super().__init__()
        self.exit_layers = tuple(exit_layers)
        self.heads = nn.ModuleList(ExitHead(norm_weight * direction, eps) for _ in exit_layers)

    def forward(self, states: Iterable[torch.Tensor]) -> torch.Tensor:
        """Logits of E heads on their states: E times [C, D] -> [E, C]."""
        return torch.stack([head(state) for head, state in zip(self.heads, states, strict=True)])


def check_exit_layers(exit_layers: Sequence[int], n_layers: int) -> tuple[int, ...]:
    """The exit layers, if they are ascending, within 1 … L, and end with L.

    Raises:
        ValueError: otherwise; without the last layer some candidates could never leave.
    """
    layers = tuple(exit_layers)
    if list(layers) != sorted(set(layers)) or layers[0] < 1 or layers[-1] != n_layers:
        raise ValueError(f"heads.exit_layers must ascend from 1 on and end with {n_layers}, got {layers}")
    return layers


def joint_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean binary cross-entropy over heads and candidates, all heads weighted alike.

    Args:
        logits: [E, C].
        labels: [C] in {0, 1}.

    Returns:
        Per-head losses [E]; their mean is what is minimised.
    """
    target = labels.to(logits.dtype).expand_as(logits)  # [E, C]
    return F.binary_cross_entropy_with_logits(logits, target, reduction="none").mean(1)


def head_weights(exit_layers: Sequence[int], rule: str) -> list[float]:
    """What each head counts in the joint loss, 1 on average: [E].

    Args:
        exit_layers: [E].
        rule: 'equal', 'linear' (proportional to depth) or 'last' (that head alone).
    """
    raw = {"equal": [1.0] * len(exit_layers), "linear": [float(layer) for layer in exit_layers],
           "last": [0.0] * (len(exit_layers) - 1) + [1.0]}[rule]  # fmt: skip
    return [weight * len(raw) / sum(raw) for weight in raw]


def distillation_loss(logits: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of every head but the last against the last head's p, through which no gradient flows.

    Args:
        logits: [E, C].

    Returns:
        A scalar; 0 where there is one head only.

    Source: Zhang et al., "Be Your Own Teacher" (ICCV 2019): the deepest exit teaches the others.
    """
    if len(logits) < 2:
        return logits.new_zeros(())
    teacher = torch.sigmoid(logits[-1]).detach().expand_as(logits[:-1])  # [E - 1, C]
    return F.binary_cross_entropy_with_logits(logits[:-1], teacher)


def head_learning_rates(exit_layers: Sequence[int], deepest_lr: float, shallow_factor: float) -> list[float]:
    """Depth-aware learning rates: linear in depth, `shallow_factor` times larger at the shallowest head.

    The paper's summaries say "larger for shallower heads" and give no formula; the line is our choice.
    """
    first, last = exit_layers[0], exit_layers[-1]
    share = [(last - layer) / max(last - first, 1) for layer in exit_layers]  # 1 at the shallowest, 0 at the deepest
    return [deepest_lr * (1 + (shallow_factor - 1) * s) for s in share]


def fit_scale_and_bias(heads: ExitHeads, logits: np.ndarray, labels: np.ndarray) -> None:
    """Scale each head and set its bias from a few hundred labels, before any training.

    Args:
        heads: untrained heads (bias 0); changed in place.
        logits: [E, n] their logits on the labelled rows.
        labels: [n] in {0, 1}, both classes present.
    """
    base = float(np.log(labels.mean() / (1 - labels.mean())))
    for head, z in zip(heads.heads, logits, strict=True):
        slope, _ = fit_calibration(z, labels)
        # Never negative, even where the lens ranks backwards: what a layer writes along yes − no stays in the residual
        # stream, so heads of opposite signs would pull the adapter in opposite directions.
        scale = max(abs(slope) * z.std(), MIN_LOGIT_STD) / max(z.std(), 1e-6)
        with torch.no_grad():
            head.weight.mul_(scale)
            head.bias.fill_(base - scale * z.mean())


def fit_calibration(logits: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Platt scaling of one head: p = sigmoid(slope · z + intercept).

    Args:
        logits: [n] raw logits.
        labels: [n] in {0, 1}, both classes present.

    Returns:
        (slope, intercept).

    Source: Platt (1999); scikit-learn's logistic regression without penalty.
    """
    center, spread = float(np.mean(logits)), max(float(np.std(logits)), 1e-6)
    model = LogisticRegression(C=np.inf).fit(((logits - center) / spread)[:, None], labels)
    slope = float(model.coef_[0, 0]) / spread
    return slope, float(model.intercept_[0]) - slope * center


def calibrate(logits, calibration):
    """Calibrated p_yes of E heads.

    Args:
        logits: [n, E] array or tensor of raw logits.
        calibration: [E, 2] slope and intercept per head, of the same kind.

    Returns:
        p_yes [n, E], of the same kind.
    """
    z = logits * calibration[:, 0] + calibration[:, 1]
    return torch.sigmoid(z) if isinstance(z, torch.Tensor) else 1 / (1 + np.exp(-z))
