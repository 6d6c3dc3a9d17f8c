"""Untied filters in PyTorch, as one writes them there: unfold, then einsum with filters [O, t, u, C, I, J, y, x].

python tools/bench_unfold_peer.py BATCH GIVEN EXTENT CHANNELS TILE SIZE STRIDE --rank 0 --size 1     as `bench_peer.Peer` starts it
"""

from __future__ import annotations

import argparse

import torch

from bench_peer import answer


def main() -> None:
    """The forward pass, as often as asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("numbers", type=int, nargs=7)
    parser.add_argument("--rank", type=int)
    parser.add_argument("--size", type=int)
    batch, given, extent, channels, tile, size, stride = parser.parse_args().numbers
    torch.set_num_threads(1)
    count = (extent - size) // stride + 1
    images = torch.rand(batch, given, extent, extent)
    filters = torch.rand(channels, tile, tile, given, size, size, count, count)

    @torch.no_grad()
    def step() -> None:
        windows = torch.nn.functional.unfold(images, size, stride=stride)
        windows = windows.view(batch, given, size, size, count, count)
        tiles = torch.einsum("ncijyx,otucijyx->noytxu", windows, filters)
        tiles.reshape(batch, channels, count * tile, count * tile)

    answer(step, {})


if __name__ == "__main__":
    main()
