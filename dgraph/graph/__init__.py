"""The dataflow graph: access maps, op and tensor nodes, their order, their printed form."""
