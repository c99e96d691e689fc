import asyncio
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.core import Message
from streamer.outbox import Outbox


def event(number: int, topic: str = "mic/event") -> Message:
    return Message(topic, {"id": number, "replayed": False})


def state(value: str, topic: str = "mic/status") -> Message:
    return Message(topic, value, retain=True)


def reading(value: str, topic: str = "mic/level") -> Message:
    return Message(topic, value, qos=0)


def drain(outbox: Outbox, *, ack: bool = True) -> list[Message]:
    """What a sink gets from the outbox until it is closed and empty; closes it."""
    outbox.close()

    async def collect() -> list[Message]:
        got = []
        while (message := await outbox.get()) is not None:
            got.append(message)
            if ack:
                outbox.ack(message)
        return got

    return asyncio.run(collect())


def filled(*messages: Message, max_events: int = 10_000) -> Outbox:
    outbox = Outbox(max_events)
    for message in messages:
        outbox.put(message)
    return outbox


@pytest.mark.parametrize(
    ("put", "got"),
    [
        ([event(1), event(2), event(3)], [event(1), event(2), event(3)]),
        ([state("online"), state("stalled")], [state("stalled")]),
        ([state("a", "x"), state("b", "y"), state("c", "x")], [state("c", "x"), state("b", "y")]),
        ([reading("-40"), reading("-30")], [reading("-30")]),
        ([reading("-40"), event(1), state("online")], [state("online"), event(1), reading("-40")]),
        ([Message("s", "x", qos=0, retain=True)] * 2, [Message("s", "x", qos=0, retain=True)]),
    ],
)
def test_what_is_put_comes_out_as_its_kind_demands(put: list[Message], got: list[Message]) -> None:
    assert drain(filled(*put)) == got


def test_an_event_got_but_not_acknowledged_comes_again_after_resync_marked_replayed() -> None:
    outbox = filled(event(1), event(2))
    assert drain(outbox, ack=False) == [event(1), event(2)]
    outbox.put(event(3))
    outbox.resync()
    assert [m.payload for m in drain(outbox)] == [{"id": n, "replayed": True} for n in (1, 2, 3)]
    assert outbox.pending == 0


def test_an_event_put_on_the_connection_that_delivers_it_is_not_replayed() -> None:
    outbox = filled(event(1))
    outbox.resync()
    outbox.put(event(2))
    assert [m.payload for m in drain(outbox)] == [{"id": 1, "replayed": True}, {"id": 2, "replayed": False}]


def test_replay_leaves_a_payload_without_the_key_and_the_callers_mapping_alone() -> None:
    plain, text, marked = Message("e", {"id": 1}), Message("e", "text"), event(2)
    outbox = filled(plain, text, marked)
    outbox.resync()
    assert drain(outbox)[:2] == [plain, text]
    assert marked == event(2)


def test_replayed_are_those_there_at_the_last_resync_also_when_the_oldest_are_dropped() -> None:
    outbox = filled(event(1), event(2), event(3), max_events=3)
    outbox.resync()
    outbox.put(event(4))
    outbox.put(event(5))
    assert [(m.payload["id"], m.payload["replayed"]) for m in drain(outbox, ack=False)] == [
        (3, True), (4, False), (5, False),
    ]
    outbox.resync()
    assert [(m.payload["id"], m.payload["replayed"]) for m in drain(outbox)] == [(3, True), (4, True), (5, True)]
    assert outbox.pending == 0


def test_resync_brings_every_state_again_and_drops_readings() -> None:
    outbox = filled(state("online"), state("ON", "mic/alarm/state"))
    assert len(drain(outbox)) == 2
    outbox.put(reading("-40"))
    outbox.put(state("OFF", "mic/alarm/state"))
    outbox.resync()
    assert drain(outbox) == [state("online"), state("OFF", "mic/alarm/state")]


def test_it_knows_every_state_that_was_ever_put_and_nothing_else() -> None:
    outbox = filled(state("online"), event(1), reading("-40"))
    drain(outbox)
    assert [outbox.knows(topic) for topic in ("mic/status", "mic/event", "mic/level")] == [True, False, False]


def test_a_full_outbox_drops_the_oldest_event_and_counts() -> None:
    outbox = filled(*(event(n) for n in range(5)), max_events=3)
    assert (outbox.dropped, outbox.pending) == (2, 3)
    assert drain(outbox) == [event(2), event(3), event(4)]


def test_a_full_outbox_spares_the_event_on_its_way() -> None:
    async def scenario() -> Message | None:
        outbox = filled(event(1), event(2), max_events=2)
        on_its_way = await outbox.get()
        outbox.put(event(3))
        assert outbox.pending == 2
        outbox.resync()
        return on_its_way if (await outbox.get()) == Message("mic/event", {"id": 1, "replayed": True}) else None

    assert asyncio.run(scenario()) == event(1)


def test_acknowledging_twice_or_what_is_no_event_changes_nothing() -> None:
    outbox = filled(event(1), event(1), state("online"), reading("-40"))
    for message in drain(outbox, ack=False):
        outbox.ack(message)
        outbox.ack(message)
    assert outbox.pending == 0
    outbox.resync()
    assert drain(outbox) == [state("online")]


@pytest.mark.parametrize(("wake", "got"), [(lambda box: box.put(event(1)), event(1)), (Outbox.close, None)])
def test_get_waits(wake: object, got: Message | None) -> None:
    async def scenario() -> Message | None:
        outbox = Outbox()
        waiting = asyncio.create_task(outbox.get())
        await asyncio.sleep(0)
        assert not waiting.done()
        assert callable(wake)
        wake(outbox)
        return await asyncio.wait_for(waiting, 5)

    assert asyncio.run(scenario()) == got


def test_a_cancelled_get_takes_nothing() -> None:
    async def scenario() -> None:
        outbox = Outbox()
        waiting = asyncio.create_task(outbox.get())
        await asyncio.sleep(0)
        outbox.put(event(1))
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert await outbox.get() == event(1)

    asyncio.run(scenario())


@dataclass
class Line:
    """An outbox, its sink, and a broker that keeps nothing when the connection is lost."""

    outbox: Outbox
    is_up: bool = True
    put: list[int] = field(default_factory=list)
    got: list[int] = field(default_factory=list)
    acked: list[int] = field(default_factory=list)
    newest: dict[str, str] = field(default_factory=dict)
    states: dict[str, str] = field(default_factory=dict)

    def event(self, n: int) -> None:
        self.outbox.put(event(n))
        self.put.append(n)

    def state(self, n: int, topic: str) -> None:
        self.outbox.put(state(str(n), topic))
        self.newest[topic] = str(n)

    def reconnect(self) -> None:
        self.is_up = True
        self.states.clear()
        self.got = list(self.acked)
        self.outbox.resync()

    async def deliver(self, *, ack: bool) -> bool:
        """Take the next message across; False when there was none. Not acknowledged means that the connection broke."""
        self.outbox.put(reading("end", "end"))      # leaves last, so there is always one
        message = await self.outbox.get()
        assert message is not None
        if message.retain:
            self.states[message.topic] = str(message.payload)
        elif isinstance(message.payload, dict):
            assert message.payload["id"] not in self.acked
            self.got.append(message.payload["id"])
            if ack:
                self.outbox.ack(message)
                self.acked.append(message.payload["id"])
        self.is_up = ack
        return message.topic != "end"

    async def do(self, action: str, n: int) -> None:
        if action == "event":
            self.event(n)
        elif action in {"alarm", "status"}:
            self.state(n, action)
        elif action == "reconnect":
            self.reconnect()
        elif self.is_up:
            await self.deliver(ack=action == "deliver")


ACTIONS = st.lists(st.sampled_from(["event", "alarm", "status", "deliver", "break", "reconnect"]), max_size=60)


@given(ACTIONS, st.integers(1, 6))
def test_whatever_happens_events_arrive_in_order_and_states_are_the_newest(actions: list[str], bound: int) -> None:
    async def scenario() -> None:
        line = Line(Outbox(bound))
        for n, action in enumerate(actions):
            await line.do(action, n)
            assert line.got == sorted(set(line.got))
            assert line.outbox.pending <= bound
        line.reconnect()
        while await line.deliver(ack=True):
            pass
        assert line.got == line.acked == sorted(set(line.got))
        assert len(line.put) == len(line.acked) + line.outbox.dropped
        assert line.put[-1:] == line.acked[-1:] or bound == 1
        assert line.states == line.newest
        assert line.outbox.pending == 0

    asyncio.run(scenario())


def test_an_overflow_is_said_once_until_all_was_delivered(caplog: pytest.LogCaptureFixture) -> None:
    outbox = Outbox(2, sink="mqtt")
    for _ in range(2):
        for number in range(9):
            outbox.put(event(number))

        async def deliver() -> None:
            while outbox.pending:
                message = await outbox.get()
                assert message is not None
                outbox.ack(message)

        asyncio.run(deliver())
    said = "sink mqtt: over 2 events or 16.0 MB wait for it; from now on the oldest are dropped"
    assert (outbox.dropped, caplog.messages) == (14, [said, said])


def test_an_event_that_waited_long_for_its_receiver_is_a_replay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamer.outbox.LATE_S", -1.0)
    assert [message.payload for message in drain(filled(event(1)))] == [{"id": 1, "replayed": True}]
