"""Files that lie beside a photo and tell of it: `.xmp`, as darktable (a.cr2.xmp) and Lightroom (a.xmp) name them."""

from dataclasses import dataclass
from pathlib import Path

from kbnet_cli.batch import writing
from kbnet_cli.batch.order import STANDARD, Existing, Job
from kbnet_cli.batch.planning import Claims
from kbnet_cli.errors import InputError, OutputError

EXTENSIONS = (".xmp", ".XMP")


@dataclass(frozen=True)
class Sidecar:
    """A file that goes along with a photo as it is."""

    target: Path
    data: bytes


def sidecars(job: Job, existing: Existing, claims: Claims, *, replaces: bool = False) -> tuple[Sidecar, ...]:
    """Read what lies beside a photo and is not there yet beside its output.

    Only with --overwrite, and where the output itself `replaces` another, it takes the place of a file that differs:
    otherwise that is another photo's, or holds somebody's edits.

    Raises:
        InputError: one cannot be read.
        OutputError: another file stands in its place, and is not to be replaced.
    """
    if STANDARD in (job.source, job.target):
        return ()
    found = []
    for stem, goal in ((job.source.name, job.target.name), (job.source.stem, job.target.stem)):
        for extension in EXTENSIONS:
            source, target = job.source.with_name(stem + extension), job.target.with_name(goal + extension)
            try:
                data = source.read_bytes()
            except FileNotFoundError:
                continue
            except OSError as error:
                raise InputError(f"{source}: cannot be read: {error.strerror}") from error
            claims.claim_sidecar(target, source)
            if not _is_there(target, data, existing, replaces=replaces):
                found.append(Sidecar(target, data))
            break  # file systems that do not tell .xmp from .XMP have one of both
    return tuple(found)


def _is_there(target: Path, data: bytes, existing: Existing, *, replaces: bool) -> bool:
    try:
        same = target.read_bytes() == data
    except FileNotFoundError:
        return False
    except OSError:
        same = False
    if same or existing in ("skip", "resume"):  # whoever goes on may have edited it since
        return True
    if existing == "overwrite" and replaces:
        return False
    raise OutputError(f"{target}: exists already and is another file", hint="move it away, or leave out --sidecars")


def write(found: tuple[Sidecar, ...], *, overwrite: bool) -> None:
    """Write sidecars, each whole or not at all.

    Raises:
        OutputError: one cannot be written.
    """
    for sidecar in found:
        try:
            writing.write(sidecar.target, sidecar.data, overwrite=overwrite)
        except OutputError:
            # Raw and JPEG of one name share one, and may write it at the same time.
            if not _is_there(sidecar.target, sidecar.data, "overwrite", replaces=True):
                raise
