"""Users' prefixes kept between requests: keys and values per layer, within a byte budget."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from cachetools import LRUCache

from eestudy.backbone import BackboneError


@dataclass(frozen=True)
class PrefixState:
    """A prefix as deep as it has been computed: through the keys and values of its first n layers."""

    tokens: tuple[int, ...]  # [P]
    keys_values: tuple[tuple[torch.Tensor, torch.Tensor], ...]  # n pairs of [P, G, d]
    hidden: torch.Tensor  # [P, D], the state before layer n - 1 (0-based): where to go on

    @property
    def n_layers(self) -> int:
        """Layers whose keys and values are known."""
        return len(self.keys_values)

    @property
    def n_bytes(self) -> int:
        """Memory that the state holds: its tensors, and 8 bytes a token id."""
        tensors = [self.hidden, *(x for pair in self.keys_values for x in pair)]
        return sum(x.numel() * x.element_size() for x in tensors) + 8 * len(self.tokens)


class PrefixCache:
    """Least recently used prefixes leave first; a prefix that has changed is never served.

    One entry per user. Deeper replaces shallower: a request that left early leaves a shallow prefix behind, and
    a later one goes on from there.
    """

    def __init__(self, max_bytes: int):
        self._states: LRUCache = LRUCache(max_bytes, getsizeof=lambda state: state.n_bytes)
        self.hits, self.misses = 0, 0
        self._weights: object | None = None

    def bind(self, weights: object) -> None:
        """Belong to these weights from now on.

        Raises:
            BackboneError: the cache holds prefixes of other weights.
        """
        if self._weights is not None and self._weights is not weights:
            raise BackboneError("this cache holds the prefixes of another engine; give every engine a cache of its own")
        self._weights = weights

    def __len__(self) -> int:
        return len(self._states)

    @property
    def n_bytes(self) -> int:
        """Bytes held now; never above `max_bytes`."""
        return self._states.currsize

    def get(self, user: Hashable, tokens: Sequence[int]) -> PrefixState | None:
        """The user's prefix, if it is these tokens; an entry for other tokens (a changed history) is dropped."""
        state = self._states.get(user)
        if state is not None and state.tokens != tuple(tokens):
            del self._states[user]
            state = None
        self.hits, self.misses = self.hits + (state is not None), self.misses + (state is None)
        return state

    def put(self, user: Hashable, state: PrefixState) -> None:
        """Keep a prefix. One that is larger than the whole budget is not kept, nor is a shallower one than is there."""
        known = self._states.get(user)
        if known is not None and known.tokens == state.tokens and known.n_layers >= state.n_layers:
            return
        if state.n_bytes <= self._states.maxsize:
            self._states[user] = state
        elif known is not None and known.tokens != state.tokens:
            del self._states[user]


@dataclass
class Trail:
    """A prefix's way through the layers of one call: what later layers, and later calls, need of it."""

    state: PrefixState | None  # what the cache knew
    keys_values: dict[int, tuple[torch.Tensor, torch.Tensor]]  # 0-based layer -> [P, G, d] each
    hidden: torch.Tensor | None = None  # [P, D], the state before the deepest layer noted in this call


def open_trail(cache: PrefixCache | None, request) -> Trail:
    """The trail of a request, beginning with what the cache knows of its prefix."""
    state = None if cache is None else cache.get(request.user, request.prefix)
    return Trail(state, dict(enumerate(state.keys_values)) if state else {})


def note(trail: Trail, depth: int, hidden, keys, values, keep: bool) -> None:
    """Note a prefix's state before layer `depth` and its keys and values there; `keep` the earlier layers' too."""
    if not keep:
        trail.keys_values.clear()
    own = [x.clone(memory_format=torch.contiguous_format) for x in (keys, values)]  # a view would keep its batch alive
    trail.hidden, trail.keys_values[depth] = hidden, tuple(own)


def close_trail(cache: PrefixCache | None, request, trail: Trail) -> None:
    """Give the cache, where there is one, what this call has added to its knowledge of a prefix."""
    if cache is not None and trail.hidden is not None:
        pairs = tuple(trail.keys_values[depth] for depth in range(len(trail.keys_values)))
        cache.put(request.user, PrefixState(tuple(request.prefix), pairs, trail.hidden.clone()))
