"""What receives messages: drains an outbox for as long as the process lives."""

import asyncio
import logging
import random
import time
from pathlib import Path
from typing import Annotated, Protocol

from pydantic import Field, FilePath

from streamer.core import Message
from streamer.errors import SinkError
from streamer.outbox import Outbox

FIRST_WAIT_S = 0.5      # a restarting broker is back within a second
LONGEST_WAIT_S = 30.0   # after an outage of hours, events still arrive half a minute after its end
# What works for less than this flaps: keep waiting longer and keep quiet. Longer than any wait, so that two clients who
# throw each other off a broker, each working while the other waits, don't count as stable.
STABLE_S = 2 * LONGEST_WAIT_S
REFUSALS, REFUSALS_S = 10, 60.0     # so many lines in so many seconds: somebody's script may be broken for weeks
REMIND_S = 600.0        # a week's outage makes a thousand log lines, not a million

File = Annotated[FilePath, Field(strict=False)]     # of a configuration: YAML knows no paths, only strings


class Sink(Protocol):
    """A receiver of messages, with its own outbox."""

    async def run(self, outbox: Outbox) -> None:
        """Deliver until the outbox is closed and empty, then return; retry inside, for ever.

        Each message is acknowledged (`outbox.ack`) only after it was delivered.
        """


class Retry:
    """A sink's patience: waits longer after each failure, and says why without flooding the log."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._failures = 0                      # in a row, not counting successes shorter than STABLE_S
        self._works_since: float | None = None
        self._is_news = True                    # that it works: nothing was said yet, or last that it doesn't
        self._refusals: list[float] = []        # when orders were refused lately, and that was said
        self._said: dict[str, float] = {}       # sentence -> when it was logged last

    def succeeded(self, sentence: str) -> None:
        """Note that it works; the first time, and after a failure that was logged, so is `sentence`."""
        if self._works_since is None:
            self._works_since = time.monotonic()
            if self._is_news:
                self._log.info("%s", sentence)
            self._is_news = False

    async def failed(self, sentence: str) -> None:
        """Log `sentence`, unless it was lately, and wait until it makes sense to try again."""
        if self._works_since is not None and time.monotonic() - self._works_since >= STABLE_S:
            self._failures = 0
            self._said.clear()
        self._works_since = None
        self._is_news |= self._say(logging.WARNING, sentence)
        longest = min(FIRST_WAIT_S * 2**min(self._failures, 16), LONGEST_WAIT_S)
        self._failures += 1
        # Jitter: a house full of nodes must not knock in step when the broker is back.
        await asyncio.sleep(longest * random.uniform(0.5, 1.0))  # noqa: S311

    def refused(self, sentence: str) -> None:
        """Say why an order isn't obeyed; of a flood of them only the first."""
        now = time.monotonic()
        self._refusals = [at for at in self._refusals if now - at < REFUSALS_S]
        if len(self._refusals) < REFUSALS:
            self._refusals.append(now)
            is_last = len(self._refusals) == REFUSALS
            more = f". More such orders within {REFUSALS_S:g} s are refused without a word" if is_last else ""
            self._log.warning("%s%s", sentence, more)

    def skipped(self, sentence: str) -> None:
        """Say, unless lately, what was left out while the rest goes on."""
        self._say(logging.WARNING, sentence)

    def dropped(self, message: Message, error: ValueError) -> None:
        """Say, unless lately, that `message` can never be delivered."""
        self._say(logging.ERROR, f"a message for '{message.topic}' can't be said ({error}) and is dropped; report this")

    def _say(self, level: int, sentence: str) -> bool:
        """Log `sentence`, unless it was lately; return whether it was now."""
        now = time.monotonic()
        if now - self._said.get(sentence, -REMIND_S) < REMIND_S:
            return False
        self._said[sentence] = now
        self._log.log(level, "%s", sentence)
        return True


def read_secret(file: Path, key: str) -> bytes:
    """What the file that `key` of a configuration names holds; read anew each time, since it may have been changed.

    Raises:
        SinkError: it can't be read.
    """
    try:
        return file.read_bytes().rstrip(b"\r\n")
    except OSError as error:
        raise SinkError(f"{key} '{file}' can't be read: {error.strerror}") from error
