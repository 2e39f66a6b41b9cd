"""Which file becomes which, and what became of each: the only room that touches the disk for photos.

It knows no network. A photo that fails is kept apart from the others, and an output appears whole or not at all.
"""

from kbnet_cli.batch.journals import Journals
from kbnet_cli.batch.opening import read
from kbnet_cli.batch.order import STANDARD, Existing, Job, Order, Outcome, Restored
from kbnet_cli.batch.pipeline import Pace, Stop, process
from kbnet_cli.batch.planning import Claims, check_watched, jobs, pictures, watched
from kbnet_cli.batch.preview import CodecTimes, preview
from kbnet_cli.batch.writing import abandon, write

__all__ = [
    "STANDARD",
    "Claims",
    "CodecTimes",
    "Existing",
    "Job",
    "Journals",
    "Order",
    "Outcome",
    "Pace",
    "Restored",
    "Stop",
    "abandon",
    "check_watched",
    "jobs",
    "pictures",
    "preview",
    "process",
    "read",
    "watched",
    "write",
]
