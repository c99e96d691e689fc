"""Labelled recordings: what is found where and how it is divided; what can't be, each in its sentence."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import DataError
from models.train import data
from models.train.data import Recording


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


# -- a folder ----------------------------------------------------------------------------------------------------------


def test_a_folder_s_sub_folders_are_labels_and_background_is_none(tmp_path, caplog):
    touch(tmp_path, "bark/b.WAV", "bark/a.flac", "rain/1.ogg", "Background/room.mp3", ".git/x.wav", "rain/.hidden.wav")
    found = data.recordings(tmp_path)
    assert [(one.path.name, one.labels, one.fold) for one in found] == [
        ("room.mp3", (), None),
        ("a.flac", ("bark",), None),
        ("b.WAV", ("bark",), None),
        ("1.ogg", ("rain",), None),
    ]
    assert data.labels(found) == ("bark", "rain")
    assert not caplog.records


def test_what_a_folder_holds_besides_is_left_out_aloud(tmp_path, caplog):
    touch(tmp_path, "bark/a.wav", "bark/a.m4a", "bark/LICENSE", "loose.wav", "loud.wav", "README.md")
    assert len(data.recordings(tmp_path)) == 1
    assert "left out files that end in .m4a, LICENSE; loose.wav and 1 more lie in no label's folder" in caplog.text


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ((), "no recordings in data; needed: a sub-folder for each label with files in it (.aif, .aiff, .flac, .mp3, "),
        (("bark/a.m4a", "rain/b.txt"), "no recordings in data; its files end in .m4a, .txt; needed: a sub-folder"),
        (("a.wav", "b.wav"), "no recordings in data; a.wav and 1 more lie in no label's folder; needed"),
        (
            ("train/bark/a.wav",),
            "data/train/bark holds sound files, but a label's folder holds its files directly: give ",
        ),
        (
            ("train/bark/a.wav",),
            "give data/train as data if its sub-folders are the labels, or list the files in a CSV",
        ),
    ],
)
def test_an_unusable_folder_is_named(tmp_path, monkeypatch, files, sentence):
    monkeypatch.chdir(tmp_path)
    touch(Path("data"), *files).mkdir(exist_ok=True)
    with pytest.raises(DataError) as caught:
        data.recordings(Path("data"))
    assert sentence in str(caught.value)


def test_data_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match=r"data '.*/none' not found; needed: a sub-folder for each label .* or a CSV"):
        data.recordings(tmp_path / "none")


# -- a CSV -------------------------------------------------------------------------------------------------------------


def rows(folder: Path, text: str | bytes):
    touch(folder, "a.wav", "b.wav", "sub/c.wav")
    (folder / "list.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    return data.recordings(folder / "list.csv")


def test_a_csv_lists_files_labels_and_folds(tmp_path):
    lines = (
        "file , Labels, fold",
        "",
        'a.wav, "Bark, yap; Rain;Rain" ,3',
        f"{tmp_path}/b.wav,,",
        "sub/c.wav,ö,1",
        ",,",
    )
    assert rows(tmp_path, "\ufeff" + "\r\n".join(lines)) == [
        Recording(tmp_path / "a.wav", ("Bark, yap", "Rain"), 3),
        Recording(tmp_path / "b.wav", (), None),
        Recording(tmp_path / "sub/c.wav", ("ö",), 1),
    ]


def test_one_file_under_two_names_is_listed_twice(tmp_path):
    with pytest.raises(DataError, match=r"line 3 lists a\.wav again, first on line 2"):
        rows(tmp_path, f"file,labels\na.wav,x\n{tmp_path}/sub/../a.wav,y\n")


def test_columns_may_stand_in_any_order_and_fold_may_be_missing(tmp_path):
    assert rows(tmp_path, "labels,file\nBark,a.wav") == [Recording(tmp_path / "a.wav", ("Bark",), None)]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "list.csv: it is empty; needed: file, labels and optionally fold, with commas between"),
        ("\n\n", "list.csv: it is empty;"),
        ("file;labels\na.wav;Bark\n", "list.csv: columns are file;labels; needed: file, labels"),
        ("name,labels\nx,Bark\n", "list.csv: columns are name, labels; needed: file, labels"),
        ("file,labels\n", "no recordings in .*list.csv: it has columns, but no rows"),
        ("file,labels,fold\na.wav,x,1.0\n", "line 2 has fold '1.0', not a whole number from 1"),
        ("file,labels,fold\na.wav,x,0\n", "line 2 has fold '0', not a whole number from 1"),
        ("file,labels,fold\na.wav,x,²\n", "line 2 has fold '²', not a whole number"),
        ("file,labels\n,x\n", "line 2 names no file$"),
        ("file,labels\n\nd.wav,x\n", "line 3 names 'd.wav', which is no file in "),
        ("file,labels\nsub,x\n", "line 2 names 'sub', which is no file in "),
        ("file,labels\na.wav,x\nb.wav,x\n./a.wav,y\n", "line 4 lists a.wav again, first on line 2$"),
        ("file,labels\na.wav,Bark, yap\n", r"line 2 has 3 cells, the header 2 \(labels with a comma need quotes\)"),
        ("file,labels\n1,x\na.wav,x\n2,x\n,x\n4,x\n5,x\n", "line 2 .*; line 4 .*; line 5 names no file; and 2 more$"),
        ("file,labels\na.wav,Sjödjur\n".encode("latin-1"), "list.csv is no CSV in UTF-8 .*; needed: a sub-folder"),
        (b"RIFF\x00\x00WAVE", "list.csv"),  # a sound file instead of a list
    ],
)
def test_mistakes_in_a_csv_are_named_by_line(tmp_path, text, sentence):
    with pytest.raises(DataError, match=sentence) as caught:
        rows(tmp_path, text)
    assert "\n" not in str(caught.value)


# -- labels ------------------------------------------------------------------------------------------------------------


def made(*labels: str, folds=None):
    """Recordings with the labels written as `a`, `a;b` or nothing."""
    return [
        Recording(Path(f"{i}.wav"), tuple(filter(None, text.split(";"))), folds[i] if folds else None)
        for i, text in enumerate(labels)
    ]


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        (("bark", "bark"), "here holds one label, 'bark'; at least two are needed: add a folder of another sound$"),
        (
            ("bark", ""),
            "holds one label, 'bark'; .*another sound, or give sounds of 'background' a label of their own$",
        ),
        (("", ""), "here holds no labels; at least two are needed"),
    ],
)
def test_fewer_than_two_labels_are_refused(labels, sentence):
    with pytest.raises(DataError, match=sentence):
        data.check(Path("here"), made(*labels))


def test_two_labels_will_do():
    data.check(Path("here"), made("bark", "rain", ""))


def test_targets_are_multi_hot_in_the_order_of_the_labels():
    found = made("b", "a;b", "", "c")
    assert data.labels(found) == ("a", "b", "c")
    wanted = data.targets(found, ("c", "b", "a"))
    assert wanted.dtype == np.float32
    assert wanted.tolist() == [[0, 1, 0], [0, 1, 1], [0, 0, 0], [1, 0, 0]]


# -- dividing ----------------------------------------------------------------------------------------------------------


def test_a_fold_is_held_out_and_what_has_no_fold_is_trained_on():
    found = made("a", "b", "a", "b", "", folds=[1, 1, 2, 2, None])
    train, held = data.split(found, 2, seed=0)
    assert (train, held) == ([found[0], found[1], found[4]], [found[2], found[3]])
    assert data.split(found, 0, seed=0) == (found, [])


@pytest.mark.parametrize(
    ("hold_out", "folds", "sentence"),
    [
        (3, [1, 1, 2], "fold 3 not found; known: 1, 2$"),
        (1, None, "fold 1 not found; the data set has no fold column: give a share$"),
        (1, [1, 2, 2], "label 'a' has recordings in fold 1 alone: nothing is left to train it on$"),
        (1.5, [1, 2, 2], "hold-out 1.5 is neither a share between 0 and 1 nor a fold's number; 0 holds out none$"),
        (-0.1, None, "hold-out -0.1 is neither"),
        (float("nan"), None, "hold-out nan is neither"),
        (float("inf"), None, "hold-out inf is neither"),
        (0.1, None, "^a share of 0.1 .* no label has more than 2; add some .*, or hold out 0 to measure nothing$"),
    ],
)
def test_what_can_t_be_held_out_is_named(hold_out, folds, sentence):
    with pytest.raises(DataError, match=sentence):
        data.split(made("a", "b", "b", folds=folds), hold_out, seed=0)


def test_a_share_is_drawn_of_every_label_by_the_seed_alone(caplog):
    found = made(*["a"] * 50, *["b"] * 10, "lone", *[""] * 20)
    train, held = data.split(found, 0.2, seed=3)
    assert Counter(one.labels for one in held) == {("a",): 10, ("b",): 2, (): 4}
    assert sorted(train + held, key=found.index) == found
    assert data.split(found, 0.2, seed=3) == (train, held)
    assert data.split(found, 0.2, seed=4) != (train, held)
    assert caplog.records[0].message == "lone: none held out of 1, so nothing measures it"


@given(
    st.lists(st.sets(st.sampled_from("abcd"), max_size=3), min_size=2, max_size=30),
    st.floats(0.05, 0.95),
    st.integers(0, 5),
)
def test_every_label_keeps_a_recording_to_train_on(labels, share, seed):
    found = made(*(";".join(sorted(its)) for its in labels))
    try:
        train, held = data.split(found, share, seed)
    except DataError:
        train, held = found, []
    assert data.labels(train) == data.labels(found)
    assert len(train) + len(held) == len(found)
    for label in data.labels(found):
        n_held, n = (sum(label in one.labels for one in part) for part in (held, found))
        assert n_held <= round(share * n)
