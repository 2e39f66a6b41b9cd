"""All weights that can be had: those that come with kbnet, those on the shelf, and those that have to be fetched."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from kbnet_cli import catalogue
from kbnet_cli.catalogue import Entry, Source, Task
from kbnet_cli.errors import FetchError, UsageError, WeightsError
from kbnet_cli.hub import address as addresses
from kbnet_cli.hub import transfer
from kbnet_cli.hub.address import HUB_FORM, Address, HubAddress, WebAddress
from kbnet_cli.hub.listing import Listed, State, Verdict, listed
from kbnet_cli.hub.shelf import Item, Shelf, sha256
from kbnet_cli.hub.transfer import Announce
from kbnet_cli.settings import Places

Tell = Callable[[str], None]
"""Told what a user should know, a line at a time."""
LARGEST_UNKNOWN_BYTES = 2_000_000_000
"""Files that no entry tells of may be this large: over three times the largest published network."""
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")


@dataclass(frozen=True)
class Wanted:
    """Weights that are to be on the shelf."""

    given: str
    """A name or an address, as the user wrote it."""
    key: str
    entry: Entry | None
    sources: tuple[Source, ...]

    @property
    def largest_bytes(self) -> int:
        """How large a file may be."""
        return LARGEST_UNKNOWN_BYTES if self.entry is None else self.entry.largest_bytes


class Library:
    """Names and addresses to files on this machine."""

    def __init__(self, places: Places, announce: Announce | None = None, tell: Tell | None = None) -> None:
        self.places = places
        self.shelf = Shelf(places.weights_folder.expanduser().absolute())
        self.announce = announce or (lambda _name: None)
        self.tell = tell or (lambda _text: None)

    def obtain(self, given: str | None, task: Task) -> Path:
        """Return the file of a name, an address or a path, or of the task's default; fetch it if it is not here.

        With everything here no connection is tried.

        Raises:
            WeightsError: there is none, or it cannot be trusted.
            FetchError: it cannot be had now.
        """
        given = catalogue.default(task) if given is None else given
        return self._here(given) or self._fetch(given, newest=False)

    def path(self, given: str) -> Path:
        """Return the file of a name, an address or a path that is here; nothing is fetched.

        Raises:
            WeightsError: it is not here.
        """
        found = self._here(given)
        if found is None:
            raise WeightsError(
                f"{given}: not on this machine",
                hint=f"kbnet weights pull {given} fetches it, or says why it cannot be had",
            )
        return found

    def pull(self, given: str, *, accept_change: bool = False) -> Path:
        """Fetch the weights of a name or an address, or see whether the Hub has them in a newer form.

        Args:
            given: a name of the catalogue, or an address.
            accept_change: take a file that is another than the first time, where no hash is published for it.

        Raises:
            WeightsError: it has no source, or the file cannot be trusted.
            FetchError: no source has it now.
        """
        return self._fetch(given, newest=True, accept_change=accept_change)

    def _fetch(self, given: str, *, newest: bool, accept_change: bool = False) -> Path:
        wanted = self._wanted(given)
        if wanted is None:
            return self._local(given)
        if wanted.entry is not None and wanted.entry.path is not None:
            return wanted.entry.path
        with self._locked(given, wanted.key):
            item = self.shelf.find(wanted.key) or self._dropped(wanted)
            if item is not None and not (newest and (accept_change or _may_have_changed(item))):
                return item.path
            failures: list[FetchError] = []
            for source in wanted.sources:
                try:
                    return self._fetched(wanted, source, newest=newest, accept_change=accept_change).path
                except FetchError as failure:
                    failures.append(failure)
            if item is not None:
                return item.path
            raise self._not_to_be_had(wanted, failures)

    def import_file(self, file: Path, name: str) -> Path:
        """Take a file that the user has under a name: of the catalogue, or one of its own.

        Raises:
            UsageError: the name cannot be one.
            WeightsError: the file is not what the name says, or no safe KBNet.
        """
        entry = catalogue.find(name)
        if entry is not None and entry.bundled is not None:
            raise UsageError(f"{name}: comes with kbnet and is not replaced", hint="choose another name")
        if not NAME.fullmatch(name):
            raise UsageError(
                f"{name}: not a name for weights", hint="small letters, digits, and . _ - between them, 100 at most"
            )
        with self._locked(name, name):
            item = self.shelf.find(name)
            if item is None:
                return self._kept(Wanted(name, name, entry, ()), file, origin=str(file.absolute())).path
            if item.record.origin_sha256 == sha256(file):
                return item.path
            raise WeightsError(
                f"{name}: is here already, from {item.record.origin}",
                hint=f"kbnet weights remove {name}, or another name",
            )

    def remove(self, given: str) -> None:
        """Delete weights from this machine. What an address gave is remembered all the same.

        Raises:
            WeightsError: they are not here, or come with kbnet.
        """
        entry = catalogue.find(given)
        if entry is not None and entry.bundled is not None:
            raise WeightsError(f"{given}: comes with kbnet", hint="it goes when kbnet is uninstalled")
        key = self._key(given)
        there = False
        if key is not None:
            with self._locked(given, key):
                item = next((item for item in self.shelf.items() if item.key == key), None)
                if item is not None and item.is_elsewhere:
                    transfer.forget_cached(item.path)
                transfer.forget_part(self._part(key))
                there = self.shelf.remove(key)
        if not there:
            raise WeightsError(f"{given}: not on this machine", hint="see kbnet weights list")

    def listing(self) -> Iterator[Listed]:
        """Return the catalogue, and what else is on the shelf."""
        items = {item.key: item for item in self.shelf.items()}
        for entry in catalogue.ENTRIES:
            item = items.pop(entry.name, None)
            if item is not None:
                yield listed(item, entry)
            elif entry.path is not None:
                yield Listed(entry.name, entry, "bundled", entry.path, entry.size_bytes, None)
            else:
                state: State = "to fetch" if entry.sources or self.places.hub_repo else "no public source known"
                yield Listed(entry.name, entry, state, None, entry.size_bytes, None)
        for item in items.values():
            yield listed(item, None)

    def verify(self) -> Iterator[Verdict]:
        """Read everything on the shelf whole: whether each is what it was, and a KBNet of finite numbers."""
        from kbnet_cli import checkpoint

        for item in self.shelf.items():
            error = None
            try:
                self.shelf.compare(item)
                checkpoint.load(item.path)
            except WeightsError as problem:
                error = problem
            yield Verdict(item.key, item.path, error)

    @contextmanager
    def _locked(self, given: str, key: str) -> Iterator[None]:
        with self.shelf.lock(key, waiting=lambda: self.tell(f"{given}: another kbnet is at work on it; waiting")):
            yield

    def _here(self, given: str) -> Path | None:
        """Return the file of what is given if it is on this machine; None if it could be fetched.

        Raises:
            WeightsError: it is neither here nor anything that could be fetched.
        """
        wanted = self._wanted(given)
        if wanted is None:
            return self._local(given)
        if wanted.entry is not None and wanted.entry.path is not None:
            return wanted.entry.path
        item = self.shelf.find(wanted.key)
        return None if item is None else item.path

    def _local(self, given: str) -> Path:
        path = Path(given)
        if path.is_dir():
            raise WeightsError(f"{given}: is a folder, expected a checkpoint", hint="give the file inside it")
        if not path.exists():
            names = ", ".join(entry.name for entry in catalogue.ENTRIES)
            raise WeightsError(
                f"{given}: no such weights, neither a file nor a name of the catalogue",
                hint=f"give a .safetensors or .pth file, {HUB_FORM}, or one of: {names}",
            )
        return path

    def _key(self, given: str) -> str | None:
        wanted = self._wanted(given)
        return None if wanted is None else wanted.key

    def _wanted(self, given: str) -> Wanted | None:
        """Return what a name or an address stands for; None for a path."""
        entry = catalogue.find(given)
        if entry is not None:
            return Wanted(given, given, entry, self._sources(entry))
        if NAME.fullmatch(given) and any(item.key == given for item in self.shelf.items()):
            return Wanted(given, given, None, ())
        address = addresses.parse(given)
        if address is None:
            return None
        return Wanted(given, addresses.key(address), None, (Source(str(address)),))

    def _sources(self, entry: Entry) -> tuple[Source, ...]:
        if self.places.hub_repo is None:
            return entry.sources
        return (Source(f"hf:{self.places.hub_repo}/{entry.name}.safetensors"), *entry.sources)

    def _dropped(self, wanted: Wanted) -> Item | None:
        """Take a file that the user has put into the folder by hand, under the name or under its source's."""
        fetched = [address.file for source in wanted.sources if (address := addresses.parse(source.address))]
        for name in (f"{wanted.key}.safetensors", f"{wanted.key}.pth", *(Path(file).name for file in fetched)):
            file = self.shelf.folder / name
            if file.is_file():
                return self._kept(wanted, file, origin=str(file))
        return None

    def _fetched(self, wanted: Wanted, source: Source, *, newest: bool, accept_change: bool) -> Item:
        address = addresses.parse(source.address)
        assert address is not None
        if isinstance(address, HubAddress):
            return self._fetched_from_hub(wanted, source, address, newest=newest, accept_change=accept_change)
        return self._fetched_from_web(wanted, source, address, accept_change=accept_change)

    def _fetched_from_hub(
        self, wanted: Wanted, source: Source, address: HubAddress, *, newest: bool, accept_change: bool
    ) -> Item:
        # What another program has fetched needs no connection.
        file = None if newest else transfer.cached(address)
        file = file or transfer.from_hub(address, largest_bytes=wanted.largest_bytes, announce=self.announce)
        with _forgotten_if_refused(lambda: transfer.forget_cached(file)):
            return self._trusted(wanted, source, address, file, accept_change=accept_change)

    def _fetched_from_web(self, wanted: Wanted, source: Source, address: WebAddress, *, accept_change: bool) -> Item:
        part = self._part(wanted.key)
        with _forgotten_if_refused(lambda: transfer.forget_part(part)):
            transfer.from_web(address, part, largest_bytes=wanted.largest_bytes, announce=self.announce)
            item = self._trusted(wanted, source, address, part, accept_change=accept_change)
        transfer.forget_part(part)
        return item

    def _part(self, key: str) -> Path:
        return self.shelf.folder / f"{key}.part"

    def _trusted(self, wanted: Wanted, source: Source, address: Address, file: Path, *, accept_change: bool) -> Item:
        """Keep a fetched file, if it is the one that it should be."""
        found = sha256(file)
        seen = self.shelf.ledger.seen(address)
        if source.sha256 is not None and found != source.sha256:
            raise WeightsError(
                f"{address}: not the file that it should be: sha256 should be {source.sha256}, is {found}",
                hint="it was damaged or exchanged; nothing of it is kept. Try again, or another source",
            )
        if source.sha256 is None and seen is not None and found != seen.sha256 and not accept_change:
            raise WeightsError(
                f"{address}: changed since {seen.first_seen}: sha256 was {seen.sha256}, is {found}",
                hint=f"if its owner says so: kbnet weights pull {wanted.given} --accept-change",
            )
        stays = isinstance(address, HubAddress)
        item = self._kept(wanted, file, origin=str(address), origin_sha256=found, stays=stays)
        if seen is None or seen.sha256 != found:
            with self.shelf.lock(), self.shelf.writing():
                self.shelf.ledger.record(address, found, file.stat().st_size)
        return item

    def _kept(
        self, wanted: Wanted, file: Path, *, origin: str, origin_sha256: str | None = None, stays: bool = False
    ) -> Item:
        """Check a file and put it on the shelf, as safetensors that say what they are for.

        One that is that already and may stay where it is (`stays`) is not copied.
        """
        origin_sha256 = origin_sha256 or sha256(file)
        with _said_of(origin, file):
            return self._checked(wanted, file, origin, origin_sha256, stays=stays)

    def _checked(self, wanted: Wanted, file: Path, origin: str, origin_sha256: str, *, stays: bool) -> Item:
        from kbnet_cli import checkpoint

        outline = checkpoint.outline(file)
        if wanted.entry is not None:
            _check_entry(wanted.entry, outline.architecture, outline.parameters, file)
        if stays and outline.facts.told:
            checkpoint.load(file)  # as thorough as a conversion: finite numbers only
            return self.shelf.put(wanted.key, file, origin=origin, origin_sha256=origin_sha256)
        converted = self.shelf.folder / f"{wanted.key}.converted"
        try:
            with self.shelf.writing():
                checkpoint.convert(file, converted, facts=None if wanted.entry is None else wanted.entry.facts)
            return self.shelf.put(wanted.key, converted, origin=origin, origin_sha256=origin_sha256)
        finally:
            converted.unlink(missing_ok=True)

    def _not_to_be_had(self, wanted: Wanted, failures: list[FetchError]) -> WeightsError:
        way_out = f"put the file into {self.shelf.folder} as {wanted.key}.safetensors or {wanted.key}.pth"
        if not failures:
            return WeightsError(
                f"{wanted.given}: no public source known",
                hint=f"if you have the file: kbnet weights import FILE --as {wanted.key}, or {way_out}",
            )
        problems = "; ".join(failure.message for failure in failures)
        hints = [failure.hint for failure in failures if failure.hint != FetchError.usual_hint]
        return FetchError(
            problems if len(failures) == 1 and not wanted.entry else f"{wanted.given}: cannot be fetched: {problems}",
            hint="; or ".join([*dict.fromkeys(hints), f"fetch it elsewhere and {way_out}"]),
        )


def _may_have_changed(item: Item) -> bool:
    """Return whether its origin is a branch of the Hub: what has a hash in its address, or none, stays as it is."""
    address = addresses.parse(item.record.origin)
    return isinstance(address, HubAddress) and not re.fullmatch(r"[0-9a-f]{40}", address.revision)


def _check_entry(entry: Entry, architecture: str, parameters: int, file: Path) -> None:
    if (architecture, parameters) != (entry.architecture, entry.parameters):
        raise WeightsError(
            f"{file.name}: {architecture} with {parameters:,} parameters, "
            f"expected {entry.architecture} with {entry.parameters:,} for {entry.name}",
            hint="this is another network; kbnet weights import FILE --as NAME takes it under a name of its own",
        )


@contextmanager
def _said_of(origin: str, file: Path) -> Iterator[None]:
    """Say what is wrong with a file of the place it came from: the name it has here tells a user nothing."""
    try:
        yield
    except FetchError:
        raise
    except WeightsError as error:
        raise WeightsError(error.message.replace(file.name, origin, 1), hint=error.hint) from error


@contextmanager
def _forgotten_if_refused(forget: Callable[[], None]) -> Iterator[None]:
    """Keep nothing of a file that is refused. A transfer that was cut is kept, and gone on with another time."""
    try:
        yield
    except FetchError:
        raise
    except WeightsError:
        forget()
        raise
