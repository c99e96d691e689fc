"""Training windows by the paper's recipe: the laws of drawing, mixing, masking and placing."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.fbank import FLOOR
from models.spec import FbankSpec
from models.train.clips import Clips, mix, weights
from models.train.features import Features

SPEC = FbankSpec(n_mels=16, mean=-3.0, std=2.0)
T = 64
PADDED = (0 - SPEC.mean) / (2 * SPEC.std)


def features_of(*parts):
    lengths = [len(part) for part in parts]
    return Features(np.concatenate(parts), np.cumsum([0, *lengths[:-1]]), lengths)


def constant(values, n_frames=T):
    """Features of recordings each of which is one value throughout."""
    return features_of(*(np.full((n_frames, SPEC.n_mels), value, np.float32) for value in values))


def clips(features, targets, seed=0, **options):
    plain = {"mixup": 0.0, "max_freq_mask": 0, "max_time_mask": 0}
    return Clips(features, np.asarray(targets, np.float32), SPEC, T, seed, **plain | options)


def log_mel(windows):
    return windows * 2 * SPEC.std + SPEC.mean


# -- drawing -----------------------------------------------------------------------------------------------------------


def test_weights_are_summed_over_labels_and_backgrounds_share_one_of_their_own():
    #                 a     b
    targets = [[1, 0], [1, 0], [1, 1], [0, 0], [0, 0]]
    assert weights(np.asarray(targets, np.float32)) == pytest.approx([1 / 3, 1 / 3, 1 / 3 + 1, 1 / 2, 1 / 2])
    assert weights(np.asarray([[1, 0], [1, 0]], np.float32)) == pytest.approx([1 / 2, 1 / 2])  # nobody has label b


def test_weights_of_millions_of_clips_need_no_second_copy_of_their_targets():
    targets = np.eye(50, dtype=np.float32)[np.arange(20000) % 50]
    tracemalloc.start()
    try:
        weights(targets)
        assert tracemalloc.get_traced_memory()[1] < 0.5 * targets.nbytes
    finally:
        tracemalloc.stop()


def test_labels_are_drawn_equally_often_however_many_clips_they_have():
    n_of = (90, 9, 1)
    targets = np.repeat(np.eye(4)[:, :3], (*n_of, 5), axis=0)  # the last five have no label
    source = clips(constant(np.zeros(105)), targets)
    drawn = np.concatenate([source.batch(100, T)[1] for _ in range(40)])
    expected, bound = len(drawn) / 4, 4 * np.sqrt(len(drawn) * 0.25 * 0.75)  # four deviations of a binomial
    assert drawn.sum(axis=0) == pytest.approx([expected] * 3, abs=bound)
    assert (~drawn.any(axis=1)).sum() == pytest.approx(expected, abs=bound)


def test_every_clip_of_a_label_is_drawn():
    source = clips(constant(range(-10, 0)), np.eye(2)[[0] * 8 + [1] * 2])
    windows, _ = source.batch(400, T)
    assert len(np.unique(windows[:, 0, 0])) == 10


# -- one state ---------------------------------------------------------------------------------------------------------


def noisy(seed=0):
    rng = np.random.default_rng(seed)
    parts = [rng.normal(-4, 3, (n, SPEC.n_mels)).astype(np.float32) for n in (20, T, 200, 90, 10)]
    return features_of(*parts), np.asarray([[1, 0], [0, 1], [1, 1], [0, 0], [0, 1]], np.float32)


def test_same_seed_same_batches():
    def batches(seed):
        source = Clips(*noisy(), SPEC, T, seed)
        return [source.batch(8, T) for _ in range(3)]

    first, again, other = batches(1), batches(1), batches(2)
    assert all(
        np.array_equal(a, b) for one, two in zip(first, again, strict=True) for a, b in zip(one, two, strict=True)
    )
    assert not np.array_equal(first[0][0], other[0][0])


def test_the_generator_s_state_is_all_there_is():
    source = Clips(*noisy(), SPEC, T, 0)
    source.batch(5, T)
    state = source.rng.bit_generator.state
    after = source.batch(8, 32)
    other = Clips(*noisy(), SPEC, T, 99)
    other.batch(3, T)
    other.rng.bit_generator.state = state
    for a, b in zip(after, other.batch(8, 32), strict=True):
        assert np.array_equal(a, b)


# -- placing -----------------------------------------------------------------------------------------------------------


def test_a_clip_as_long_as_the_window_is_only_normalised():
    source = clips(constant([-7.0]), [[1]])
    windows, targets = source.batch(2, T)
    assert windows.shape == (2, T, 16)
    assert (windows.dtype, targets.dtype) == (np.float32, np.float32)
    assert windows == pytest.approx(-1.0)
    assert targets.tolist() == [[1], [1]]


def test_a_shorter_clip_begins_with_the_window_and_is_padded_as_the_reference_extractor_pads():
    windows, _ = clips(constant([-7.0], 10), [[1]]).batch(1, T)
    assert windows[0, :10] == pytest.approx(-1.0)
    assert windows[0, 10:] == pytest.approx(PADDED)


def test_a_longer_clip_is_cropped_anywhere():
    ramp = np.repeat(np.linspace(-8, 0, 80)[:, None], 16, axis=1).astype(np.float32)
    windows, _ = clips(features_of(ramp), [[1]]).batch(500, T)
    starts = {int(np.abs(ramp[:, 0] - window[0, 0]).argmin()) for window in log_mel(windows)}
    assert starts == set(range(80 - T + 1))
    assert np.diff(log_mel(windows)[:, :, 0]) == pytest.approx(8 / 79, abs=1e-5)


def test_a_clip_fills_a_shorter_window():
    windows, _ = clips(constant([-7.0]), [[1]]).batch(3, 16)
    assert windows.shape == (3, 16, 16)
    assert windows == pytest.approx(-1.0)


# -- mixing ------------------------------------------------------------------------------------------------------------

LOG_MEL = st.floats(-15.9, 12)


@given(LOG_MEL, LOG_MEL, st.floats(0, 1), st.integers(1, 5), st.integers(1, 5))
def test_a_mix_has_the_energies_of_amplitudes_lambda_and_the_rest(one, other, share, n, m):
    mixed = np.exp(mix(np.full((n, 2), one, np.float32), np.full((m, 2), other, np.float32), share))
    energies = [share**2 * np.exp(one) * (t < n) + (1 - share) ** 2 * np.exp(other) * (t < m) for t in range(max(n, m))]
    assert mixed == pytest.approx(np.maximum(np.asarray(energies), FLOOR)[:, None].repeat(2, axis=1), rel=1e-4)


@given(LOG_MEL, st.floats(0, 1))
def test_a_clip_mixed_with_itself_is_never_louder_and_3_db_softer_at_most(value, share):
    frames = np.full((2, 3), value, np.float32)
    mixed = mix(frames, frames, share)
    assert (mixed <= frames + 1e-4).all()
    assert (mixed >= np.maximum(frames - np.log(2), np.log(FLOOR)) - 1e-4).all()


def test_targets_of_mixes_are_shared_as_the_sounds_are():
    source = clips(constant([-15.9, 0.0]), np.eye(2), mixup=1.0)
    windows, targets = source.batch(300, T)
    assert targets.sum(axis=1) == pytest.approx(1)
    mixed = (targets > 0).all(axis=1)
    assert mixed.mean() == pytest.approx(
        0.5, abs=4 * np.sqrt(0.25 / 300)
    )  # the other one is drawn without regard to labels
    loud = targets[mixed, 1]
    assert loud.mean() == pytest.approx(0.5, abs=0.05)  # Beta(10, 10)
    assert loud.std() == pytest.approx(np.sqrt(1 / 84), rel=0.25)
    assert log_mel(windows[mixed])[:, 0, 0] == pytest.approx(2 * np.log(loud), abs=1e-3)


def test_mixes_of_several_labels_keep_what_both_have():
    source = clips(constant([0.0, 0.0]), [[1, 1, 0], [0, 1, 1]], mixup=1.0)
    _, targets = source.batch(100, T)
    assert targets[:, 1] == pytest.approx(1)
    assert targets[:, 0] + targets[:, 2] == pytest.approx(1)


def test_mixup_is_as_frequent_as_asked():
    source = clips(constant(np.zeros(200)), np.eye(200), mixup=0.3)
    _, targets = source.batch(1000, T)
    mixed = ((targets > 0).sum(axis=1) == 2).mean()
    assert mixed == pytest.approx(0.3 * 199 / 200, abs=4 * np.sqrt(0.21 / 1000))


# -- masking -----------------------------------------------------------------------------------------------------------


def masks(windows):
    """Widths of each window's band and stretch of zeros, and where they start (-1 without one)."""
    for window in windows:
        bands, frames = (np.flatnonzero((window == 0).all(axis=axis)) for axis in (0, 1))
        assert np.array_equal(
            window == 0, np.isin(np.arange(window.shape[0]), frames)[:, None] | np.isin(np.arange(16), bands)
        )
        for found in (bands, frames):
            assert not len(found) or found[-1] - found[0] == len(found) - 1  # one piece
        yield len(bands), len(frames), frames[0] if len(frames) else -1


@pytest.mark.parametrize("size", [T, 32])
def test_masks_hide_one_band_and_one_stretch_of_any_width_up_to_the_bound(size):
    source = clips(constant([-7.0]), [[1]], max_freq_mask=4, max_time_mask=12)
    widths = list(masks(source.batch(600, size)[0]))
    assert {band for band, _, _ in widths} == set(range(5))
    assert {stretch for _, stretch, _ in widths} == set(range(12 * size // T + 1))
    starts = {start for _, stretch, start in widths if stretch == 1}
    assert {min(starts), max(starts)} <= set(range(size))
    assert max(starts) - min(starts) > size // 2


def test_masks_default_to_the_authors_and_fit_the_spectrogram():
    defaults = [Clips(*noisy(), FbankSpec(), n, 0).max_time_mask for n in (512, 1024)]
    assert defaults == [96, 192]
    assert Clips(*noisy(), FbankSpec(), 512, 0).max_freq_mask == 24
    wide = Clips(*noisy(), SPEC, T, 0, max_time_mask=5000)
    assert (wide.max_freq_mask, wide.max_time_mask) == (SPEC.n_mels, T)
