"""Training, evaluation and prediction: a program at work on its ranks.

In: a program, a communicator. Out: `Worker`, one rank of a run; `train`, the loop; `gather_tensor`. With `dgraph.program` the place
that knows every room.
"""

from dgraph.train.loop import TrainOptions, train
from dgraph.train.together import gather_tensor
from dgraph.train.worker import Ready, Worker

__all__ = ["Ready", "TrainOptions", "Worker", "gather_tensor", "train"]
