"""When something may be reported: days and hours of the clock on the wall somewhere, summer time and all."""

import re
from datetime import datetime
from typing import Annotated, Any, Literal, get_args
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from pydantic import BaseModel, Field, PrivateAttr, field_validator

from streamer.mistakes import closest
from streamer.rules._options import OPTIONS

Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
DAYS: tuple[Day, ...] = get_args(Day)
HOURS = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-(?:([01]\d|2[0-3]):([0-5]\d)|(24):(00))")


class Schedule(BaseModel):
    """Hours on certain days.

    Hours over midnight, as 22:00-06:00, belong to the day on which they begin; hours that end when they begin are a
    day and a night.
    """

    model_config = OPTIONS

    days: Annotated[list[Day], Field(min_length=1)] = list(DAYS)
    hours: str = "00:00-24:00"
    time_zone: str
    _zone: ZoneInfo = PrivateAttr()
    _span: tuple[int, int] = PrivateAttr()  # minutes of the day

    @field_validator("hours")
    @classmethod
    def _check_hours(cls, hours: str) -> str:
        if not HOURS.fullmatch(hours):
            raise ValueError(f"must be two times of day, as 22:00-06:00, not '{hours}'")
        return hours

    @field_validator("time_zone")
    @classmethod
    def _check_time_zone(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError, OSError):  # OSError: a folder of zones, as 'Europe'
            if not (known := sorted(available_timezones())):
                raise ValueError("this system knows no time zones; run 'pip install tzdata'") from None
            wanted = "give one as Europe/Berlin, America/New_York or UTC"
            raise ValueError(f"unknown time zone '{name}'; {wanted}{closest(name, known)}") from None
        return name

    def model_post_init(self, context: Any) -> None:
        """Look the zone up once, now: it is read from a file."""
        self._zone = ZoneInfo(self.time_zone)
        match = HOURS.fullmatch(self.hours)
        assert match is not None
        begin_hour, begin_minute, end_hour, end_minute = (int(text) for text in match.groups() if text)
        self._span = 60 * begin_hour + begin_minute, 60 * end_hour + end_minute

    def holds(self, moment: datetime) -> bool:
        """Whether `moment`, which knows its zone, lies in these hours."""
        local = moment.astimezone(self._zone)
        now, today = 60 * local.hour + local.minute, local.weekday()
        begin, end = self._span
        if begin < end:
            return begin <= now < end and DAYS[today] in self.days
        return (now >= begin and DAYS[today] in self.days) or (now < end and DAYS[today - 1] in self.days)

    def shown(self, moment: datetime) -> str:
        """`moment` as the clock on that wall shows it: `mon 21:59`."""
        local = moment.astimezone(self._zone)
        return f"{DAYS[local.weekday()]} {local:%H:%M}"
