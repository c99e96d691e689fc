"""A recording through the live line as fast as it goes, in one thread: what `streamer detect` does.

A recording is a file of sound, or one of scores that an earlier run saved (`save`): then neither model nor sound is
needed to try other rules on it. Such a file is JSON lines: a header with `format`, the model, its labels and the hop,
then a line for each window, and one where the sound ended.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from models.spec import FbankSpec, ModelSpec
from streamer.audio.clock import Clock
from streamer.audio.ring import Ring
from streamer.backends.base import Backend
from streamer.core import Level, Message, Reason, Scores, SegmentEnd
from streamer.engine import Engine
from streamer.errors import ConfigError, SourceError
from streamer.line import Line, build_line
from streamer.settings import Settings
from streamer.sources.file import Config, FileSource
from streamer.stats import Stats

FORMAT = "streamer-scores"
VERSION = 1
AGAIN = "save it again with 'streamer detect FILE --save-scores'"
Output = Scores | SegmentEnd


@dataclass(frozen=True, slots=True)
class Step:
    """One window, or the end of the sound: the messages it brought, and what each rule has to say about it."""

    end_s: float
    messages: tuple[Message, ...]
    why: Mapping[str, str]
    output: Output


@dataclass(frozen=True, slots=True)
class Header:
    """What saved scores are of: the model, seconds from one window to the next, Hz of the sound, begin since 1970."""

    spec: ModelSpec
    hop_s: float
    source_rate: int
    begins: float


def replay(
    path: Path,
    settings: Settings,
    stream_id: str,
    backend: Callable[[], Backend],
    *,
    at: datetime | None = None,
    save: TextIO | None = None,
) -> Iterator[Step]:
    """What stream `stream_id` would make of the recording.

    Args:
        path: sound, or saved scores.
        settings: the rules, and for sound the hop.
        stream_id: whose rules.
        backend: loads the model; not called for saved scores.
        at: when the recording begins; None: now, or for scores when they say.
        save: gets the scores, for a later replay.

    Raises:
        SourceError: the file can't be read; or it breaks off, after everything heard until then was reported.
        ConfigError: rules name labels the model does not know.
    """
    if is_scores(path):
        if save:
            raise ConfigError(f"{path}: holds scores already; --save-scores is for recordings of sound")
        yield from _scores(path, settings, stream_id, at)
    else:
        yield from _sound(path, settings, stream_id, backend(), at=at, save=save)


def is_scores(path: Path) -> bool:
    """Whether the file holds saved scores; false for what can't be read twice, as pipes."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(64).startswith(f'{{"format":"{FORMAT}"'.encode())


# -- sound -------------------------------------------------------------------------------------------------------------


def _sound(
    path: Path, settings: Settings, stream_id: str, backend: Backend, *, at: datetime | None, save: TextIO | None
) -> Iterator[Step]:
    line = build_line(settings, stream_id, backend.spec, Stats(), is_replay=True)
    with closing(FileSource(Config(path=path, realtime=False))) as source:
        info = source.open()
        ring = Ring(4 * info.max_block, info.max_block)
        begins = time.time() if at is None else at.timestamp()
        line.stream.attach(ring, _clock(info.sample_rate, begins), "every")
        if save:
            write_header(save, backend.spec, settings.streams[stream_id].hop_s, info.sample_rate, begins)
        outputs: list[Output] = []
        engine = Engine(backend, [line.stream], outputs.append)

        def drain() -> Iterator[Step]:
            while engine.step():
                for output in outputs:
                    if save:
                        write_output(save, output)
                    yield _step(line, output)
                outputs.clear()

        broken = None
        try:
            for block in source.blocks():
                ring.write(block)
                yield from drain()
        except SourceError as error:
            broken = error
    ring.close(Reason.SOURCE_END)
    yield from drain()
    if broken:
        raise broken


def _clock(sample_rate: int, begins: float) -> Clock:
    """A clock by which sample 0 was captured at `begins`, in seconds since 1970."""
    clock = Clock(sample_rate, monotonic=lambda: 0.0, utc=lambda: begins)
    clock.anchor(0, 0.0)
    return clock


def _step(line: Line, output: Output) -> Step:
    messages = tuple(line.reporter.report(output))
    rate = line.reporter.info.sample_rate
    if isinstance(output, SegmentEnd):
        return Step(output.at / rate, messages, {}, output)
    why = {name: rule.why for name, rule in line.reporter.rules.items()}
    return Step(output.end / rate, messages, why, output)


# -- scores ------------------------------------------------------------------------------------------------------------


def _scores(path: Path, settings: Settings, stream_id: str, at: datetime | None) -> Iterator[Step]:
    lines = _lines(path)
    header = _understood(*next(lines))
    spec, begins = header.spec, header.begins if at is None else at.timestamp()
    line = _line(path, settings, stream_id, spec, header.hop_s)
    ring = Ring(2, 1)  # nothing is ever written: the scores tell the positions
    line.stream.attach(ring, _clock(header.source_rate, begins), "every")
    line.stream.poll()
    last: Output = SegmentEnd(stream_id, 0, Reason.SOURCE_END)
    broken = None
    try:
        for place, record in lines:
            last = _output(place, record, stream_id, len(spec.labels))
            yield _step(line, last)
    except SourceError as error:
        broken = error
    if isinstance(last, Scores):  # whoever saved them was stopped
        yield _step(line, SegmentEnd(stream_id, last.end, Reason.SOURCE_END))
        seconds = last.end / spec.fbank.sample_rate
        broken = broken or SourceError(f"{path}: breaks off after {seconds:.2f} s of sound; {AGAIN}")
    if broken:
        raise broken


def _line(path: Path, settings: Settings, stream_id: str, spec: ModelSpec, hop_s: float) -> Line:
    """The line that made the scores, with the rules of `settings`."""
    stream = settings.streams[stream_id].model_copy(update={"hop_s": hop_s})
    settings = settings.model_copy(update={"streams": {**settings.streams, stream_id: stream}})
    try:
        return build_line(settings, stream_id, spec, Stats(), is_replay=True)
    except ConfigError as error:
        known = ", ".join(map(repr, spec.labels[:5])) + (" …" if len(spec.labels) > 5 else "")
        raise ConfigError(f"{path}: the rules don't fit its scores of {known}: {error}") from error


def header_of(path: Path) -> Header:
    """What a file of saved scores says of them.

    Raises:
        SourceError: it is none that this streamer knows.
    """
    return _understood(*next(_lines(path)))


def write_header(file: TextIO, spec: ModelSpec, hop_s: float, source_rate: int, begins: float) -> None:
    """Begin a file of scores: of sound at `source_rate` Hz that begins so many seconds after 1970."""
    _write(file, {
        "format": FORMAT, "v": VERSION, "hop_s": hop_s, "source_rate": source_rate, "begins": begins,
        "model": asdict(spec),
    })  # fmt: skip


def write_output(file: TextIO, output: Output) -> None:
    """Add a window's scores, or that the sound ended."""
    _write(file, _record(output))


def _understood(place: str, header: dict[str, Any]) -> Header:
    try:
        return _header(header)
    except (KeyError, TypeError, ValueError) as error:
        raise SourceError(f"{place}: no header of scores that this streamer knows ({error!r}); {AGAIN}") from None


def _header(header: dict[str, Any]) -> Header:
    if header["v"] != VERSION or header["source_rate"] < 1:
        raise ValueError(f"version {header['v']}, {header['source_rate']} Hz")
    model = dict(header["model"])
    fbank = FbankSpec(**model.pop("fbank"))
    spec = ModelSpec(
        labels=tuple(model.pop("labels")), label_ids=tuple(model.pop("label_ids")), fbank=fbank, **model
    )
    return Header(spec, float(header["hop_s"]), int(header["source_rate"]), float(header["begins"]))


def _record(output: Output) -> dict[str, Any]:
    if isinstance(output, SegmentEnd):
        return {"at": output.at, "reason": output.reason.value}
    # As few digits as tell each float32 from its neighbours: read again, the scores are the same.
    scores = [float(str(score)) for score in output.scores]
    return {
        "start": output.start, "end": output.end, "hop": output.hop, "level": asdict(output.level), "scores": scores
    }  # fmt: skip


def _output(place: str, record: dict[str, Any], stream_id: str, n_labels: int) -> Output:
    try:
        if "reason" in record:
            return SegmentEnd(stream_id, int(record["at"]), Reason(record["reason"]))
        scores = np.array(record["scores"], np.float32)
        if scores.shape == (n_labels,) and ((scores >= 0) & (scores <= 1)).all():
            start, end, hop = (int(record[name]) for name in ("start", "end", "hop"))
            return Scores(stream_id, start, end, hop, scores, Level(**record["level"]))
    except (KeyError, TypeError, ValueError):
        pass
    raise SourceError(f"{place}: no scores of {n_labels} labels; {AGAIN}")


def _write(file: TextIO, record: dict[str, Any]) -> None:
    print(json.dumps(record, ensure_ascii=False, separators=(",", ":")), file=file)


def _lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each line's object, with its place."""
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, text in enumerate(file, 1):
            place = f"{path}:{number}"
            try:
                record = json.loads(text)
            except ValueError:
                raise SourceError(f"{place}: not JSON, or broken off; {AGAIN}") from None
            if not isinstance(record, dict):
                raise SourceError(f"{place}: not a line of scores; {AGAIN}")
            yield place, record
