"""A network to an ONNX model."""
