"""One call with --dry-run: what each photo would become and take, and what all would. Nothing is written."""

from collections.abc import Sequence

from kbnet_cli import batch, machine
from kbnet_cli.errors import UsageError
from kbnet_cli.forecast import forecast, probe
from kbnet_cli.lanes import lanes
from kbnet_cli.pacing import Means, cost, lane_count, pace_for
from kbnet_cli.preparing import Voice
from kbnet_cli.selection import Selection
from kbnet_cli.telling import Foreteller


def run(
    listed: Sequence[batch.Job],
    order: batch.Order,
    networks: Selection,
    voice: Voice,
    means: Means,
    journals: batch.Journals | None,
) -> int:
    """Tell the plan and return the exit code: 1 if a photo would fail.

    Time is measured here and now: some tiles in the network, and of each kind of file the first photo is decoded and
    encoded.

    Raises:
        UsageError: photos come by themselves, so that there is no plan.
    """
    if order.stream or order.watch:
        raise UsageError("--dry-run has to know the photos", hint="name files or folders; no --stream or --watch")
    usual = networks.usual()
    alone = len(listed) == 1
    pace = pace_for(means, networks, len(listed))  # before the probe takes memory
    with lanes(lane_count(means, networks), shared=not alone, device=networks.choice.device) as own:
        measured = probe(usual, networks.settings, own, gpu=networks.choice.device.type == "cuda")
    told = Foreteller(voice, networks.choice)
    codecs = batch.CodecTimes(order)
    held: list[int] = []
    for outcome in batch.preview(listed, order, journals=journals):
        extent = outcome.extent
        if extent is None or outcome.status != "done":
            told.photo(outcome, None)
            continue
        file_bytes = outcome.job.source.stat().st_size if outcome.job.source != batch.STANDARD else 0
        expected = forecast(extent, file_bytes, usual, networks.settings, measured)
        seconds = codecs.seconds(outcome.job, extent)
        told.photo(outcome, expected.with_codecs(seconds if alone else seconds / machine.cores()))
        held = sorted([*held, cost(outcome.job)])[-pace.photos :]
    told.summary(measured.peak_bytes + min(sum(held), max(pace.memory_bytes, max(held, default=0))), networks.notes)
    return 1 if told.totals.failed else 0
