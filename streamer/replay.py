"""A file through the live line as fast as it goes, in one thread: what `streamer detect` does."""

import time
from collections.abc import Iterator
from pathlib import Path

from streamer.audio.clock import Clock
from streamer.audio.ring import Ring
from streamer.backends.base import Backend
from streamer.config import Settings
from streamer.core import Message, Reason, Scores, SegmentEnd
from streamer.engine import Engine
from streamer.errors import SourceError
from streamer.line import build_line
from streamer.sources.file import Config, FileSource
from streamer.stats import Stats


def replay(path: Path, settings: Settings, stream_id: str, backend: Backend) -> Iterator[Message]:
    """The messages that stream `stream_id` would publish if it heard the file, beginning now.

    Raises:
        SourceError: the file can't be read; or it breaks off, after everything heard until then was reported.
        ConfigError: rules name labels the model does not know.
    """
    line = build_line(settings, stream_id, backend.spec, Stats(), is_replay=True)
    source = FileSource(Config(path=path, realtime=False))
    info = source.open()
    ring, clock = Ring(4 * info.max_block, info.max_block), Clock(info.sample_rate)
    clock.anchor(0, time.monotonic())
    line.stream.attach(ring, clock, "every")
    outputs: list[Scores | SegmentEnd] = []
    engine = Engine(backend, [line.stream], outputs.append)

    def drain() -> Iterator[Message]:
        while engine.step():
            for output in outputs:
                yield from line.reporter.report(output)
            outputs.clear()

    broken = None
    try:
        for block in source.blocks():
            ring.write(block)
            yield from drain()
    except SourceError as error:
        broken = error
    finally:
        source.close()
    ring.close(Reason.SOURCE_END)
    yield from drain()
    if broken:
        raise broken
