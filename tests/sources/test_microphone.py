"""Microphones without hardware: which device is meant, and everything between PortAudio and the ring.

The capture child runs for real, with `portaudio/sounddevice.py` in place of sounddevice.
"""

import errno
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from streamer.audio.clock import Clock
from streamer.audio.ring import Ring
from streamer.core import Reason
from streamer.errors import DeviceNotFound, SourceError
from streamer.sources import microphone
from streamer.sources._capture import MAX_LATENCY_S, Device, Request, captured_at, choose, numbered, stable_id
from streamer.sources.microphone import Config, Microphone
from tests.fakes import wait_for

PORTAUDIO = Path(__file__).parent / "portaudio"
CHECKOUT = Path(__file__).parents[2]  # whose capture child it is, wherever the package is installed from
N = 1200  # samples the stand-in delivers: 5 blocks of 30 ms at 8000 Hz
RAMP = np.arange(N, dtype=np.float32) * np.float32(2**-12)


def device(device_id: str, name: str, is_default: bool = False) -> Device:
    return Device(device_id, name, "ALSA", 48000, 1, is_default, 0)


BUILT_IN = device("alsa/built-in", "Built-in", is_default=True)
YETI = device("alsa/yeti/1-1.4:1.0,0", "Yeti: USB Audio (hw:1,0)")
TWIN_1 = device("alsa/cam/1-1.1:1.0,0", "Cam (hw:2,0)")
TWIN_2 = device("alsa/cam/1-1.2:1.0,0", "Cam (hw:3,0)")
SAME = device("alsa/cam#1of2", "Camera"), device("alsa/cam#2of2", "Camera")


@pytest.mark.parametrize(
    ("wanted", "devices", "chosen"),
    [
        ("default", [YETI, BUILT_IN], BUILT_IN),
        ("alsa/yeti/1-1.4:1.0,0", [BUILT_IN, YETI], YETI),
        ("Built-in", [YETI, BUILT_IN], BUILT_IN),
        ("yeti", [BUILT_IN, YETI], YETI),
        ("Cam (hw:3,0)", [TWIN_1, TWIN_2], TWIN_2),
        ("alsa/cam#2of2", SAME, SAME[1]),
        ("Yeti", [device("a", "Yeti"), device("b", "Yeti Nano")], device("a", "Yeti")),  # exact before part
    ],
)
def test_choose(wanted: str, devices: list[Device], chosen: Device) -> None:
    assert choose(devices, wanted) == chosen


@pytest.mark.parametrize(
    ("wanted", "devices", "sentence"),
    [
        (
            "usb2",
            [BUILT_IN, YETI],
            (
                "microphone 'usb2' not found; known: Built-in (id alsa/built-in), "
                "Yeti: USB Audio (hw:1,0) (id alsa/yeti/1-1.4:1.0,0); run 'streamer devices'"
            ),
        ),
        ("usb2", [], "microphone 'usb2' not found; known: none; run 'streamer devices'"),
        (
            "default",
            [YETI],
            (
                "no default microphone; known: Yeti: USB Audio (hw:1,0) (id alsa/yeti/1-1.4:1.0,0); "
                "plug one in, or start the sound server"
            ),
        ),
    ],
)
def test_a_missing_device_is_never_replaced_by_another(wanted: str, devices: list[Device], sentence: str) -> None:
    with pytest.raises(DeviceNotFound, match=f"^{re.escape(sentence)}$"):
        choose(devices, wanted)


@pytest.mark.parametrize(("wanted", "devices"), [("cam", [TWIN_1, TWIN_2, YETI]), ("Camera", [*SAME, YETI])])
def test_an_ambiguous_name_is_refused(wanted: str, devices: list[Device]) -> None:
    which = ", ".join(f"{device.name} (id {device.id})" for device in devices[:2])
    sentence = f"microphone '{wanted}' may be any of: {which}; use one of the ids"
    with pytest.raises(SourceError, match=f"^{re.escape(sentence)}$"):
        choose(devices, wanted)


def test_an_id_names_the_socket_not_the_boot_order(tmp_path: Path) -> None:
    (tmp_path / "devices/usb1/1-1.4/1-1.4:1.0").mkdir(parents=True)
    for number in (1, 5):
        (tmp_path / f"card{number}").mkdir()
        (tmp_path / f"card{number}/device").symlink_to("../devices/usb1/1-1.4/1-1.4:1.0")
    (tmp_path / "card2").mkdir()
    (tmp_path / "card2/id").write_text("Loopback\n")
    before = stable_id("ALSA", "Yeti: USB Audio (hw:1,0)", tmp_path)
    assert before == "alsa/yeti-usb-audio/1-1.4:1.0,0"
    assert stable_id("ALSA", "Yeti: USB Audio (hw:5,0)", tmp_path) == before
    assert stable_id("ALSA", "Loopback: PCM (hw:2,1)", tmp_path) == "alsa/loopback-pcm/Loopback,1"
    assert stable_id("ALSA", "Odd (hw:3,0)", tmp_path) == "alsa/odd/hw:3,0"
    assert stable_id("Core Audio", "Mikrofon für Möwen", tmp_path) == "core-audio/mikrofon-für-möwen"


@pytest.mark.parametrize(
    ("current", "adc", "latency_s"),
    [
        (1000.0, 999.8, 0.2),
        (1000.0, 0.0, 0.03),  # the driver does not say
        (1000.0, 1001.0, 0.03),  # later than now
        (1000.0, 999.99, 0.03),  # newer than the block is long
        (1000.0, 1000.0 - MAX_LATENCY_S - 1, 0.03),
    ],
)
def test_capture_time_comes_from_the_converter_unless_that_is_nonsense(
    current: float, adc: float, latency_s: float
) -> None:
    assert captured_at(50.0, current, adc, 0.03) == pytest.approx(50.0 - latency_s)


@given(st.floats(allow_nan=True), st.floats(allow_nan=True))
def test_capture_time_is_sane_whatever_the_driver_says(current: float, adc: float) -> None:
    assert 50.0 - MAX_LATENCY_S <= captured_at(50.0, current, adc, 0.03) <= 50.0 - 0.03


Plot = Callable[[str], None]


@pytest.fixture
def plot(monkeypatch: pytest.MonkeyPatch) -> Plot:
    """`plot(name)` decides what PortAudio does in the next child."""
    monkeypatch.setenv("PYTHONPATH", f"{PORTAUDIO}{os.pathsep}{CHECKOUT}")
    monkeypatch.setenv("FAKE_PORTAUDIO", "well")
    return lambda name: monkeypatch.setenv("FAKE_PORTAUDIO", name)


@pytest.fixture
def mic(plot: Plot) -> Iterator[Microphone]:
    plot("well")
    source = Microphone(Config())
    yield source
    source.close()


def start(source: Microphone) -> tuple[Ring, Clock]:
    info = source.open()
    ring, clock = Ring(10 * N, info.max_block), Clock(info.sample_rate)
    source.start(ring, clock)
    return ring, clock


@pytest.mark.usefixtures("plot")
def test_lists_the_capture_devices() -> None:
    assert microphone.devices() == [
        Device("alsa/built-in", "Built-in", "ALSA", 8000, 2, True, 1),
        Device("alsa/yeti", "Yeti", "ALSA", 8000, 1, False, 2),
    ]


@pytest.mark.parametrize(("ids", "expected"), [
    ("a b", "a b"),
    ("a b a", "a#1of2 b a#2of2"),
    ("a a a", "a#1of3 a#2of3 a#3of3"),  # with one gone all are: none passes to another device
])  # fmt: skip
def test_ids_that_devices_share_are_numbered(ids: str, expected: str) -> None:
    assert numbered(ids.split()) == expected.split()


def test_the_twin_of_a_microphone_that_is_unplugged_does_not_take_its_place(plot: Plot) -> None:
    plot("twins")
    twins = [device.id for device in microphone.devices()[1:]]
    assert twins == ["alsa/yeti#1of2", "alsa/yeti#2of2"]
    plot("well")
    for twin in twins:
        with pytest.raises(DeviceNotFound, match=rf"^microphone '{twin}' not found; known: .*Yeti \(id alsa/yeti\)"):
            Microphone(Config(device=twin)).open()


def test_says_what_it_opened(mic: Microphone) -> None:
    info = mic.open()
    assert (info.sample_rate, info.max_block, info.is_live) == (8000, 240, True)
    assert info.description == "Built-in (id alsa/built-in), 8000 Hz"


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (Config(), (RAMP + np.float32(0.5)) / 2),
        (Config(channel=1), RAMP),
        (Config(channel=2), np.full(N, 0.5)),
        (Config(device="Yeti"), np.full(N, 0.25)),
    ],
)
@pytest.mark.usefixtures("plot")
def test_delivers_the_wanted_channel_of_the_wanted_device(config: Config, expected: object) -> None:
    source = Microphone(config)
    ring, _ = start(source)
    wait_for(lambda: ring.written == N, "all samples")
    np.testing.assert_array_equal(ring.read(0, N), expected)
    assert source.overflows == 0
    source.close()
    assert ring.closed is Reason.STOP


def test_dates_samples_by_the_converter(mic: Microphone) -> None:
    before = time.monotonic()
    ring, clock = start(mic)
    wait_for(lambda: ring.written == N, "all samples")
    assert before - 0.2 <= clock.monotonic(0) <= time.monotonic() - 0.2


def test_counts_what_the_driver_lost(mic: Microphone, plot: Plot) -> None:
    plot("overflow")
    ring, _ = start(mic)
    wait_for(lambda: ring.written == N, "all samples")
    assert mic.overflows == 2


def test_broken_samples_are_silence_and_told(plot: Plot, caplog: pytest.LogCaptureFixture) -> None:
    plot("broken")
    source = Microphone(Config(channel=1))
    ring, _ = start(source)
    wait_for(lambda: ring.written == N, "all samples")
    np.testing.assert_array_equal(ring.read(0, N), np.where(np.arange(N) < 3 * 240, RAMP, 0))
    source.close()
    said = "microphone 'default': 240 broken samples (NaN, infinite or huge) count as silence"
    assert caplog.messages == [said, said]


def test_a_device_that_vanishes_closes_the_ring(mic: Microphone, plot: Plot, caplog: pytest.LogCaptureFixture) -> None:
    plot("vanish")
    ring, _ = start(mic)
    wait_for(lambda: ring.closed, "the loss")
    assert ring.closed is Reason.SOURCE_LOST
    assert ring.written == N
    wait_for(lambda: caplog.messages, "the log")
    assert caplog.messages == ["microphone 'default': lost: Expression 'poll' failed"]
    plot("well")
    ring, _ = start(mic)  # and it can be opened again
    wait_for(lambda: ring.written == N, "all samples")


def test_a_child_that_dies_closes_the_ring(mic: Microphone, caplog: pytest.LogCaptureFixture) -> None:
    ring, _ = start(mic)
    wait_for(lambda: ring.written == N, "all samples")
    assert mic._child is not None
    mic._child._process.kill()
    wait_for(lambda: ring.closed, "the loss")
    assert ring.closed is Reason.SOURCE_LOST
    wait_for(lambda: caplog.messages, "the log")
    assert caplog.messages == ["microphone 'default': lost: it gave no reason"]


def test_a_flood_of_messages_takes_no_memory_and_close_still_works(mic: Microphone, plot: Plot) -> None:
    plot("flood")
    ring, _ = start(mic)
    wait_for(lambda: ring.written == N, "all samples")
    child = mic._child
    assert child is not None
    wait_for(lambda: len(child._chatter) == microphone.CHATTER_BYTES, "the flood")
    mic.close()
    assert ring.closed is Reason.STOP
    assert len(child._chatter) == microphone.CHATTER_BYTES


def test_a_sound_system_that_hangs_is_a_sentence(
    mic: Microphone, plot: Plot, monkeypatch: pytest.MonkeyPatch
) -> None:
    plot("hang")
    monkeypatch.setattr(microphone, "HELLO_S", 0.5)
    sentence = r"^microphone 'default': no answer from the sound system within 0\.5 s; is the sound server hung\? Res"
    with pytest.raises(SourceError, match=sentence):
        mic.open()
    with pytest.raises(SourceError, match=r"^the list of microphones: no answer from the sound system within 0\.2 s"):
        microphone.devices(timeout_s=0.2)


@pytest.mark.parametrize(
    ("name", "config", "error", "sentence"),
    [
        (
            "missing",
            Config(),
            SourceError,
            (
                "microphones need the library PortAudio; install it: apt install libportaudio2 (Debian, Ubuntu), "
                "dnf install portaudio, brew install portaudio"
            ),
        ),
        (
            "well",
            Config(device="usb2"),
            DeviceNotFound,
            (
                "microphone 'usb2' not found; known: Built-in (id alsa/built-in), Yeti (id alsa/yeti); "
                "run 'streamer devices'"
            ),
        ),
        (
            "no device",
            Config(),
            DeviceNotFound,
            "no default microphone; known: none; plug one in, or start the sound server",
        ),
        (
            "well",
            Config(channel=3),
            SourceError,
            "microphone 'Built-in' has no channel 3; it has 2: choose 1 to 2, or mix",
        ),
        (
            "well",
            Config(sample_rate=11025),
            SourceError,
            (
                "microphone 'Built-in' can't be opened at 11025 Hz: Invalid sample rate [PaErrorCode -9997]; is it in "
                "use, is the sound server running? Its own rate is 8000 Hz (leave sample_rate out)"
            ),
        ),
    ],
)
def test_what_can_not_be_opened_is_one_sentence(
    plot: Plot, name: str, config: Config, error: type[SourceError], sentence: str
) -> None:
    plot(name)
    source = Microphone(config)
    with pytest.raises(SourceError, match=f"^{re.escape(sentence)}$") as caught:
        source.open()
    assert type(caught.value) is error
    source.close()


@pytest.mark.usefixtures("plot")
def test_a_child_without_a_parent_ends() -> None:
    command = [sys.executable, "-m", "streamer.sources._capture", '{"device": "default"}']
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdout.read(1)  # it runs
        child.stdin.close()
        assert child.wait(20) == 0


def test_importing_the_capture_child_needs_no_portaudio() -> None:
    code = "import sys, streamer.sources.microphone; sys.exit('sounddevice' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_what_a_library_prints_does_not_become_sound(plot: Plot) -> None:
    plot("print")
    source = Microphone(Config(channel=1))
    ring, _ = start(source)
    wait_for(lambda: ring.written == N, "all samples")
    np.testing.assert_array_equal(ring.read(0, N), RAMP)
    source.close()


def test_a_child_that_does_not_speak_in_frames_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    echo = shutil.which("echo")
    assert echo is not None
    monkeypatch.setattr(sys, "executable", echo)
    with pytest.raises(SourceError, match=r"^microphone 'default': the capture process sent b'-P .* where a frame"):
        Microphone(Config()).open()


@pytest.mark.usefixtures("plot")
def test_a_child_that_can_not_be_started_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    sentence = (
        r"^microphone 'default': the capture process can't be started: Too many open files; is the machine out of "
        r"memory, or of open files \(ulimit -n\)\?$"
    )
    source = Microphone(Config())
    with pytest.raises(SourceError, match=sentence):
        source.open()
    source.close()


@pytest.mark.parametrize("name", ["source-microphone", "source-microphone-stderr"])
def test_a_thread_that_can_not_be_started_leaves_a_microphone_that_can(
    mic: Microphone, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    start_really, children = threading.Thread.start, []

    def refuse(thread: threading.Thread) -> None:
        if thread.name == name:
            raise RuntimeError("can't start new thread")
        start_really(thread)

    def popen(*args: Any, **options: Any) -> subprocess.Popen[bytes]:
        children.append(popen_really(*args, **options))
        return children[-1]

    popen_really = subprocess.Popen
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        patch.setattr(subprocess, "Popen", popen)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            start(mic)
    mic.close()
    assert children[0].wait(20) == -signal.SIGKILL
    ring, _ = start(mic)
    wait_for(lambda: ring.written == N, "all samples")


def test_modules_in_the_working_directory_are_not_ours(
    mic: Microphone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "queue.py").write_text("raise RuntimeError('a stray file')")
    monkeypatch.chdir(tmp_path)
    assert mic.open().sample_rate == 8000


def test_a_child_that_can_not_be_killed_leaves_no_pipe_and_no_thread(
    mic: Microphone, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ring, _ = start(mic)
    wait_for(lambda: ring.written == N, "all samples")
    child, reader = mic._child, mic._thread
    assert child is not None
    assert reader is not None
    process = child._process

    def survive(timeout: float) -> None:
        raise subprocess.TimeoutExpired("capture", timeout)

    os.kill(process.pid, signal.SIGSTOP)  # silent, as in a driver
    monkeypatch.setattr(process, "kill", lambda: None)
    monkeypatch.setattr(process, "wait", survive)
    try:
        mic.close()
        assert ring.closed is Reason.STOP
        assert not reader.is_alive()
        assert not child._listener.is_alive()
        assert all(pipe is not None and pipe.closed for pipe in (process.stdin, process.stdout, process.stderr))
        said = f"microphone 'default': capture process {process.pid} can't be killed: it hangs in a driver"
        assert caplog.messages == [said]
    finally:
        monkeypatch.undo()
        process.kill()
        process.wait()


def test_close_while_the_child_is_being_started(mic: Microphone, monkeypatch: pytest.MonkeyPatch) -> None:
    children: list[microphone._Child] = []

    class Child(microphone._Child):
        """Another thread's `close` comes before the microphone knows of it."""

        def __init__(self, name: str, request: Request) -> None:
            super().__init__(name, request)
            children.append(self)
            mic.close()

    monkeypatch.setattr(microphone, "_Child", Child)
    with pytest.raises(SourceError, match=r"^microphone 'default': closed while it was being opened$"):
        mic.open()
    assert children[0]._process.poll() is not None
    ring = Ring(10 * N, 240)
    mic.start(ring, Clock(8000))
    assert ring.closed is Reason.STOP


def test_close_while_a_hung_sound_system_is_awaited(mic: Microphone, plot: Plot) -> None:
    plot("hang")
    errors: list[SourceError] = []

    def open_mic() -> None:
        try:
            mic.open()
        except SourceError as error:
            errors.append(error)

    opening = threading.Thread(target=open_mic)
    opening.start()
    wait_for(lambda: mic._child, "the child")
    child = mic._child
    assert child is not None
    mic.close()
    mic.close()
    opening.join(microphone.HELLO_S / 2)
    assert [str(error) for error in errors] == ["microphone 'default': closed while it was being opened"]
    assert child._process.poll() is not None
    plot("well")
    assert mic.open().sample_rate == 8000


def test_config_is_strict() -> None:
    assert Config() == Config(device="default", channel="mix", sample_rate=None, zeros_s=60.0)
    for wrong in ({"device": 1}, {"device": ""}, {"channel": 0}, {"channel": "left"}, {"zeros_s": 0}, {"rate": 1}):
        with pytest.raises(ValidationError):
            Config.model_validate(wrong)
