"""Tiles: legal sizes, no seam, any picture from 1×1 up, memory of one row of tiles."""

import numpy as np
import pytest
from jaxtyping import Float32

from kbnet_cli import tiles
from kbnet_cli.errors import UsageError

SIZES = [
    (1, 1),
    (1, 300),
    (2, 5),
    (16, 16),
    (17, 31),
    (64, 64),
    (65, 64),
    (97, 211),
    (300, 64),
    (127, 128),
    (500, 77),
]


def passed_through(
    layout: tiles.Plan, picture: Float32[np.ndarray, "h w c"], batch: int
) -> Float32[np.ndarray, "h w c"]:
    """Return what the identity gives, made of what `write` was called with."""
    answer = np.full_like(picture, np.nan)

    def write(top: int, strip: Float32[np.ndarray, "h w c"]) -> None:
        assert np.isnan(answer[top : top + strip.shape[0]]).all(), "each row is written once"
        answer[top : top + strip.shape[0]] = strip

    tiles.run(
        layout,
        read=lambda rows, columns: picture[np.ix_(rows, columns)],
        answer=lambda stack: stack.copy(),
        write=write,
        batch=batch,
    )
    return answer


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize(("tile", "overlap", "multiple"), [(64, 16, 16), (64, 0, 16), (64, 32, 8), (32, 7, 8)])
def test_identity_gives_back_the_picture(size: tuple[int, int], tile: int, overlap: int, multiple: int) -> None:
    picture = np.random.default_rng(0).standard_normal((*size, 3)).astype(np.float32)
    layout = tiles.plan(size, tile=tile, overlap=overlap, multiple=multiple)
    for batch in (1, 3):
        # The weights sum to one within the rounding of a few float32 additions.
        np.testing.assert_allclose(passed_through(layout, picture, batch), picture, atol=2e-6)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_every_tile_has_a_legal_size_and_a_large_picture_only_full_tiles(size: tuple[int, int]) -> None:
    layout = tiles.plan(size, tile=64, overlap=16, multiple=16)
    for axis in (layout.rows, layout.columns):
        assert axis.tile % 16 == 0
        assert axis.tile <= 64
        if axis.length > 64:
            assert axis.tile == 64
            steps = np.diff(axis.starts)
            assert steps.max() <= 64 - 16
            assert steps.max() - steps.min() <= 1, "tiles are evened out"
            assert axis.starts[0] == -8
            assert axis.starts[-1] + 64 == axis.length + 8


def test_a_picture_that_fits_a_legal_tile_goes_whole_and_unpadded() -> None:
    layout = tiles.plan((48, 64), tile=64, overlap=16, multiple=16)
    assert (layout.rows.starts, layout.rows.tile) == ((0,), 48)
    assert (layout.columns.starts, layout.columns.tile) == ((0,), 64)
    assert (layout.rows.weights[0] == 1).all()


@pytest.mark.parametrize("length", [65, 97, 200, 1000])
@pytest.mark.parametrize("overlap", [0, 7, 16, 32])
def test_blending_weights_sum_to_one_and_change_smoothly(length: int, overlap: int) -> None:
    axis = tiles.plan_axis(length, tile=64, overlap=overlap, multiple=16)
    total = np.zeros(length + 2 * 64)
    for start, weight in zip(axis.starts, axis.weights, strict=True):
        total[start + 64 : start + 128] += weight
        if overlap:
            # A raised cosine over n positions climbs by at most pi / 2n a step, twice that where two ramps meet.
            assert np.abs(np.diff(weight)).max() <= np.pi / overlap
    np.testing.assert_allclose(total[64:-64], 1, atol=1e-6)


def test_borders_are_reflected_as_numpy_reflects() -> None:
    picture = np.arange(5)
    axis = tiles.Axis(5, 16, 0, (-3,))
    np.testing.assert_array_equal(picture[axis.indices(-3)], np.pad(picture, (3, 8), mode="reflect"))


def test_progress_counts_each_tile_once() -> None:
    layout = tiles.plan((150, 200), tile=64, overlap=16, multiple=16)
    seen: list[tuple[int, int]] = []
    picture = np.zeros((150, 200, 3), np.float32)
    tiles.run(
        layout,
        read=lambda rows, columns: picture[np.ix_(rows, columns)],
        answer=lambda stack: stack,
        write=lambda _top, _strip: None,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(k + 1, layout.tiles) for k in range(layout.tiles)]


@pytest.mark.parametrize(
    ("tile", "overlap", "hint"),
    [(100, 16, "--tile 96"), (0, 0, "--tile 16"), (64, 40, "--overlap 32"), (64, -1, "--overlap 0")],
)
def test_illegal_tiles_are_refused_with_a_legal_one(tile: int, overlap: int, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        tiles.plan((100, 100), tile=tile, overlap=overlap, multiple=16)
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    "where", [slice(0, 9), slice(0, 4), slice(3, 6), slice(4, 9), slice(4, 5), slice(0, 0)], ids=str
)
def test_weights_are_cut_where_they_are_one(where: slice) -> None:
    weights = np.full(9, 0.5, np.float32)
    weights[where] = 1
    parts = tiles._parts(weights)
    assert [position for part, _ in parts for position in range(part.start, part.stop)] == list(range(9))
    for part, whole in parts:
        assert (weights[part] == (1 if whole else 0.5)).all()


def test_a_hole_in_the_ones_is_weighted() -> None:
    weights = np.array([1, 0.5, 1], np.float32)
    assert tiles._parts(weights) == [(slice(0, 3), False)]
