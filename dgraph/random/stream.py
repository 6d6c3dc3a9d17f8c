"""Random words: Philox 4x32-10.

In: a seed, a purpose, a step, and numbers of blocks. Out: four words a block. Promise: words are a function of these alone.

The generator is that of Salmon, Moraes, Dror, Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3". One counter gives four
words, for the four elements whose global C-order index divided by 4 is that counter:

    counter = (block, low word; block, high word; step; seed, high word)      element 4 * block + lane
    key     = (seed, low word; crc32 of the purpose)                          gets word `lane`
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from zlib import crc32

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

ROUNDS = 10
MASK = np.uint64(0xFFFFFFFF)
HALF = np.uint64(32)
FACTORS = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
WEYL = 0x9E3779B9, 0xBB67AE85


@dataclass(frozen=True)
class Stream:
    """One sequence of values: what Philox gets besides the block.

    Raises ValueError for a seed outside 0 .. 2**64 - 1 or a step outside 0 .. 2**32 - 1.
    """

    seed: int
    purpose: str
    step: int = 0

    def __post_init__(self) -> None:
        if not (0 <= self.seed < 1 << 64 and 0 <= self.step < 1 << 32):
            raise ValueError(f"seed {self.seed} or step {self.step} is out of range")

    def words(self, block: Array) -> Array:
        """The words of these blocks (int64 [counter]), as uint64 [4, counter]."""
        words, products = np.empty((4, block.size), np.uint64), np.empty((2, block.size), np.uint64)
        self.fill(block, words, products)
        return words

    def fill(self, block: Array, words: Array, products: Array) -> None:
        """The same into an array; `products`, uint64 [2, counter], is room to work in."""
        np.bitwise_and(block.view(np.uint64), MASK, out=words[0])
        np.right_shift(block.view(np.uint64), HALF, out=words[1])
        words[2], words[3] = self.step, self.seed >> 32
        philox(words, (self.seed & 0xFFFFFFFF, crc32(self.purpose.encode())), products)


def philox(words: Array, key: tuple[int, int], products: Array) -> None:
    """Philox 4x32-10, in place, on counters uint64 [4, counter] that hold 32-bit words; `products` [2, counter] is room."""
    a, b, c, d = words
    low, high = products
    for turn in range(ROUNDS):
        np.multiply(a, FACTORS[0], out=low)
        np.multiply(c, FACTORS[1], out=high)
        for product, target, other, word in ((high, a, b, 0), (low, c, d, 1)):
            np.right_shift(product, HALF, out=target)
            np.bitwise_xor(target, other, out=target)
            np.bitwise_xor(target, np.uint64((key[word] + turn * WEYL[word]) & 0xFFFFFFFF), out=target)
        np.bitwise_and(high, MASK, out=b)
        np.bitwise_and(low, MASK, out=d)


def permutation(seed: int, purpose: str, epoch: int, n: int) -> Array:
    """A permutation of 0 .. n - 1, int64 [n]: the order of n random 64-bit keys."""
    words = Stream(seed, purpose, epoch).words(np.arange((n + 1) // 2))
    keys = np.empty((words.shape[1], 2), np.uint64)
    for half in (0, 1):
        keys[:, half] = words[2 * half] << HALF | words[2 * half + 1]
    return np.argsort(keys.ravel()[:n], kind="stable")
