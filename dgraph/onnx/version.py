"""Which ONNX is spoken.

Out: the version of the operator set that models are written in (21: group normalisation with a scale a channel, GELU), the
version of the file's form that goes with it, and the first operator set that is read.
"""

OPSET = 21
IR_VERSION = 10
FIRST_OPSET = 13
