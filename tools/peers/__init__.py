"""Networks written in PyTorch by hand, layer for layer and name for name as in `configs/`: what dgraph's results are compared with.

In: the shape of a sample where a network has linear layers over space, and `divide`, by which every inner channel count is
divided. Out: `torch.nn.Module`s that give scores, or a tuple of the scores of all heads, the main one first. Promise: no model
library, no shortcut: every convolution stands in a constructor, every connection in a `forward`.
"""
