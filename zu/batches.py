"""Many texts as token ids in one padded batch, and the places of the answers in it."""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch.nn.utils.rnn import pad_sequence


@dataclass(frozen=True)
class Batch:
    """Token sequences of several rows, padded on either side.

    Parameters
    ----------
    ids : (rows, length)
        Token ids.
    mask : (rows, length) or None
        1 for a real token, 0 for padding; None if nothing is padded.
    position : (rows,)
        One position of interest per row, counted from the row's first column.
    """

    ids: torch.Tensor
    mask: torch.Tensor | None
    position: torch.Tensor

    def __len__(self) -> int:
        """How many rows there are."""
        return len(self.ids)

    @property
    def real(self) -> torch.Tensor:
        """1 for a real token, 0 for padding: (rows, length), even if there is no mask."""
        return torch.ones_like(self.ids) if self.mask is None else self.mask

    def split(self, tokens: int) -> Iterator[tuple[torch.Tensor, Batch]]:
        """Split into parts of at most `tokens` tokens, with rows of similar length together.

        The parts are padded on the right, where real tokens of a causal model cannot see it.

        Parameters
        ----------
        tokens : int
            The most tokens in a part, including padding; a longer row becomes a part of its own.

        Returns
        -------
        iterator of (rows, part)
            The row numbers of a part in this batch, (part rows,), and the part itself.
        """
        padded = self._padded_on_the_right()
        lengths = padded.real.sum(1)
        order = lengths.argsort(stable=True)  # the last row of a part is its longest
        start = 0
        while start < len(order):
            stop = start + 1
            while stop < len(order):
                longest = int(lengths[order[stop]])
                if longest * (stop + 1 - start) > tokens:
                    break
                stop += 1
            rows = order[start:stop]
            width = int(lengths[rows].max())
            ids = padded.ids[rows, :width]
            mask = padded.real[rows, :width]
            yield rows, Batch(ids, mask, padded.position[rows])
            start = stop

    def _padded_on_the_right(self) -> Batch:
        """The same rows, each rotated until its first real token is in column 0."""
        length = self.ids.shape[1]
        lead = self.real.argmax(1)  # (rows,): how much padding is on the left
        columns = torch.arange(length, device=lead.device)
        turn = (lead[:, None] + columns) % length  # (rows, 1) + (length,) -> (rows, length)
        ids = self.ids.gather(1, turn)
        mask = self.real.gather(1, turn)
        return Batch(ids, mask, self.position - lead)


def collate(rows: Sequence[tuple[list[int], int]], device: torch.device | str = "cpu") -> Batch:
    """A `Batch` from (ids, position) rows, padded on the right.

    Right padding is invisible to a causal model at earlier tokens.

    Parameters
    ----------
    rows : sequence of (ids, position)
        Rows as `zu.wording.encode` returns them.
    device : torch.device or str
        The batch's device.

    Returns
    -------
    Batch
        The same rows, padded to the longest.
    """
    ids = [torch.tensor(row, dtype=torch.long) for row, _ in rows]
    ones = [torch.ones(len(row), dtype=torch.long) for row, _ in rows]
    position = torch.tensor([at for _, at in rows], device=device)
    padded = pad_sequence(ids, batch_first=True)  # rows of any length -> (rows, longest)
    mask = pad_sequence(ones, batch_first=True)
    return Batch(padded.to(device), mask.to(device), position)


def answers(part: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The places of the answers at the ends of some rows.

    Parameters
    ----------
    part : Batch
        A batch padded on the right, whose `position` is the number of tokens in a row's answer.

    Returns
    -------
    reads : (rows, length − 1)
        Whether the next token, which a token's state predicts, belongs to the answer.
    tokens : (answer tokens,)
        The answers' tokens, row after row.
    row : (answer tokens,)
        The row of each token.
    """
    at = torch.arange(1, part.ids.shape[1], device=part.ids.device)  # (length − 1,): the next ones
    ends = part.real.sum(1, keepdim=True)  # (rows, 1): each row's length without its padding
    reads = (at < ends) & (at >= ends - part.position[:, None])  # (rows, length − 1)
    return reads, part.ids[:, 1:][reads], reads.nonzero()[:, 0]
