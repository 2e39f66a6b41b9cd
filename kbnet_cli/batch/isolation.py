"""One photo kept apart from the next: whatever goes wrong with it becomes its outcome."""

from collections.abc import Callable

from kbnet_cli.batch.order import Job, Outcome
from kbnet_cli.errors import KBNetError, PhotoError
from kbnet_cli.formats.extent import Extent
from kbnet_cli.photo import Photo


class Dropped(BaseException):
    """A photo is left, because stopping was asked for: no error, and nothing that catches errors catches it."""


def isolated(job: Job, work: Callable[[], Outcome]) -> Outcome:
    """Do what is to be done with a photo, and return what became of it.

    Raises:
        KBNetError: what would fail every photo alike: weights, device.
        Dropped: the photo is left.
    """
    try:
        return work()
    except PhotoError as error:
        return Outcome(job, "failed", error=_named(error, job), unexpected=error.__cause__)
    except (KBNetError, Dropped):
        raise
    except Exception as error:
        # Whatever a decoder may throw.
        kind = "out of memory" if isinstance(error, MemoryError) else f"{type(error).__name__}: {error}"
        failure = PhotoError(f"{job.name}: unexpected {kind}", hint="run again with -v and report it")
        return Outcome(job, "failed", error=failure, unexpected=error)


def _named(error: PhotoError, job: Job) -> PhotoError:
    """Put the photo's name before what went wrong with it, unless a name stands there already."""
    if error.message.startswith((f"{job.source}: ", f"{job.target}: ", f"{job.name}: ")):
        return error
    return type(error)(f"{job.name}: {error.message}", hint=error.hint)


def extent_of(kind: str, photo: Photo) -> Extent:
    """Return the extent of a photo that is there already."""
    height, width = photo.size
    pixels = photo.pixels
    return Extent(kind, height, width, pixels.shape[2], pixels.itemsize, photo.alpha is not None)
