"""Hours of rules, as the clock on the wall shows them."""

from datetime import UTC, datetime

import pytest
from pydantic import ValidationError

from streamer.rules._schedule import Schedule

BERLIN = "Europe/Berlin"  # UTC+1; in summer UTC+2: in 2026 from March 29th 02:00 until October 25th 03:00


def schedule(**options: object) -> Schedule:
    return Schedule.model_validate({"time_zone": BERLIN, **options})


@pytest.mark.parametrize(("days", "hours", "utc", "holds"), [
    # on the same day                       # 2026-11-27 is a Friday
    (["fri"], "08:00-17:30", "2026-11-27T06:59", False),
    (["fri"], "08:00-17:30", "2026-11-27T07:00", True),
    (["fri"], "08:00-17:30", "2026-11-27T16:29", True),
    (["fri"], "08:00-17:30", "2026-11-27T16:30", False),
    (["sat"], "08:00-17:30", "2026-11-27T12:00", False),
    # over midnight: they belong to the day on which they begin
    (["fri"], "22:00-06:00", "2026-11-27T21:00", True),
    (["fri"], "22:00-06:00", "2026-11-28T04:59", True),
    (["fri"], "22:00-06:00", "2026-11-28T05:00", False),
    (["fri"], "22:00-06:00", "2026-11-27T04:00", False),
    (["sun"], "22:00-06:00", "2026-11-30T04:00", True),   # Monday morning
    # whole days
    (["fri"], "00:00-24:00", "2026-11-26T23:00", True),
    (["fri"], "00:00-24:00", "2026-11-27T22:59", True),
    (["fri"], "00:00-24:00", "2026-11-27T23:00", False),
    (["fri"], "18:00-24:00", "2026-11-27T22:59", True),
    (["fri"], "18:00-24:00", "2026-11-27T23:00", False),
    (["fri"], "12:00-12:00", "2026-11-27T11:00", True),   # a day and a night
    (["fri"], "12:00-12:00", "2026-11-28T10:59", True),
    (["fri"], "12:00-12:00", "2026-11-28T11:00", False),
    # the clock is put forward from two to three, and back from three to two
    (["sun"], "02:30-04:00", "2026-03-29T00:59", False),  # 01:59
    (["sun"], "02:30-04:00", "2026-03-29T01:00", True),   # 03:00
    (["sun"], "02:30-02:45", "2026-10-25T00:30", True),   # 02:30, and once more
    (["sun"], "02:30-02:45", "2026-10-25T01:00", False),
    (["sun"], "02:30-02:45", "2026-10-25T01:30", True),
    (["fri"], "22:00-06:00", "2026-07-03T20:00", True),   # ten in the evening in summer
])  # fmt: skip
def test_hours(days: list[str], hours: str, utc: str, *, holds: bool) -> None:
    moment = datetime.fromisoformat(utc).replace(tzinfo=UTC)
    assert schedule(days=days, hours=hours).holds(moment) is holds


def test_without_days_and_hours_it_is_always() -> None:
    assert schedule().holds(datetime(2026, 11, 27, 23, 0, tzinfo=UTC))


@pytest.mark.parametrize(("options", "sentence"), [
    ({"hours": "22-6"}, "must be two times of day, as 22:00-06:00, not '22-6'"),
    ({"hours": "22:00-25:00"}, "must be two times of day, as 22:00-06:00, not '22:00-25:00'"),
    ({"hours": "22:00-24:30"}, "must be two times of day, as 22:00-06:00, not '22:00-24:30'"),
    ({"time_zone": "Europe/Berln"},
     ("unknown time zone 'Europe/Berln'; give one as Europe/Berlin, America/New_York or UTC. "
      "Did you mean 'Europe/Berlin'?")),
    ({"time_zone": "../etc/passwd"},
     "unknown time zone '../etc/passwd'; give one as Europe/Berlin, America/New_York or UTC"),
    ({"time_zone": "Europe"},
     ("unknown time zone 'Europe'; give one as Europe/Berlin, America/New_York or UTC. "
      "Did you mean 'Europe/Amsterdam'?")),
])  # fmt: skip
def test_what_is_no_schedule(options: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValidationError) as caught:
        schedule(**options)
    assert [error["msg"] for error in caught.value.errors()] == [f"Value error, {sentence}"]


def test_a_system_without_time_zones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamer.rules._schedule.available_timezones", set)
    with pytest.raises(ValidationError, match="this system knows no time zones; run 'pip install tzdata'"):
        schedule(time_zone="Europe/Nowhere")
