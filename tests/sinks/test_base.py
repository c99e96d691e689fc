import asyncio
import logging

import pytest

from streamer.core import Message
from streamer.payload import to_json
from streamer.sinks.base import LONGEST_WAIT_S, REMIND_S, STABLE_S, Retry


class Clock:
    """Time that passes only when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0
        self.waits: list[float] = []

    def monotonic(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("streamer.sinks.base.time.monotonic", clock.monotonic)
    monkeypatch.setattr("streamer.sinks.base.asyncio.sleep", clock.sleep)
    return clock


def test_waits_grow_to_the_longest_and_never_beyond(clock: Clock) -> None:
    async def scenario() -> None:
        retry = Retry(logging.getLogger("test"))
        for _ in range(2000):
            await retry.failed("down")

    asyncio.run(scenario())
    assert clock.waits[0] <= 0.5
    assert all(LONGEST_WAIT_S / 2 <= wait <= LONGEST_WAIT_S for wait in clock.waits[10:])


def test_an_outage_of_hours_makes_few_lines_and_its_end_one(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        retry = Retry(logging.getLogger("test"))
        retry.succeeded("up")
        clock.now += STABLE_S
        while clock.now < 3 * 3600:
            await retry.failed("down")
        retry.succeeded("up")
        retry.succeeded("up")

    with caplog.at_level(logging.INFO):
        asyncio.run(scenario())
    hours = 3 * 3600 / REMIND_S
    assert caplog.messages[:2] == ["up", "down"]
    assert caplog.messages[-1] == "up"
    assert hours * 0.9 <= caplog.messages.count("down") <= hours + 1


def test_what_works_for_a_moment_only_is_no_end_of_the_outage(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        retry = Retry(logging.getLogger("test"))
        for _ in range(15):
            retry.succeeded("up")
            await retry.failed("down")
        retry.succeeded("up")
        clock.now += STABLE_S + 1   # clear of rounding
        await retry.failed("down")

    with caplog.at_level(logging.INFO):
        asyncio.run(scenario())
    assert clock.waits[14] >= LONGEST_WAIT_S / 2
    assert clock.waits[15] <= 0.5
    assert caplog.messages == ["up", "down", "up", "down"]


def test_two_who_throw_each_other_out_wait_long_and_keep_quiet(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """Each works for as long as the other waits, for ever."""

    async def scenario() -> None:
        retry = Retry(logging.getLogger("test"))
        while clock.now < REMIND_S:
            retry.succeeded("up")
            clock.now += LONGEST_WAIT_S
            await retry.failed("down")

    with caplog.at_level(logging.INFO):
        asyncio.run(scenario())
    assert all(wait >= LONGEST_WAIT_S / 2 for wait in clock.waits[8:])
    assert caplog.messages == ["up", "down", "up"]


def test_json_is_compact_utf8_on_one_line() -> None:
    assert to_json({"a": 1, "ä": "x\ny"}) == '{"a":1,"ä":"x\\ny"}'.encode()


def test_json_has_no_word_for_not_a_number() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        to_json({"score": float("nan")})


def test_json_has_no_word_for_an_object() -> None:
    with pytest.raises(ValueError, match="Object of type object is not JSON serializable"):
        to_json({"score": object()})


def test_what_is_left_out_is_said_once_in_ten_minutes(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    retry = Retry(logging.getLogger("test"))
    for _ in range(7):
        retry.skipped("no level")
        clock.now += REMIND_S / 4
    assert caplog.messages == ["no level"] * 2


def test_what_can_never_be_delivered_is_said_once(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    retry = Retry(logging.getLogger("test"))
    for _ in range(3):
        retry.dropped(Message("mic/event", {}), ValueError("nan"))
    assert caplog.messages == ["a message for 'mic/event' can't be said (nan) and is dropped; report this"]
