"""Four networks from torch-rechub: each field's value has a vector, and the models differ in how vectors meet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn
from torch_rechub.basic.features import SequenceFeature, SparseFeature
from torch_rechub.basic.layers import FM, EmbeddingLayer
from torch_rechub.models.ranking import DIN, DCNv2, DeepFM

NETWORKS = ("fm", "deepfm", "dcn_v2", "din")
N_CROSS_LAYERS = 2
ATTENTION_DIMS = (36,)  # hidden size of DIN's attention: the library's, and the paper's code's


class FactorizationMachine(nn.Module):
    """A weight for each field's value, and a vector: the vectors of two fields meet in an inner product.

    logit p(click) = b + sum over f of w[f, x_f] + sum over f < g of <v[f, x_f], v[g, x_g]>

    The library has the pairwise term as a layer, but no model of its own; this is that layer with Rendle's linear term.

    Source: Rendle, "Factorization Machines" (ICDM 2010), eq. 1, computed by its Lemma 3.1.
    """

    def __init__(self, sizes: Mapping[str, int], dim: int):
        super().__init__()
        self.weight_fields, self.vector_fields = _fields(sizes, 1), _fields(sizes, dim)
        self.bias = nn.Parameter(torch.zeros(()))
        self.weights, self.vectors = EmbeddingLayer(self.weight_fields), EmbeddingLayer(self.vector_fields)
        self.pairs = FM(reduce_sum=True)

    def forward(self, fields: dict[str, torch.Tensor]) -> torch.Tensor:
        """Probabilities [B] from fields of shape [B]."""
        linear = self.weights(fields, self.weight_fields).sum((1, 2))  # [B, F, 1] -> [B]
        vectors = self.vectors(fields, self.vector_fields)  # [B, F, D]
        return torch.sigmoid(self.bias + linear + self.pairs(vectors).squeeze(1))


def _fields(sizes: Mapping[str, int], dim: int) -> list[SparseFeature]:
    """The library's descriptions of fields, new ones for each call: they keep the weights that are made of them."""
    return [SparseFeature(name, size, dim, padding_idx=0 if name == "item" else None) for name, size in sizes.items()]


def make_network(
    name: str, sizes: Mapping[str, int], dim: int, dropout: float, hidden: Sequence[int], seed: int
) -> nn.Module:  # fmt: skip
    """A network with random weights; it maps a dict of fields (from `encode`) to probabilities [B].

    Args:
        name: one of `NETWORKS`.
        sizes: field -> number of values; has user and item (whose value 0 is nothing).
        dim: length D of a value's vector.
        dropout: share of hidden units left out in training.
        hidden: sizes of the hidden layers, where the model has any.
        seed: of the weights.

    Raises:
        ValueError: an unknown name.

    Source: Guo et al. (IJCAI 2017), DeepFM; Wang et al. (WWW 2021), DCN-V2, full-rank crosses beside the hidden
    layers; Zhou et al. (KDD 2018), DIN.
    """
    if name not in NETWORKS:
        raise ValueError(f"unknown network {name!r}; known: {', '.join(NETWORKS)}")
    mlp = {"dims": list(hidden), "dropout": dropout}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fields = _fields(sizes, dim)
        if name == "fm":
            return FactorizationMachine(sizes, dim)
        if name == "deepfm":
            return DeepFM(fields, fields, mlp)
        if name == "dcn_v2":  # the library's low-rank mixture cannot score one row alone
            return DCNv2(fields, N_CROSS_LAYERS, mlp, use_low_rank_mixture=False)
        history = SequenceFeature("history", sizes["item"], dim, "concat", shared_with="item", padding_idx=0)
        others, target = ([field for field in fields if (field.name == "item") == is_item] for is_item in (False, True))
        return DIN(others, [history], target, mlp, {"dims": list(ATTENTION_DIMS)})
