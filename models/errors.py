"""What can go wrong with models, each as one sentence that says what to do.

    ModelError
    ├── CheckpointError   a checkpoint is missing, broken, or does not fit
    └── DataError         recordings or their labels can't be learned from

A message names the thing, the value, what is allowed and the next step.
"""


class ModelError(Exception):
    """Root of the errors of `models`."""


class CheckpointError(ModelError):
    """A checkpoint is missing, broken, or does not fit."""


class DataError(ModelError):
    """Recordings or their labels can't be learned from."""
