"""An ONNX model to a network."""
