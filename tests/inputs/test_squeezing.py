"""Bit depths and medians, compared with SciPy's and with the definition."""

import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage  # type: ignore[import-untyped]

from mlguard import BitDepth, ConfigurationError, MedianSmoothing
from mlguard.inputs.squeezing import squeezes

DTYPES = [np.float64, np.float32, np.uint8]


def images(*shape: int, dtype: Any = np.float64) -> NDArray[Any]:
    values = np.random.default_rng(3).integers(0, 256, shape)
    return values.astype(dtype)


def scipys(image: NDArray[Any], size: int) -> NDArray[Any]:
    """The median that the paper's authors used, of one channel."""
    smoothed: NDArray[Any] = ndimage.median_filter(image, size=size, mode="reflect")
    return smoothed


# Bit depth ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("dtype", DTYPES)
def test_levels_are_even_and_include_both_ends(bits: int, dtype: Any) -> None:
    """So many bits leave so many values, and the smallest and largest stay what they are."""
    values = np.arange(256).astype(dtype)
    rounded = BitDepth(bits, low=0, high=255)(values)
    assert rounded.dtype == dtype
    assert len(np.unique(rounded)) == 2**bits
    assert (rounded[0], rounded[-1]) == (0, 255)
    exact = np.rint(np.arange(256) * (2**bits - 1) / 255) * 255 / (2**bits - 1)
    assert np.abs(rounded - exact).max() <= (0.5 if dtype is np.uint8 else 1e-4)


def test_the_formula_is_that_of_the_paper() -> None:
    """Values from 0 to 1 are multiplied by 2**bits - 1, rounded and divided again."""
    values = np.linspace(0, 1, 1_001)
    assert np.allclose(BitDepth(3, low=0.0, high=1.0)(values), np.rint(values * 7) / 7, rtol=0, atol=1e-15)


def test_the_array_that_was_given_stays_as_it_is() -> None:
    """Somebody may have other uses for it."""
    for dtype in DTYPES:
        for squeeze in (BitDepth(1, low=0, high=255), MedianSmoothing(2), MedianSmoothing(3)):
            values = images(5, 5, dtype=dtype)
            before = values.copy()
            squeeze(values)
            assert np.array_equal(values, before)
            values.flags.writeable = False
            assert squeeze(values).flags.writeable


@given(
    st.integers(1, 8),
    st.tuples(st.floats(-1e9, 1e9), st.floats(-1e9, 1e9)).map(sorted).filter(lambda ends: ends[1] - ends[0] >= 1e-6),
    st.lists(st.floats(allow_nan=False, width=32), min_size=1, max_size=20),
)
def test_nothing_leaves_the_range(bits: int, ends: list[float], numbers: list[float]) -> None:
    """However large or small a value is, it comes to lie on a level."""
    low, high = ends
    squeeze = BitDepth(bits, low=low, high=high)
    rounded = squeeze(np.array(numbers))
    assert ((low <= rounded) & (rounded <= high)).all()
    inside = np.clip(numbers, low, high)
    width = high - low
    assert (np.abs(rounded - inside) <= width / (2**bits - 1) / 2 + 1e-9 * width + 1e-6).all()
    assert np.allclose(squeeze(rounded), rounded, rtol=1e-12, atol=1e-6)


def test_missing_values_stay_missing() -> None:
    """NaN is not made a number."""
    with warnings.catch_warnings(record=True) as said:
        rounded = BitDepth(2, low=0, high=1)(np.array([np.nan, 0.4, np.inf, -np.inf]))
    assert np.array_equal(rounded, [np.nan, 1 / 3, 1, 0], equal_nan=True)
    assert not said


# Medians --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 5), (5, 1), (2, 2), (2, 3), (8, 8), (28, 28), (31, 17)])
def test_medians_are_those_of_scipy(size: int, dtype: Any, height: int, width: int) -> None:
    """At every place, at the edges too."""
    image = images(height, width, dtype=dtype)
    smoothed = MedianSmoothing(size)(image)
    assert np.array_equal(smoothed, scipys(image, size))
    assert smoothed.dtype == dtype


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("number", [0, 1, 7, 64])
def test_rows_are_images(size: int, number: int) -> None:
    """What ``Features`` reads is smoothed image by image, and no image touches the next."""
    rows = images(number, 28 * 28)
    expected = [scipys(row.reshape(28, 28), size).ravel() for row in rows]
    smoothed = MedianSmoothing(size, shape=(28, 28))(rows)
    assert smoothed.shape == rows.shape
    assert np.array_equal(smoothed, np.array(expected).reshape(rows.shape))


@pytest.mark.parametrize("size", [2, 3])
def test_channels_are_apart(size: int) -> None:
    """Red says nothing about green, in one image and in many, flat or not."""
    batch = images(3, 6, 5, 3)
    expected = np.stack([np.stack([scipys(one[..., c], size) for c in range(3)], -1) for one in batch])
    assert np.array_equal(MedianSmoothing(size)(batch[0]), expected[0])
    many = MedianSmoothing(size, shape=(6, 5, 3))
    assert np.array_equal(many(batch), expected)
    assert np.array_equal(many(batch.reshape(3, -1)), expected.reshape(3, -1))
    assert np.array_equal(many(batch[0]), expected[0])
    assert np.array_equal(many(batch[0].ravel()), expected[0].ravel())


def test_large_images_are_taken_one_at_a_time() -> None:
    """An image that is larger than what is worked on at once is smoothed all the same."""
    batch = images(2, 150, 150)
    smoothed = MedianSmoothing(3, shape=(150, 150))(batch)
    assert np.array_equal(smoothed, [scipys(one, 3) for one in batch])


def test_arrays_in_any_memory_layout_are_taken() -> None:
    """Slices and transposed arrays give what their copies give."""
    image = images(9, 12)
    for view in (image.T, image[::2, ::-1], np.asfortranarray(image)):
        for squeeze in (MedianSmoothing(2), MedianSmoothing(3), BitDepth(2, low=0, high=255)):
            assert np.array_equal(squeeze(view), squeeze(view.copy()))


# Settings -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [0, 9, -1, True, 2.0, None, "2"])
def test_bits_that_cannot_be_are_refused(bits: Any) -> None:
    """When it is built."""
    with pytest.raises(ConfigurationError, match="bits"):
        BitDepth(bits, low=0, high=1)


@pytest.mark.parametrize(
    ("low", "high"),
    [(1, 0), (0, 0), (0, np.inf), (np.nan, 1), (None, 1), (0, "1"), (True, 2), (-1e308, 1e308), (0, 1e-300), (0, 1j)],
)
def test_bounds_that_cannot_be_are_refused(low: Any, high: Any) -> None:
    """Not finite, in the wrong order, or so far apart or close together that nothing can be scaled by them."""
    with pytest.raises(ConfigurationError, match="BitDepth"):
        BitDepth(2, low=low, high=high)


@pytest.mark.parametrize("size", [0, 1, 4, 5, True, 2.0, None, (2, 2)])
def test_sizes_that_cannot_be_are_refused(size: Any) -> None:
    """Two and three are what was measured."""
    with pytest.raises(ConfigurationError, match="size"):
        MedianSmoothing(size)


@pytest.mark.parametrize(
    "shape", [(), (28,), (28, 0), (28, -1), (28, 28, 3, 1), [28, 28], (28.0, 28), (True, 1), "ab", 28]
)
def test_shapes_that_cannot_be_are_refused(shape: Any) -> None:
    """Height, width, and channels where there are any."""
    with pytest.raises(ConfigurationError, match="shape"):
        MedianSmoothing(2, shape=shape)


@pytest.mark.parametrize("dtype", [np.int64, np.uint16, np.float16, bool, complex, object])
def test_other_dtypes_are_refused(dtype: Any) -> None:
    """Nobody would know in which one the answer is."""
    for squeeze in (BitDepth(2, low=0, high=1), MedianSmoothing(2)):
        with pytest.raises(ConfigurationError, match="takes arrays of float32, float64 or uint8"):
            squeeze([[0.0, 1.0], [1.0, 0.0]])  # type: ignore[arg-type]  # what somebody may have written
        with pytest.raises(ConfigurationError, match="float32, float64 or uint8"):
            squeeze(np.zeros((3, 3), dtype))


def test_octets_are_from_0_to_255() -> None:
    """Levels from 0 to 1 would make an image black, so they are refused."""
    with pytest.raises(ConfigurationError, match="low=0 and high=255"):
        BitDepth(2, low=0, high=1)(np.zeros((3, 3), np.uint8))


@pytest.mark.parametrize("shape", [(), (5,), (0, 3), (2, 3, 4, 5), (2, 3, 0)])
def test_what_is_no_image_is_refused(shape: tuple[int, ...]) -> None:
    """Without ``shape``, the array itself must be one image."""
    with pytest.raises(ConfigurationError, match="MedianSmoothing"):
        MedianSmoothing(2)(np.zeros(shape))


@pytest.mark.parametrize("shape", [(), (783,), (2, 785), (28,), (28, 29), (2, 28, 27)])
def test_what_is_not_of_the_shape_is_refused(shape: tuple[int, ...]) -> None:
    """A row of another length is no image."""
    with pytest.raises(ConfigurationError, match=r"shape=\(28, 28\)"):
        MedianSmoothing(2, shape=(28, 28))(np.zeros(shape))


def test_they_say_what_they_are() -> None:
    """For logs and for people who look at a guard."""
    assert repr(BitDepth(3, low=0, high=255)) == "BitDepth(3, low=0, high=255)"
    assert repr(MedianSmoothing(2)) == "MedianSmoothing(2)"
    assert repr(MedianSmoothing(3, shape=(28, 28))) == "MedianSmoothing(3, shape=(28, 28))"


def test_what_a_guard_is_given_is_tried_out() -> None:
    """A function that returns something else is found when the guard is built."""
    example = np.zeros((1, 4))
    median = MedianSmoothing(2, shape=(2, 2))
    assert squeezes([median, np.negative], example, where="Guard") == (median, np.negative)
    for wrong in (median, 3, None, [3], [lambda x: None], [lambda x: x[0]], [lambda x: x.astype(np.float32)]):
        with pytest.raises(ConfigurationError, match=r"Guard\(squeeze=\.\.\.\)"):
            squeezes(wrong, example, where="Guard")  # type: ignore[arg-type]  # what somebody may have written
