"""The child process that talks to PortAudio, apart from ours so that a PortAudio that hangs or spins can be killed.

In: a `Request` as JSON in the only argument; standard input, whose end says that the parent is gone.
Out, on standard output: frames, each a HEADER and its payload. One HELLO or ERROR (JSON) comes first, then BLOCKs
(float32, mono). The only file that knows sounddevice; importing it does not need PortAudio.
"""

import contextlib
import json
import os
import queue
import re
import select
import signal
import struct
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any, BinaryIO

from streamer.core import Samples
from streamer.errors import DeviceNotFound, SourceError
from streamer.sources.base import Channel, mono

HEADER = struct.Struct("<4sBBId")  # MAGIC, Kind, is_overflow, bytes of payload, monotonic s at its first sample
MAGIC = b"strm"
BLOCK_S = 0.03  # fixed: with PortAudio's choice blocks have odd sizes of 1 to 139 samples
MAX_LATENCY_S = 5.0  # drivers that state a longer one, or a negative one, do not know
MAX_MIX = 8  # more channels than this are a sound server's invention: mix the first two
QUEUE_BLOCKS = 300  # 9 s; the parent never sleeps that long
WATCH_S = 1.0  # how soon we notice a parent that went without closing our standard input
SYSFS = Path("/sys/class/sound")
HW = re.compile(r"\(hw:(\d+),(\d+)\)")  # ALSA's card number, which changes from boot to boot

INSTALL = "install it: apt install libportaudio2 (Debian, Ubuntu), dnf install portaudio, brew install portaudio"


class Kind(IntEnum):
    """What a frame holds."""

    HELLO = 1
    ERROR = 2
    BLOCK = 3


@dataclass(frozen=True, slots=True)
class Request:
    """What the parent wants captured; with `device` None, the list of devices."""

    device: str | None = None
    channel: Channel = "mix"
    sample_rate: int | None = None


@dataclass(frozen=True, slots=True)
class Device:
    """A capture device at its own rate, Hz.

    `id` stays the same over restarts, in the same socket; `index` is PortAudio's and of this moment.
    """

    id: str
    name: str
    host_api: str
    sample_rate: int
    channels: int
    is_default: bool
    index: int


def choose(devices: Sequence[Device], wanted: str) -> Device:
    """The device meant by `wanted`: 'default', an id, a name, or a part of one name in any case; never merely similar.

    Raises:
        DeviceNotFound: there is none.
        SourceError: there are several.
    """
    known = ", ".join(f"{device.name} (id {device.id})" for device in devices) or "none"
    if wanted == "default":
        attempts = [[device for device in devices if device.is_default]]
    else:
        attempts = [
            [device for device in devices if device.id == wanted],
            [device for device in devices if device.name == wanted],
            [device for device in devices if wanted.casefold() in device.name.casefold()],
        ]
    for matches in attempts:
        if len(matches) > 1:
            which = ", ".join(f"{device.name} (id {device.id})" for device in matches)
            raise SourceError(f"microphone '{wanted}' may be any of: {which}; use one of the ids")
        if matches:
            return matches[0]
    if wanted == "default":
        raise DeviceNotFound(f"no default microphone; known: {known}; plug one in, or start the sound server")
    raise DeviceNotFound(f"microphone '{wanted}' not found; known: {known}; run 'streamer devices'")


def stable_id(host_api: str, name: str, sysfs: Path = SYSFS) -> str:
    """`alsa/yeti-usb-audio/1-1.4:1.0,0`: host API, name, and the socket it sits in, where the kernel tells."""
    parts = [re.sub(r"\W+", "-", part.casefold()).strip("-") for part in (host_api, HW.sub("", name))]
    if card := HW.search(name):
        parts.append(f"{_card_place(sysfs / f'card{card[1]}') or f'hw:{card[1]}'},{card[2]}")
    return "/".join(parts)


def _card_place(card: Path) -> str | None:
    """Where a card is plugged in, as `1-1.4:1.0` (USB) or `0000:00:1f.3` (PCI); else its own short name."""
    if (card / "device").exists():
        return (card / "device").resolve().name
    with contextlib.suppress(OSError):
        return (card / "id").read_text().strip()
    return None


def numbered(ids: Sequence[str]) -> list[str]:
    """All different: those that several share as `x#1of2`, so that with one gone none is taken for it."""
    counts, seen = Counter(ids), Counter[str]()
    found = []
    for each in ids:
        seen[each] += 1
        found.append(f"{each}#{seen[each]}of{counts[each]}" if counts[each] > 1 else each)
    return found


def _portaudio() -> Any:
    try:
        import sounddevice
    except ImportError as error:
        raise SourceError("microphones need the Python package sounddevice; pip install sounddevice") from error
    except OSError as error:
        raise SourceError(f"microphones need the library PortAudio; {INSTALL}") from error
    return sounddevice


def devices() -> list[Device]:
    """All capture devices of this machine. May hang with the sound server: call it in a child process."""
    sd = _portaudio()
    apis = [api["name"] for api in sd.query_hostapis()]
    default = None
    with contextlib.suppress(sd.PortAudioError, ValueError):  # there is none
        default = sd.query_devices(kind="input")["index"]
    infos = [(index, info) for index, info in enumerate(sd.query_devices()) if info["max_input_channels"] > 0]
    ids = numbered([stable_id(apis[info["hostapi"]], info["name"]) for _, info in infos])
    found = []
    for device_id, (index, info) in zip(ids, infos, strict=True):
        api, name = apis[info["hostapi"]], info["name"]
        rate, channels = round(info["default_samplerate"]), info["max_input_channels"]
        found.append(Device(device_id, name, api, rate, channels, index == default, index))
    return found


def captured_at(now: float, current: float, adc: float, block_s: float) -> float:
    """Monotonic time at which a block's first sample was captured, told `now` in its callback.

    Args:
        now: monotonic seconds.
        current: the driver's clock now, seconds.
        adc: the driver's clock when the first sample was at the converter; 0 or nonsense from some drivers.
        block_s: the block's duration: it can't be any newer than that.
    """
    latency = current - adc
    return now - (latency if adc > 0 and block_s <= latency <= MAX_LATENCY_S else block_s)


class Capture:
    """One open input stream and the queue behind its callback; PortAudio's thread calls `_on_block`."""

    def __init__(self, request: Request) -> None:
        sd = _portaudio()
        self.device = device = choose(devices(), request.device or "default")
        self.sample_rate = request.sample_rate or device.sample_rate
        self.max_block = max(1, round(self.sample_rate * BLOCK_S))
        self._channel = request.channel
        self._blocks: queue.SimpleQueue[tuple[float, bool, Samples] | None] = queue.SimpleQueue()
        self._has_dropped = False
        try:
            self._stream = sd.InputStream(
                device=device.index,
                samplerate=self.sample_rate,
                blocksize=self.max_block,
                channels=_n_channels(device, request.channel),
                dtype="float32",
                callback=self._on_block,
                finished_callback=lambda: self._blocks.put(None),
            )
            self._stream.start()
        except sd.PortAudioError as error:
            raise SourceError(
                f"microphone '{device.name}' can't be opened at {self.sample_rate} Hz: {error}; is it in use, is the "
                f"sound server running? Its own rate is {device.sample_rate} Hz (leave sample_rate out)"
            ) from error

    def _on_block(self, indata: Samples, n: int, times: Any, status: Any) -> None:
        """Put a copy into the queue; when that is full, drop the block and say so with the next one."""
        now = time.monotonic()
        if self._blocks.qsize() >= QUEUE_BLOCKS:
            self._has_dropped = True
            return
        captured = captured_at(now, times.currentTime, times.inputBufferAdcTime, n / self.sample_rate)
        self._blocks.put((captured, status.input_overflow or self._has_dropped, indata.copy()))
        self._has_dropped = False

    def send(self, out: BinaryIO) -> None:
        """Write HELLO, then blocks until the stream ends or the parent goes."""
        description = f"{self.device.name} (id {self.device.id}), {self.sample_rate} Hz"
        hello = {"sample_rate": self.sample_rate, "max_block": self.max_block, "description": description}
        _write(out, Kind.HELLO, json.dumps(hello).encode())
        while (block := self._blocks.get()) is not None:
            captured, is_overflow, samples = block
            _write(out, Kind.BLOCK, mono(samples, self._channel).tobytes(), captured, is_overflow)


def _n_channels(device: Device, channel: Channel) -> int:
    """How many channels to open."""
    if channel == "mix":
        return device.channels if device.channels <= MAX_MIX else 2
    if channel > device.channels:
        allowed = f"choose 1 to {device.channels}, or mix"
        raise SourceError(f"microphone '{device.name}' has no channel {channel}; it has {device.channels}: {allowed}")
    return channel


def _write(out: BinaryIO, kind: Kind, payload: bytes, captured: float = 0.0, is_overflow: bool = False) -> None:
    out.write(HEADER.pack(MAGIC, kind, is_overflow, len(payload), captured) + payload)
    out.flush()


def _watch_parent(parent: int) -> None:
    """End this process when the parent's is gone, whatever PortAudio is doing."""
    while os.getppid() == parent:
        is_readable, _, _ = select.select([0], [], [], WATCH_S)
        if is_readable and not os.read(0, 1):
            break
    os._exit(0)


def _serve(out: BinaryIO, request: Request) -> None:
    try:
        if request.device is None:
            _write(out, Kind.HELLO, json.dumps([asdict(device) for device in devices()]).encode())
        else:
            Capture(request).send(out)
    except SourceError as error:
        _write(out, Kind.ERROR, json.dumps({"error": type(error).__name__, "sentence": str(error)}).encode())


def main() -> None:
    """Serve one request and end, without PortAudio's own clean-up: it can hang."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then ends us
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    threading.Thread(target=_watch_parent, args=(os.getppid(),), daemon=True).start()
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what C libraries print must not get between our frames
    try:
        _serve(out, Request(**json.loads(sys.argv[1])))
    except BrokenPipeError:
        os._exit(0)
    except Exception:  # noqa: BLE001 -- the interpreter's own handling would run PortAudio's clean-up
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


if __name__ == "__main__":
    main()
