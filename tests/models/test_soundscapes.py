"""Soundscapes: what is annotated is what sounds, as loud as was asked; a seed gives the same again."""

import csv
from pathlib import Path

import numpy as np
import pytest
import soundfile

from models.errors import DataError
from models.train.rooms import OTHERS, STRANGERS, TONES, coloured, reverberated
from models.train.soundscapes import (
    ANNOTATIONS,
    DURATIONS,
    FRAME_S,
    Bank,
    Options,
    Truth,
    active,
    bank,
    compose,
    joined,
    main,
    runs,
    write,
)

RATE = 16000
FLAT = Options(gap_s=(5.0, 5.0), reverb=0.0, repeats=1, rates=(RATE,))


def tone(seconds, level=1.0, hz=1000.0, rate=RATE):
    return (level * np.sin(2 * np.pi * hz * np.arange(int(seconds * rate)) / rate)).astype(np.float32)


def silence(seconds, rate=RATE):
    return np.zeros(int(seconds * rate), np.float32)


def padded(rng, rate):
    """A bark of 0.4 s in a clip of 5 s, as ESC-10 pads."""
    return np.concatenate((silence(1.0, rate), tone(0.4, rate=rate), silence(3.6, rate)))


def spans(samples, rate=RATE):
    return [(a * FRAME_S, b * FRAME_S) for a, b in runs(active(samples, rate))]


# -- where a sound is --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        (np.concatenate((silence(1), tone(0.4), silence(3.6))), [(1.0, 1.4)]),  # padding is no sound
        (np.concatenate((tone(0.4, 0.01), tone(0.4), tone(0.4, 0.01))), [(0.4, 0.8)]),  # 40 dB below the loudest
        (np.concatenate((tone(0.4, 0.1), tone(0.4))), [(0.4, 0.8)]),  # 20 dB, but half of it is the recording's noise
        (np.concatenate((tone(0.2), silence(0.5), tone(0.2))), [(0.0, 0.2), (0.7, 0.9)]),
        (np.concatenate((tone(1), tone(1, 0.3), tone(1))), [(0.0, 3.0)]),  # a lull of 10 dB is no pause
        (silence(1), []),
        (tone(0.01), []),  # shorter than anything that counts
    ],
)
def test_a_sound_is_where_its_energy_is(samples, expected):
    assert np.array(spans(samples)).ravel() == pytest.approx(np.array(expected).ravel(), abs=FRAME_S)


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000])
def test_where_it_is_does_not_depend_on_the_rate(rate):
    (span,) = spans(padded(None, rate), rate)
    assert span == pytest.approx((1.0, 1.4), abs=2 * FRAME_S)


def test_white_noise_lasts_from_end_to_end():
    noise = np.random.default_rng(0).normal(0, 0.1, 3 * RATE).astype(np.float32)
    assert spans(noise) == [(0.0, 3.0)]


@pytest.mark.parametrize(
    ("stretches", "events"),
    [
        ("a0-1 a2-3", "a0-3"),  # a pause under 2 s
        ("a0-1 a3-4", "a0-1 a3-4"),
        ("a0-9 a1-2 a10-11", "a0-11"),  # the pause counts from the latest end
        ("a0-1 b1-2 a2-3", "a0-3 b1-2"),
        ("a5-6 a0-1", "a0-1 a5-6"),
    ],
)
def test_stretches_of_a_label_with_short_pauses_are_one_event(stretches, events):
    def read(text):
        return tuple(Truth(*map(float, each[1:].split("-")), each[0], 0.0) for each in text.split())

    assert joined(read(stretches)) == read(events)


def test_a_joined_event_is_as_audible_as_its_best_stretch():
    assert joined([Truth(0, 1, "a", -3.0), Truth(1, 2, "a", 9.0)]) == (Truth(0, 2, "a", 9.0),)


# -- composing ---------------------------------------------------------------------------------------------------------


def test_the_truth_is_where_the_sound_is_in_the_mix():
    scape = compose(Bank({"bark": [padded]}), 60, (3,), FLAT)
    loud = Options(**{name: getattr(FLAT, name) for name in FLAT.__slots__} | {"snr_db": (40.0, 40.0)})
    loud_scape = compose(Bank({"bark": [padded]}), 60, (3,), loud)
    assert [t.onset_s for t in scape.truths] == [t.onset_s for t in loud_scape.truths]
    inside = np.zeros(len(loud_scape.samples), bool)
    for truth in loud_scape.truths:
        inside[int(truth.onset_s * RATE) : int(truth.offset_s * RATE)] = True
    loudness = np.abs(loud_scape.samples)
    assert loudness[~inside].max() < 0.15 * loudness.max()
    alone = [truth for truth in loud_scape.truths if truth.offset_s - truth.onset_s < 0.5 and truth.offset_s < 59]
    assert alone
    assert all(truth.offset_s - truth.onset_s == pytest.approx(0.4, abs=2 * FRAME_S) for truth in alone)


@pytest.mark.parametrize("snr_db", [-5.0, 0.0, 20.0])
def test_a_sound_is_as_loud_over_the_background_as_was_asked(snr_db):
    options = Options(gap_s=(15.0, 15.0), snr_db=(snr_db, snr_db), reverb=0.0, rates=(RATE,))
    white = [lambda rng, rate: rng.normal(0, 1, 10 * rate).astype(np.float32)]
    scape, room = (compose(Bank(sounds, white), 60, (1,), options) for sounds in ({"a": [padded]}, {}))
    truths = [t for t in scape.truths if t.offset_s - t.onset_s < 0.45]  # those that stand alone
    assert truths
    for truth in truths:
        part = slice(int(truth.onset_s * RATE), int(truth.offset_s * RATE))
        sound = scape.samples[part] - room.samples[part]
        ratio_db = 10 * np.log10(np.mean(sound**2) / np.mean(room.samples[part] ** 2))
        assert ratio_db == pytest.approx(snr_db, abs=1.0)
        assert truth.snr_db == snr_db


def test_a_seed_gives_the_same_and_another_another():
    made_of = Bank({"a": [padded], "b": [lambda rng, rate: tone(rng.uniform(1, 3), rate=rate)]})
    first, again, other = (compose(made_of, 20, (seed, 0)) for seed in (1, 1, 2))
    assert np.array_equal(first.samples, again.samples)
    assert first.truths == again.truths
    assert first.rate == again.rate
    assert len(first.samples) != len(other.samples) or not np.array_equal(first.samples, other.samples)


def test_all_of_it_lies_within_full_scale_and_within_the_soundscape():
    options = Options(gap_s=(0.5, 0.5), room_dbfs=(-10.0, -10.0), snr_db=(20.0, 20.0), rates=(RATE,))
    scape = compose(Bank({"a": [padded]}), 10, (0,), options)
    assert np.abs(scape.samples).max() <= 1
    assert scape.samples.dtype == np.float32
    assert all(0 <= t.onset_s < t.offset_s <= 10 for t in scape.truths)


def test_steady_sounds_may_go_on_for_longer_than_their_recording():
    options = Options(gap_s=(30.0, 30.0), reverb=0.0, rates=(RATE,))
    made_of = Bank({"drone": [lambda rng, rate: tone(2.0, rate=rate)]})
    truths = [truth for seed in range(8) for truth in compose(made_of, 60, (seed,), options).truths]
    lengths = {round(t.offset_s - t.onset_s) for t in truths if t.offset_s < 60}
    assert {2, 4, 8} <= lengths


def test_without_foregrounds_nothing_happens():
    scape = compose(Bank({}), 5, (0,))
    assert scape.truths == ()
    assert np.sqrt(np.mean(scape.samples**2)) > 0


# -- rooms -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*TONES, *OTHERS, *STRANGERS])
@pytest.mark.parametrize("rate", [16000, 44100])
def test_rooms_and_other_sounds_have_unit_level_and_a_seed(name, rate):
    make = (TONES | OTHERS | STRANGERS)[name]
    first, again = (make(np.random.default_rng(1), 2 * rate, rate) for _ in range(2))
    assert first.shape == (2 * rate,)
    assert first.dtype == np.float32
    assert np.sqrt(np.mean(first.astype(float) ** 2)) == pytest.approx(1, rel=1e-3)
    assert np.array_equal(first, again)


@pytest.mark.parametrize("db_per_octave", [0.0, -3.0, -6.0])
def test_coloured_noise_falls_as_it_says(db_per_octave):
    samples = coloured(np.random.default_rng(0), 1 << 18, RATE, db_per_octave)
    power = np.abs(np.fft.rfft(samples)) ** 2
    hz = np.fft.rfftfreq(len(samples), 1 / RATE)
    low, high = (power[(hz > at) & (hz < 1.1 * at)].mean() for at in (500, 4000))
    assert 10 * np.log10(high / low) / 3 == pytest.approx(db_per_octave, abs=0.3)


def test_an_echo_decays_by_sixty_db_in_its_time():
    click = np.zeros(RATE // 10, np.float32)
    click[0] = 1
    heard = reverberated(click, np.random.default_rng(0), RATE, rt60_s=0.5, wet_db=0.0)
    assert heard[0] == pytest.approx(1, abs=1e-5)
    assert np.sum(heard[1:] ** 2) == pytest.approx(1, abs=0.1)  # 0 dB
    early, late = (10 * np.log10(np.mean(heard[at : at + 800] ** 2)) for at in (800, 4800))
    assert early - late == pytest.approx(60 * (4000 / RATE) / 0.5, abs=2)


# -- files -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for name, seconds in (
        ("bark/1-a.wav", 0.5),
        ("bark/4-b.wav", 0.7),
        ("rain/4-c.wav", 2.0),
        ("background/4-d.wav", 3),
    ):
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(tmp_path / "data" / name, tone(seconds, 0.5, rate=22050), 22050)
    return tmp_path / "data"


def test_a_bank_takes_folders_folds_names_and_alarms(data):
    made_of = bank(data, folds=("4",), names={"bark": "Bark"})
    assert {label: len(sounds) for label, sounds in made_of.foregrounds.items()} == {
        "Bark": 1, "rain": 1, "Smoke detector, smoke alarm": 1, "Siren": 1, "Beep, bleep": 1
    }  # fmt: skip
    assert len(made_of.backgrounds) == 1
    assert len(bank(data).foregrounds["bark"]) == 2
    assert set(bank(data, with_alarms=False).foregrounds) == {"bark", "rain"}
    rng = np.random.default_rng(0)
    lengths = [len(made_of.foregrounds[label][0](rng, 48000)) for label in ("Bark", "Siren")]
    assert lengths == pytest.approx([0.7 * 48000, 10 * 48000], abs=10)


def test_a_fold_that_is_not_there_is_said(data):
    with pytest.raises(DataError, match=r"no recordings of fold 7; name files <fold>-….ogg, or give a CSV with"):
        bank(data, folds=("7",))


def test_files_and_annotations_are_what_the_fields_tools_read(data, tmp_path):
    options = Options(gap_s=(4.0, 4.0), rates=(22050,))
    scapes = [(f"{i}.wav", compose(bank(data), 10, (0, i), options)) for i in range(2)]
    write(tmp_path / "out", scapes)
    rows = [line.split("\t") for line in (tmp_path / "out" / ANNOTATIONS).read_text().splitlines()]
    assert rows[0] == ["filename", "onset", "offset", "event_label"]
    assert rows[1:] == [
        [name, f"{t.onset_s:.3f}", f"{t.offset_s:.3f}", t.label] for name, scape in scapes for t in scape.truths
    ]
    assert len(rows) > 2
    with (tmp_path / "out" / DURATIONS).open(newline="") as file:
        assert list(csv.reader(file, delimiter="\t")) == [
            ["filename", "duration"],
            ["0.wav", "10.000"],
            ["1.wav", "10.000"],
        ]
    samples, rate = soundfile.read(tmp_path / "out" / "1.wav")
    assert rate == 22050
    assert samples == pytest.approx(scapes[1][1].samples, abs=1e-4)


def test_the_command_line_writes_a_folder(data, tmp_path, monkeypatch, capsys):
    out = str(tmp_path / "out")
    hours = ["--hours", str(20 / 3600), "--seconds", "10"]
    monkeypatch.setattr("sys.argv", ["soundscapes", "--data", str(data), "--out", out, *hours, "--seed", "5"])
    main()
    assert capsys.readouterr().out == f"2 soundscapes of 10 s in {out}\n"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "00000.wav", "00001.wav", ANNOTATIONS, DURATIONS
    ]  # fmt: skip


@pytest.mark.parametrize(("arguments", "said"), [
    ("--data nowhere", "data 'nowhere' not found; needed: a sub-folder for each label"),
    ("--seconds 0", "argument --seconds: 0 is not over 0 and up to 3600"),
    ("--hours nan", "argument --hours: nan is not over 0 and up to 100000"),
    ("--seed -1", "argument --seed: '-1' is not a whole number from 0 on"),
    ("--out used", "used is not empty, and other sound in it would count as background; name another folder"),
    ("--out used/file", "used/file can't be made: File exists; name another folder"),
])  # fmt: skip
def test_mistakes_on_the_command_line(arguments, said, tmp_path, monkeypatch, capsys):
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["soundscapes", "--out", "new", *arguments.split()])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert said in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
