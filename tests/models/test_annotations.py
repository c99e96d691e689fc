"""Soundscapes with known truth: what is read, and what is refused in which words."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from models.errors import DataError
from models.train.annotations import NEEDED, Annotated, annotated
from models.train.soundscapes import Soundscape, Truth, write

HEADER = "filename\tonset\toffset\tevent_label\n"


def wav(path: Path, seconds: float = 10.0) -> Path:
    path.parent.mkdir(exist_ok=True)
    soundfile.write(path, np.zeros(int(seconds * 8000)), 8000)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two files of 10 s."""
    wav(tmp_path / "a.wav")
    wav(tmp_path / "b.wav")
    return tmp_path


def says(folder: Path, rows: str) -> list[Annotated]:
    (folder / "annotations.tsv").write_text(HEADER + rows, encoding="utf-8")
    return annotated(folder)


def test_what_sounds_in_each_file(folder: Path) -> None:
    found = says(folder, "a.wav\t5\t7.5\tBark\na.wav\t1\t2\tRain\na.wav\t7\t8\tBark\na.wav\t8\t9\tBark\n\n")
    truths = Truth(1, 2, "Rain"), Truth(5, 8, "Bark"), Truth(8, 9, "Bark")  # one that overlaps, one that follows
    assert found == [Annotated(folder / "a.wav", 10.0, truths), Annotated(folder / "b.wav", 10.0, ())]


def test_files_without_sounds(tmp_path: Path) -> None:
    """Those of a row without a sound, and those beside named ones; not what lies elsewhere or is hidden."""
    named = wav(tmp_path / "audio" / "named.wav"), wav(tmp_path / "audio" / "empty.wav")
    beside = wav(tmp_path / "audio" / "beside.wav")
    wav(tmp_path / "stems" / "elsewhere.wav")
    wav(tmp_path / ".hidden.wav")
    found = says(tmp_path, "audio/named.wav\t1\t2\tBark\naudio/empty.wav\t\t\t\n")
    assert [each.path for each in found] == [*named, beside]
    assert [len(each.truths) for each in found] == [1, 0, 0]


def test_columns_in_another_order_and_more_of_them(folder: Path) -> None:
    table = "Event_label\tsnr\tfilename\tonset\toffset\nBark\t3\ta.wav\t1\t2\n"
    (folder / "annotations.tsv").write_text("\ufeff" + table, encoding="utf-8")
    assert annotated(folder)[0].truths[0].label == "Bark"


def test_times_are_rounded(folder: Path) -> None:
    (folder / "durations.tsv").write_text("filename\tduration\na.wav\t10.05\n")
    assert says(folder, "a.wav\t9\t10.05\tBark\n")[0].truths[0].offset_s == 10.0


def test_what_we_write_we_read(tmp_path: Path) -> None:
    truths = Truth(0.25, 1.5, 'Whistle, "high"'), Truth(3.0, 4.0, "Bark")
    write(tmp_path, [("one.wav", Soundscape(np.zeros(64000, np.float32), 16000, truths))])
    assert annotated(tmp_path) == [Annotated(tmp_path / "one.wav", 4.0, truths)]


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ("c.wav\t1\t2\tBark\nc.wav\t3\t4\tBark", "line 2: 'c.wav' is no file in {folder}"),  # said once
        ("\t1\t2\tBark", "line 2: no filename"),
        ("noise.wav\t1\t2\tBark", "line 2: {folder}/noise.wav can't be read as sound (Format not recognised)"),
        ("none.wav\t\t\t", "line 2: {folder}/none.wav holds no samples"),
        ("a.wav\t3\t2\tBark", "line 2: offset 2 is not after onset 3"),
        ("a.wav\t3\t3\tBark", "line 2: offset 3 is not after onset 3"),
        ("a.wav\t-1\t2\tBark", "line 2: onset '-1' is no time; write seconds from 0 on"),
        ("a.wav\t1\tnan\tBark", "line 2: offset 'nan' is no time; write seconds from 0 on"),
        ("a.wav\t1\t0:02\tBark", "line 2: offset '0:02' is no time; write seconds from 0 on"),
        ("a.wav\t1\t\tBark", "line 2: offset '' is no time; write seconds from 0 on"),
        ("a.wav\t9\t10.2\tBark", "line 2: 'Bark' at 9 to 10.2 s, but a.wav lasts 10.00 s"),
        ("a.wav\t10\t10.1\tBark", "line 2: 'Bark' at 10 to 10.1 s, but a.wav lasts 10.00 s"),
        ("a.wav\t1\t2\t", "line 2: no event_label"),
        ("a.wav\t1\t2", "line 2: 3 cells, but the header has 4"),
        ("a.wav\t1\t2\tA\na.wav\t1\t2\t\n\t1\t2\tA\na.wav\t3\t2\tA\na.wav\tx\t2\tA",
         "line 3: no event_label; line 4: no filename; line 5: offset 2 is not after onset 3; and 1 more"),
    ],
)  # fmt: skip
def test_mistakes_are_named_by_line(folder: Path, rows: str, sentence: str) -> None:
    (folder / "noise.wav").write_bytes(bytes(range(200)))
    wav(folder / "none.wav", 0.0)
    with pytest.raises(DataError) as caught:
        says(folder, rows)
    said = sentence.format(folder=folder)
    assert str(caught.value) == f"{folder}/annotations.tsv: {said}; correct these lines or remove them"


def test_a_file_that_was_cut(folder: Path) -> None:
    (folder / "durations.tsv").write_text("filename\tduration\nb.wav\t10\na.wav\t60.0\n")
    with pytest.raises(DataError) as caught:
        says(folder, "a.wav\t1\t2\tBark")
    assert str(caught.value) == (
        f"{folder}/durations.tsv: line 3: duration 60, but a.wav lasts 10.00 s; correct these lines or remove them"
    )


def test_a_background_that_is_no_sound(folder: Path) -> None:
    (folder / "noise.wav").write_bytes(bytes(range(200)))
    with pytest.raises(DataError) as caught:
        says(folder, "a.wav\t1\t2\tBark")
    assert str(caught.value) == (
        f"{folder}/noise.wav can't be read as sound (Format not recognised); leave it out or record it again"
    )


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (b"", ": it is empty; needed: filename, onset, offset, event_label, with tabs between"),
        (b"file,onset\na.wav,1", ": columns are file,onset; needed: filename, onset, offset, event_label, with tabs"),
        (b"\xff\xfe\x00", " is no table in UTF-8 ("),
    ],
)
def test_what_is_no_table(folder: Path, text: bytes, sentence: str) -> None:
    (folder / "annotations.tsv").write_bytes(text)
    with pytest.raises(DataError) as caught:
        annotated(folder)
    assert str(caught.value).startswith(f"{folder}/annotations.tsv{sentence}")


def test_what_is_no_folder_of_soundscapes(folder: Path) -> None:
    for path, sentence in (
        (folder / "nowhere", f"{folder}/nowhere is no folder; needed: {NEEDED}"),
        (folder / "a.wav", f"{folder}/a.wav is no folder; needed: {NEEDED}"),
        (folder, f"{folder} has no annotations.tsv; needed: {NEEDED}"),
    ):
        with pytest.raises(DataError) as caught:
            annotated(path)
        assert str(caught.value) == sentence


def test_a_folder_without_sound(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        says(tmp_path, "")
    assert str(caught.value) == f"{tmp_path} holds no audio files; needed: {NEEDED}"
