"""Pure geometry: how a picture of any size becomes tiles of a legal size, and tiles a picture without a seam."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from functools import cached_property
from itertools import product

import numpy as np
from jaxtyping import Float32, Int

from kbnet_cli.errors import UsageError

Indices = Int[np.ndarray, "_"]
"""Rows or columns of a picture."""
Read = Callable[[Indices, Indices], Float32[np.ndarray, "h w c"]]
Answer = Callable[[Float32[np.ndarray, "b h w c"]], Float32[np.ndarray, "b h w c"]]
Write = Callable[[int, Float32[np.ndarray, "h w c"]], None]


@dataclass(frozen=True)
class Lanes:
    """Where several tiles are answered at once; for several pictures at the same time, in the order of asking."""

    pool: Executor
    count: int
    """How many at once."""
    shared: bool = False
    """Whether there are several pictures at a time. Otherwise one that fits a tile is better answered by the caller."""


@dataclass(frozen=True)
class Axis:
    """The tiles along one side of a picture: all of one size, evenly spaced, the ends reaching over the border."""

    length: int
    tile: int
    overlap: int
    starts: tuple[int, ...]
    """Where each tile begins. Before 0 and behind `length` the picture is reflected."""

    def indices(self, start: int) -> Indices:
        """Return which row or column of the picture each of a tile's shows, reflected as often as needed."""
        if self.length == 1:
            return np.zeros(self.tile, dtype=np.int64)
        period = 2 * (self.length - 1)
        position = np.abs(np.arange(start, start + self.tile)) % period
        return np.minimum(position, period - position)

    @cached_property
    def weights(self) -> tuple[Float32[np.ndarray, " tile"], ...]:
        """How much each tile counts at each of its positions: over all tiles they sum to one everywhere."""
        ramp = np.sin((np.arange(self.overlap) + 0.5) / max(1, self.overlap) * np.pi / 2) ** 2
        window = np.ones(self.tile)
        window[: self.overlap] = ramp
        window[self.tile - self.overlap :] *= ramp[::-1]
        total = np.zeros(self.starts[-1] - self.starts[0] + self.tile)
        offsets = [start - self.starts[0] for start in self.starts]
        for offset in offsets:
            total[offset : offset + self.tile] += window
        return tuple((window / total[o : o + self.tile]).astype(np.float32) for o in offsets)


@dataclass(frozen=True)
class Plan:
    """Which tiles a picture is cut into."""

    rows: Axis
    columns: Axis

    @property
    def tiles(self) -> int:
        """How many tiles there are."""
        return len(self.rows.starts) * len(self.columns.starts)


def plan(size: tuple[int, int], *, tile: int, overlap: int, multiple: int) -> Plan:
    """Cut a picture of (height, width) into tiles of a legal size.

    A picture that fits one tile goes whole; where its size is no multiple of `multiple` it is reflected up to the next
    at the right and bottom. A larger one is cut into tiles of exactly `tile`, since what a network makes of a pixel
    depends on its whole tile, evenly spaced so that they overlap by at least `overlap`, and reflected by half of that
    beyond the outer edges, so that no pixel of the picture stands where the network pads with zeros.

    Raises:
        UsageError: `tile` is no multiple of `multiple`, or `overlap` is negative or over half the tile.
    """
    if tile < multiple or tile % multiple:
        nearest = max(multiple, round(tile / multiple) * multiple)
        raise UsageError(
            f"a tile of {tile} pixels does not fit these weights: expected a multiple of {multiple}",
            hint=f"use --tile {nearest}",
        )
    if not 0 <= overlap <= tile // 2:
        raise UsageError(
            f"an overlap of {overlap} pixels does not fit tiles of {tile}: expected 0 to {tile // 2}",
            hint=f"use --overlap {min(max(overlap, 0), tile // 2)}",
        )
    height, width = size
    return Plan(*(plan_axis(n, tile=tile, overlap=overlap, multiple=multiple) for n in (height, width)))


def plan_axis(length: int, *, tile: int, overlap: int, multiple: int) -> Axis:
    """Place tiles along one side of a picture."""
    if length <= tile:
        return Axis(length, -(-length // multiple) * multiple, 0, (0,))
    border = overlap // 2
    first, last = -border, length + border - tile
    count = 1 + max(1, -(-(last - first) // (tile - overlap)))
    starts = tuple(first + round(k * (last - first) / (count - 1)) for k in range(count))
    return Axis(length, tile, overlap, starts)


def default_overlap(tile: int) -> int:
    """Return an eighth of the tile, at least 16: wide enough that no seam shows, without much work done twice."""
    return min(tile // 2, max(16, tile // 8))


def run(
    layout: Plan,
    *,
    read: Read,
    answer: Answer,
    write: Write,
    batch: int = 1,
    lanes: Lanes | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Send a picture through `answer` tile by tile and blend what comes back.

    Args:
        layout: the tiles.
        read: gives the pixels at some rows and columns, (height, width, channels).
        answer: maps up to `batch` tiles (batch, height, width, channels) to as many of the same shape.
        write: takes finished rows, as (first row, values); called from top to bottom, each row once.
        batch: how many tiles of one row of tiles go to `answer` at once.
        lanes: where `read` and `answer` are called; None: by the caller, one after the other.
        progress: told (tiles done, tiles in all) after each batch.

    At any time only one row of tiles is held, whatever the height of the picture.
    """
    rows, columns = layout.rows, layout.columns
    left = columns.starts[0]
    right = columns.starts[-1] + columns.tile
    strip: Float32[np.ndarray, "h w c"] | None = None
    done = 0

    def asked(k: int, chosen: range) -> Float32[np.ndarray, "b h w c"]:
        indices = rows.indices(rows.starts[k])
        given = [read(indices, columns.indices(columns.starts[j])) for j in chosen]
        return answer(given[0][None] if len(given) == 1 else np.stack(given))

    edges = range(0, len(columns.starts), batch)
    groups = [range(first, min(first + batch, len(columns.starts))) for first in edges]
    answered = _in_order(
        asked, product(range(len(rows.starts)), groups), lanes if layout.tiles > 1 or (lanes and lanes.shared) else None
    )
    for k, top in enumerate(rows.starts):
        for chosen in groups:
            answers = next(answered)
            if strip is None:
                strip = np.zeros((rows.tile, right - left, answers.shape[-1]), dtype=np.float32)
            for j, values in zip(chosen, answers, strict=True):
                offset = columns.starts[j] - left
                _blend(strip, offset, values, rows.weights[k], columns.weights[j])
            done += len(chosen)
            if progress is not None:
                progress(done, layout.tiles)
        assert strip is not None
        finished = rows.starts[k + 1] - top if k + 1 < len(rows.starts) else rows.tile
        inside = slice(max(0, -top), min(finished, rows.length - top))
        if inside.start < inside.stop:
            write(top + inside.start, strip[inside, -left : -left + columns.length])
        # What is left begins the next row of tiles.
        strip[: rows.tile - finished] = strip[finished:].copy()
        strip[rows.tile - finished :] = 0


def _blend(
    strip: Float32[np.ndarray, "h w c"],
    offset: int,
    values: Float32[np.ndarray, "h tile c"],
    down: Float32[np.ndarray, " h"],
    across: Float32[np.ndarray, " tile"],
) -> None:
    """Add a tile to the strip, so many columns from the left, each position by how much it counts."""
    # Flat, since numpy is slow where the last axis is short.
    high, wide, channels = values.shape
    place = strip.reshape(high, -1)[:, offset * channels : (offset + wide) * channels]
    tile, along = values.reshape(high, -1), np.repeat(across, channels)
    for rows, whole_rows in _parts(down):
        for columns, whole_columns in _parts(along):
            here = place[rows, columns]
            if whole_rows and whole_columns:
                here += tile[rows, columns]
            else:
                weighted = down[rows, None] * along[columns]
                weighted *= tile[rows, columns]
                here += weighted


def _parts(weights: Float32[np.ndarray, " n"]) -> list[tuple[slice, bool]]:
    """Cut weights where they begin and end to be exactly one, and tell of each part whether they are."""
    ones = np.flatnonzero(weights == 1)
    first, last = (int(ones[0]), int(ones[-1]) + 1) if len(ones) else (0, 0)
    parts = (
        (slice(0, first), False),
        (slice(first, last), last - first == len(ones)),
        (slice(last, len(weights)), False),
    )
    return [(part, whole) for part, whole in parts if part.start < part.stop]


def _in_order(
    work: Callable[[int, range], Float32[np.ndarray, "b h w c"]],
    parts: Iterable[tuple[int, range]],
    lanes: Lanes | None,
) -> Iterator[Float32[np.ndarray, "b h w c"]]:
    """Give what `work` makes of each part, in their order, while the lanes are at the next ones."""
    if lanes is None:
        yield from (work(*part) for part in parts)
        return
    waiting: deque[Future[Float32[np.ndarray, "b h w c"]]] = deque()
    try:
        for part in parts:
            waiting.append(lanes.pool.submit(work, *part))
            if len(waiting) >= 2 * lanes.count:  # some answers may wait for their turn to be blended
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
