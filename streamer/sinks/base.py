"""What receives messages: drains an outbox for as long as the process lives."""

from typing import Protocol

from streamer.outbox import Outbox


class Sink(Protocol):
    """A receiver of messages, with its own outbox."""

    async def run(self, outbox: Outbox) -> None:
        """Deliver until the outbox is closed and empty, then return; retry inside, for ever.

        Each message is acknowledged (`outbox.ack`) only after it was delivered.
        """
