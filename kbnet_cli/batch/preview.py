"""What would become of photos, by their headers where these tell enough: nothing is restored and nothing written."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial

from kbnet_cli.batch.isolation import extent_of, isolated
from kbnet_cli.batch.journals import Journals
from kbnet_cli.batch.opening import existing_output, open_photo, read
from kbnet_cli.batch.order import STANDARD, Job, Order, Outcome
from kbnet_cli.batch.planning import Claims, settle
from kbnet_cli.errors import KBNetError
from kbnet_cli.formats import codec
from kbnet_cli.formats.extent import Extent, extent


def peek(job: Job) -> Extent | None:
    """Return how large a photo is, by its header; None where that does not tell, or cannot be read."""
    if job.source == STANDARD:
        return None
    try:
        with job.source.open("rb") as file:
            return extent(file, job.source.stat().st_size)
    except OSError:
        return None


def preview(found: Iterable[Job], order: Order, *, journals: Journals | None = None) -> Iterator[Outcome]:
    """Tell of each photo whether it would be done, and how large it is.

    A photo whose header is as usual is not read further, so damage behind it does not show.
    """
    claims = Claims()
    for job in found:
        started = time.perf_counter()
        outcome = isolated(job, partial(_previewed, job, order, claims, journals))
        yield replace(outcome, seconds=time.perf_counter() - started)


class CodecTimes:
    """How long decoding and encoding take: measured on the first photo of each kind of input and output."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._seconds_a_megapixel: dict[tuple[str, str], float] = {}

    def seconds(self, job: Job, extent: Extent) -> float:
        """Return what a photo takes, settled and not restored yet; 0 where the first one cannot be read."""
        kind = job.source.suffix.lower(), job.format or ""
        if kind not in self._seconds_a_megapixel:
            self._seconds_a_megapixel[kind] = self._measured(job) / extent.megapixels
        return self._seconds_a_megapixel[kind] * extent.megapixels

    def _measured(self, job: Job) -> float:
        order, started = self._order, time.perf_counter()
        try:
            data = read(job.source)
            development = replace(order.development, mode=codec.raw_mode_for(job.format or "", order.raw_mode))
            photo = codec.decode(data, development=development)
            codec.encode(photo, job.format or "", depth=order.depth, quality=order.quality)
        except (KBNetError, OSError):
            return 0.0
        return time.perf_counter() - started


def _previewed(job: Job, order: Order, claims: Claims, journals: Journals | None) -> Outcome:
    seen = None if job.error is not None else peek(job)
    if seen is not None:
        settled = settle(job, order, codec.natural_output(seen.kind, order.raw_mode))
        assert settled.format is not None
        # What might not fit its format is decoded, and refused as it would be.
        if seen.channels < 4 and order.max_megapixels is None and _fits(seen.kind, settled.format, order):
            claims.claim(settled)
            found = existing_output(settled, order, journals)
            return Outcome(settled, found if isinstance(found, str) else "done", seen)
    opened = open_photo(job, order, claims, journals)
    if opened.photo is None:
        return Outcome(opened.job, opened.status or "skipped")
    assert opened.job.format is not None
    return Outcome(opened.job, "done", extent_of(opened.job.format, opened.photo))


def _fits(kind: str, format: str, order: Order) -> bool:
    target = codec.format_named(format)
    if order.depth is not None and order.depth not in target.depths:
        return False
    if kind == "raw":
        return order.raw_mode in (None, "linear" if target.camera else "developed")
    return not target.camera
