"""dgraph: a distributed dataflow-graph runtime with tiled tensors."""
