"""What other systems call things: words for a hint where an unknown key or kind has a name of its own here.

In: nothing. Out: a table, word -> the words that may be meant. Promise: only words that this network language does not have;
case, `_` and `-` of the word do not matter.
"""

from __future__ import annotations

from collections.abc import Mapping

_WORDS: Mapping[str, str] = {
    "add": "sum plus eltwise residual",
    "concat": "cat concatenate",
    "conv": "conv1d conv2d conv3d convolution",
    "conv_transpose": "deconv deconvolution transposedconv convtranspose2d convtranspose3d upconv",
    "linear": "dense fc fullyconnected innerproduct",
    "average_pool": "avgpool avgpool2d meanpool",
    "max_pool": "maxpool2d maxpool3d",
    "global_average_pool": "gap globalavgpool adaptiveavgpool",
    "local_response_norm": "lrn",
    "batch_norm": "bn batchnorm1d batchnorm2d batchnorm3d batchnormalization",
    "batch": "batchnorm batchsize minibatch bn",
    "multiply": "mul product",
    "reshape": "view",
    "transpose": "permute",
    "upsample": "resize interpolate upsampling",
    "cross_entropy": "ce softmaxcrossentropy categoricalcrossentropy",
    "binary_cross_entropy": "bce bcewithlogits bceloss",
    "negative_log_likelihood": "nll nllloss",
    "squared_error": "mse mseloss meansquarederror",
    "half_squared_norm": "l2 l2loss",
    "absolute_error": "mae l1 l1loss meanabsoluteerror",
    "huber": "smoothl1 smoothl1loss",
    "logistic": "sigmoid",
    "threshold": "heaviside step",
    "silu": "swish",
    "leaky_relu": "lrelu",
    "identity": "none linear",
    "he": "kaiming msra",
    "xavier": "glorot",
    "zero": "zeros",
    "normal": "gaussian",
    "size": "kernel kernelsize filtersize ksize n",
    "channels": "filters outchannels numoutput",
    "features": "units outfeatures hidden",
    "padding": "pad pads",
    "groups": "numgroups",
    "count_padding": "countincludepad",
    "epsilon": "eps",
    "deviation": "std stddev sigma",
    "slope": "negativeslope alpha",
    "rate": "p prob probability lr learningrate",
    "axis": "dim",
    "order": "perm dims",
    "nonlinearity": "activation",
    "smoothing": "labelsmoothing",
    "weight": "lossweight coefficient",
    "classes": "numclasses",
    "init": "initializer initialization",
    "input": "bottom",
    "sgd": "momentum nesterov",
}


def plain(word: str) -> str:
    """A word as the table has it."""
    return word.lower().replace("_", "").replace("-", "")


ELSEWHERE: Mapping[str, tuple[str, ...]] = {
    word: tuple(here for here, words in _WORDS.items() if word in words.split())
    for words in _WORDS.values()
    for word in words.split()
}
