"""Everything that can go wrong, as one tree.

    StreamerError
    ├── ConfigError            a mistake in the configuration or the arguments: exit code 2
    ├── SourceError            a sound source can't deliver
    │   ├── DeviceNotFound     no capture device of that name
    │   └── DeviceLost         it was there and went away
    ├── RingOverrun            the reader was too slow; samples are gone
    ├── BackendError           the model can't run
    │   └── BackendTimeout     it did not answer in time
    ├── SinkError              a receiver of events can't take them
    ├── DatabaseError          an SQLite file is not ours to use
    └── CommandError           an order from outside that can't be obeyed

A broken checkpoint raises `models.errors.CheckpointError`; the command line treats it as a `ConfigError`.
A message names the thing, the value, what is allowed and the next step.
"""


class StreamerError(Exception):
    """Base of every error this package raises on purpose."""


class ConfigError(StreamerError):
    """One or more mistakes in the configuration or arguments; `mistakes` holds a sentence each."""

    def __init__(self, *mistakes: str) -> None:
        super().__init__("\n".join(mistakes))
        self.mistakes = mistakes


class SourceError(StreamerError):
    """A sound source can't deliver."""


class DeviceNotFound(SourceError):
    """No capture device answers to that name."""


class DeviceLost(SourceError):
    """A capture device went away or stopped delivering."""


class RingOverrun(StreamerError):
    """The samples asked for were overwritten; `oldest` is the first position still there."""

    def __init__(self, oldest: int) -> None:
        super().__init__(f"samples before position {oldest} were overwritten")
        self.oldest = oldest


class BackendError(StreamerError):
    """The model can't run."""


class BackendTimeout(BackendError):
    """The model did not answer in time."""


class SinkError(StreamerError):
    """A receiver of events can't take them."""


class DatabaseError(StreamerError):
    """An SQLite file is not ours to use."""


class CommandError(StreamerError):
    """An order from outside, as over MQTT, that can't be obeyed."""
