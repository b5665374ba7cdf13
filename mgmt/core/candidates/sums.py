"""Keys by number, with the sums of the numbers: where one is, what is before it, and how many reach a sum.

Blocks of some hundred with a sum each: what is asked costs a walk over the blocks and into one of them, some 15 us
where there are fifty thousand, and so does a change. Numbers are whole, so that a sum is the same whichever way it
is added.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate

Key = tuple[str, str, str]
BLOCK = 256
MOST = 1 << 62  # of a number


class Block:
    """Numbers in order, each with its key; the same numbers by key."""

    __slots__ = ("keys", "numbers", "sum")

    def __init__(self, numbers: array[int], keys: list[Key]) -> None:
        self.numbers, self.keys, self.sum = numbers, keys, sum(numbers)

    def at(self, number: int, key: Key) -> int:
        """Where it is, or belongs."""
        place, end = bisect_left(self.numbers, number), len(self.keys)
        while place < end and self.numbers[place] == number and self.keys[place] < key:
            place += 1
        return place

    @property
    def last(self) -> tuple[int, Key]:
        return self.numbers[-1], self.keys[-1]


class Sums:
    """Positive numbers below MOST with a key each, by number, then key; none twice."""

    def __init__(self) -> None:
        self._blocks: list[Block] = []
        self._last: list[tuple[int, Key]] = []  # of each block
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[tuple[int, Key]]:
        for block in self._blocks:
            yield from zip(block.numbers, block.keys, strict=True)

    def add(self, number: int, key: Key) -> None:
        self._count += 1
        if not self._blocks:
            self._blocks, self._last = [Block(array("q", [number]), [key])], [(number, key)]
            return
        where = min(bisect_left(self._last, (number, key)), len(self._blocks) - 1)
        block = self._blocks[where]
        place = block.at(number, key)
        block.numbers.insert(place, number)
        block.keys.insert(place, key)
        block.sum += number
        if len(block.keys) >= 2 * BLOCK:
            later = Block(block.numbers[BLOCK:], block.keys[BLOCK:])
            self._blocks[where : where + 1] = [Block(block.numbers[:BLOCK], block.keys[:BLOCK]), later]
            self._last.insert(where + 1, later.last)
        self._last[where] = self._blocks[where].last

    def remove(self, number: int, key: Key) -> None:
        """One that is there."""
        where = bisect_left(self._last, (number, key))
        block = self._blocks[where]
        place = block.at(number, key)
        del block.numbers[place], block.keys[place]
        block.sum -= number
        self._count -= 1
        if block.keys:
            self._last[where] = block.last
        else:
            del self._blocks[where], self._last[where]

    def up_to(self, number: int, key: Key) -> int:
        """The sum of all up to this one, which is there, and its own."""
        where = bisect_left(self._last, (number, key))
        block = self._blocks[where]
        within = sum(block.numbers[: block.at(number, key) + 1])
        return sum([one.sum for one in self._blocks[:where]]) + within

    def below(self, total: int, key: Key) -> int:
        """How many have (sum up to it, its key) less than these."""
        totals = list(accumulate([block.sum for block in self._blocks]))
        where = bisect_left(totals, total)
        count = sum([len(block.keys) for block in self._blocks[:where]])
        if where == len(totals):
            return count
        block = self._blocks[where]
        left = total - (totals[where] - block.sum)
        reached = list(accumulate(block.numbers))
        within = bisect_left(reached, left)
        # Sums grow with every one, so that at most one reaches exactly this.
        same = reached[within] == left and block.keys[within] < key
        return count + within + same
