"""What would become of photos, by their headers where these tell enough: nothing is restored and nothing written."""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial

from kbnet_cli.batch.isolation import extent_of, isolated
from kbnet_cli.batch.journals import Journals
from kbnet_cli.batch.opening import existing_output, open_photo, read
from kbnet_cli.batch.order import STANDARD, Job, Order, Outcome
from kbnet_cli.batch.planning import Claims, settle
from kbnet_cli.batch.sidecars import sidecars
from kbnet_cli.formats import codec
from kbnet_cli.formats.extent import Extent, extent


def peek(job: Job) -> Extent | None:
    """Return how large a photo is, by its header; None where that does not tell, or cannot be read."""
    if job.source == STANDARD:
        return None
    try:
        with job.source.open("rb") as file:
            return extent(file, job.source.stat().st_size)
    except Exception:  # whatever is wrong with one file, reading it will say
        return None


def preview(found: Iterable[Job], order: Order, *, journals: Journals | None = None) -> Iterator[Outcome]:
    """Tell of each photo whether it would be done, and how large it is.

    A photo whose header is as usual is not read further, so damage behind it does not show.
    """
    claims = Claims(found) if isinstance(found, Sequence) else Claims()
    for job in found:
        started = time.perf_counter()
        outcome = isolated(job, partial(_previewed, job, order, claims, journals))
        if outcome.status == "failed":
            claims.release(job)
        yield replace(outcome, seconds=time.perf_counter() - started)


class CodecTimes:
    """How long decoding and encoding take: measured on the first photo of each kind of input and output."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._seconds_a_megapixel: dict[tuple[str, str], float] = {}

    def seconds(self, job: Job, extent: Extent) -> float:
        """Return what a photo takes, settled and not restored yet; 0 where none of its kind could be read so far."""
        kind = job.source.suffix.lower(), job.format or ""
        if kind not in self._seconds_a_megapixel:
            measured = self._measured(job)
            if measured is None:
                return 0.0
            self._seconds_a_megapixel[kind] = measured / extent.megapixels
        return self._seconds_a_megapixel[kind] * extent.megapixels

    def _measured(self, job: Job) -> float | None:
        order, started = self._order, time.perf_counter()
        try:
            data = read(job.source)
            development = replace(order.development, mode=codec.raw_mode_for(job.format or "", order.raw_mode))
            photo = codec.decode(data, max_megapixels=order.max_megapixels, development=development)
            codec.encode(photo, job.format or "", depth=order.depth, quality=order.quality)
        except Exception:  # whatever a decoder may throw: it fails this photo when its turn comes
            return None
        return time.perf_counter() - started


def _previewed(job: Job, order: Order, claims: Claims, journals: Journals | None) -> Outcome:
    seen = None if job.error is not None else peek(job)
    if seen is not None:
        settled = settle(job, order, codec.natural_output(seen.kind, order.raw_mode))
        assert settled.format is not None
        # What might not fit its format is decoded, and refused as it would be.
        if seen.channels < 4 and order.max_megapixels is None and _fits(seen.kind, settled.format, order):
            claims.claim(settled)
            found = existing_output(settled, order, claims, journals)
            if isinstance(found, str):
                return Outcome(settled, found)
            if order.sidecars:
                sidecars(settled, order.existing, claims, replaces=found)  # one that stands in the way is told
            return Outcome(settled, "done", seen)
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
