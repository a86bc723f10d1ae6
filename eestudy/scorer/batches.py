"""A flat batch of several requests' tokens: who lies where, who attends to whom, and who stays when others leave."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch

from eestudy.backbone import BackboneError

# The libraries prepare a product anew for every number of rows that they have not met (0.7 ms each on one processor,
# more than a small product itself takes), so batches are rounded up to multiples of this.
ROWS = 8


@dataclass(frozen=True)
class Block:
    """One request's share of the batch: the suffixes that are still in it, and where its prefix is."""

    owner: int  # position of the request
    rows: np.ndarray  # [C] the candidates still here, numbered through all requests
    lengths: np.ndarray  # [C] tokens of each
    n_prefix: int  # P
    start: int  # of its suffix tokens in the batch
    prefix_start: int | None  # of its prefix tokens in the batch; None where keys and values are known already
    device: torch.device

    @property
    def n_tokens(self) -> int:
        """Suffix tokens in the batch."""
        return int(self.lengths.sum())

    @property
    def suffixes(self) -> slice:
        """Where its suffix tokens lie."""
        return slice(self.start, self.start + self.n_tokens)

    @property
    def prefix(self) -> slice:
        """Where its prefix tokens lie, if they are in the batch."""
        return slice(self.prefix_start, self.prefix_start + self.n_prefix)

    @cached_property
    def padded(self) -> torch.Tensor:
        """[C, S] position among its suffix tokens; padding repeats the last token of a suffix."""
        first = np.cumsum(self.lengths) - self.lengths
        step = np.minimum(np.arange(self.lengths.max()), self.lengths[:, None] - 1)
        return torch.from_numpy(first[:, None] + step).to(self.device)

    @cached_property
    def packed(self) -> torch.Tensor:
        """[n_tokens] position of each suffix token in the flattened [C * S]."""
        longest = self.lengths.max()
        places = np.arange(len(self.lengths) * longest).reshape(-1, longest)
        return torch.from_numpy(places[np.arange(longest) < self.lengths[:, None]]).to(self.device)

    @cached_property
    def causal(self) -> torch.Tensor:
        """[1, S, S] bias of every suffix token: itself and what is before it."""
        longest = int(self.lengths.max())
        return torch.full((longest, longest), -torch.inf, device=self.device).triu(1)[None]

    @cached_property
    def up_to_answer(self) -> torch.Tensor:
        """[C, 1, S] bias of each suffix's last token: its whole suffix, no padding."""
        beyond = torch.from_numpy(np.arange(self.lengths.max()) >= self.lengths[:, None])
        return torch.zeros(beyond.shape).masked_fill(beyond, -torch.inf)[:, None].to(self.device)


@dataclass(frozen=True)
class Batch:
    """Suffix tokens of all blocks first, then the prefixes that are being computed, then unused rows."""

    blocks: tuple[Block, ...]
    positions: torch.Tensor  # [T] each token's position in its own prompt; T is a multiple of `ROWS`

    @cached_property
    def rows(self) -> np.ndarray:
        """[candidates in the batch] their numbers, block by block."""
        return np.concatenate([block.rows for block in self.blocks])

    @cached_property
    def answers(self) -> torch.Tensor:
        """[candidates in the batch] where each answer is read, block by block."""
        places = np.concatenate([block.start + np.cumsum(block.lengths) - 1 for block in self.blocks])
        return torch.from_numpy(places).to(self.positions.device)


def unused(n: int) -> int:
    """Rows that are missing from n to a multiple of `ROWS`."""
    return -n % ROWS


def make_batch(requests: Sequence, cached: Sequence[bool], device: torch.device) -> tuple[torch.Tensor, Batch]:
    """Lay out requests in one flat batch.

    Args:
        requests: objects with `prefix` and `suffixes` (token ids).
        cached: for each, whether its prefix's first layers are known, so that its tokens stay out for now.
        device: of the tensors.

    Returns:
        token ids [T], and the batch.

    Raises:
        BackboneError: an empty prefix, no suffix, or an empty suffix.
    """
    blocks, ids, positions, n_rows = [], [], [], 0
    for owner, request in enumerate(requests):
        lengths = np.array([len(suffix) for suffix in request.suffixes], dtype=np.int64)
        if not len(request.prefix) or not len(lengths) or not lengths.min():
            raise BackboneError(f"request {owner} needs a prefix and non-empty suffixes, "
                                f"got {len(request.prefix)} and {lengths.tolist()} tokens")
        n_prefix = len(request.prefix)
        blocks.append(Block(owner, n_rows + np.arange(len(lengths)), lengths, n_prefix, len(ids), None, device))
        n_rows += len(lengths)
        ids += (token for suffix in request.suffixes for token in suffix)
        positions += (n_prefix + step for length in lengths for step in range(length))
    for owner, request in enumerate(requests):
        if not cached[owner]:
            blocks[owner] = replace(blocks[owner], prefix_start=len(ids))
            ids += request.prefix
            positions += range(len(request.prefix))
    missing = unused(len(ids))
    ids, positions = ids + ids[-1:] * missing, positions + positions[-1:] * missing
    return torch.tensor(ids, device=device), Batch(tuple(blocks), torch.tensor(positions, device=device))


def join_prefixes(batch: Batch, owners: Sequence[int]) -> Batch:
    """The batch with the prefixes of `owners` added at its end, in that order."""
    end, positions, start = len(batch.positions), [batch.positions], {}
    lengths = {block.owner: block.n_prefix for block in batch.blocks}
    for owner in owners:
        start[owner], end = end, end + lengths[owner]
        positions.append(torch.arange(lengths[owner], device=batch.positions.device))
    positions.append(batch.positions.new_zeros(unused(end)))
    blocks = tuple(replace(b, prefix_start=start[b.owner]) if b.owner in start else b for b in batch.blocks)
    return Batch(blocks, torch.cat(positions))


def drop(batch: Batch, stays: np.ndarray) -> tuple[torch.Tensor, Batch]:
    """Take candidates out; a request without any is out with its prefix.

    Args:
        batch: n candidates in all.
        stays: [n] bool, block by block; one True at least.

    Returns:
        rows kept, as positions in the old batch [T'], and the smaller batch.
    """
    kept, blocks, end = [], [], 0
    shares = np.split(stays, np.cumsum([len(block.rows) for block in batch.blocks])[:-1])
    for block, stay in zip(batch.blocks, shares, strict=True):
        if stay.any():
            tokens = block.start + np.flatnonzero(np.repeat(stay, block.lengths))
            blocks.append(replace(block, rows=block.rows[stay], lengths=block.lengths[stay], start=end))
            kept, end = [*kept, tokens], end + len(tokens)
    for place, block in enumerate(blocks):
        if block.prefix_start is not None:
            kept.append(np.arange(block.prefix.start, block.prefix.stop))
            blocks[place], end = replace(block, prefix_start=end), end + block.n_prefix
    kept.append(np.repeat(kept[-1][-1:], unused(end)))
    index = torch.from_numpy(np.concatenate(kept)).to(batch.positions.device)
    return index, Batch(tuple(blocks), batch.positions[index])
