"""A convolution, the sum of a bias, and perhaps a nonlinearity, in one go.

In: chains that begin with a forward convolution. Out: `Biased`. Promise: nothing lies in memory but the last result; the bias costs
no pass over it, and the nonlinearity none where the result is copied anyway.

    conv + affine           conv + affine + relu, tanh or logistic
"""

from __future__ import annotations

from dataclasses import dataclass

from dgraph.kernels.call import Action, Array, Chain
from dgraph.kernels.numpy.chain import Arrays, assigns, linked
from dgraph.kernels.torch.affine import by_channel
from dgraph.kernels.torch.channel import of_channels
from dgraph.kernels.torch.convolution import Convolution, Ending


@dataclass(frozen=True)
class Biased:
    """The convolution of `kernel`, a bias by channel, and the function of this name; without a name, none."""

    kernel: Convolution
    function: str

    def fits(self, chain: Chain) -> bool:
        """See `Fusion.fits`."""
        convolution, affine, *_ = chain.calls
        plain = assigns(affine, "output", "b") and "a" not in affine.rects and by_channel(affine)
        lasting = all((k, "output") in chain.inner for k in range(len(chain.calls) - 1))
        passed = all(linked(chain, k, input=(k - 1, "output")) for k in range(1, len(chain.calls)))
        assigned = all(assigns(call, "output") for call in chain.calls)
        channels = affine.rects["b"].size[1:2] == affine.rects["output"].size[1:2]
        return plain and lasting and passed and assigned and channels and self.kernel.is_one(convolution)

    def workspace(self, chain: Chain) -> int:
        """See `Fusion.workspace`."""
        return self.kernel.workspace(chain.calls[0])

    def temporary(self, chain: Chain) -> int:
        """Bytes that the library allocates."""
        return self.kernel.temporary(chain.calls[0])

    def bind(self, chain: Chain, arrays: Arrays, scratch: Array) -> Action:
        """See `Fusion.bind`."""
        own = {**arrays[0], "output": arrays[-1]["output"]}
        ending = Ending(of_channels(arrays[1]["b"]), self.function)
        return self.kernel.ended(chain.calls[0], own, scratch, ending)
