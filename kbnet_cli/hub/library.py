"""All weights that can be had: those that come with kbnet, those on the shelf, and those that have to be fetched."""

import difflib
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from kbnet_cli import catalogue
from kbnet_cli.catalogue import Entry, Source, Task
from kbnet_cli.errors import FetchError, UsageError, WeightsError
from kbnet_cli.hub import address as addresses
from kbnet_cli.hub.address import HUB_FORM, HubAddress
from kbnet_cli.hub.intake import Intake, Wanted
from kbnet_cli.hub.listing import Listed, State, Verdict, listed
from kbnet_cli.hub.shelf import FolderError, Item, Shelf, sha256, status_of
from kbnet_cli.hub.transfer import Announce
from kbnet_cli.settings import Places

Tell = Callable[[str], None]
"""Told what a user should know, a line at a time."""
# With an ending it would stand before a file of that name.
NAME = re.compile(r"(?!.*\.(safetensors|pth|pt|ckpt)$)[a-z0-9][a-z0-9._-]{0,99}")


class Library:
    """Names and addresses to files on this machine."""

    def __init__(self, places: Places, announce: Announce | None = None, tell: Tell | None = None) -> None:
        self.places = places
        self.shelf = Shelf(places.weights_folder.absolute())
        self.intake = Intake(self.shelf, announce or (lambda _name: None))
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
        if found is not None:
            return found
        wanted = self._wanted(given)
        if wanted is not None and self._dropped(wanted) is not None:
            return self._fetch(given, newest=False)
        raise WeightsError(
            f"{given}: not on this machine", hint=f"kbnet weights pull {given} fetches it, or says why it cannot be had"
        )

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

    def import_file(self, file: Path, name: str) -> Path:
        """Take a file that the user has under a name: of the catalogue, or one of its own.

        Raises:
            UsageError: the name cannot be one.
            WeightsError: the file is not what the name says, or no safe KBNet, or the name has another.
        """
        entry = catalogue.find(name)
        if entry is not None and entry.bundled is not None:
            raise UsageError(f"{name}: comes with kbnet and is not replaced", hint="choose another name")
        if not NAME.fullmatch(name):
            raise UsageError(
                f"{name[:120]}: not a name for weights",
                hint="small letters, digits, and . _ - between them, 100 at most, and not the ending of a file",
            )
        with self._locked(name, name):
            item = self.shelf.find(name)
            if item is None:
                return self.intake.take(Wanted(name, name, entry, ()), file).path
            if status_of(file) is not None and item.record.origin_sha256 == sha256(file):
                return item.path
        raise WeightsError(
            f"{name}: is here already, from {item.record.origin}", hint=f"kbnet weights remove {name}, or another name"
        )

    def remove(self, given: str) -> None:
        """Forget weights, and delete what kbnet has fetched or made for them. The hash of an address is remembered.

        Raises:
            WeightsError: they are not here, or come with kbnet.
        """
        entry = catalogue.find(given)
        if entry is not None and entry.bundled is not None:
            raise WeightsError(f"{given}: comes with kbnet", hint="it goes when kbnet is uninstalled")
        wanted = self._wanted(given)
        there = False
        if wanted is not None:
            with self._locked(given, wanted.key):
                self.intake.forget_part(wanted.key)
                there = self.shelf.remove(wanted.key)
        if wanted is None or not there:
            raise WeightsError(f"{given}: not on this machine", hint="see kbnet weights list")
        dropped = self._dropped(wanted)
        if dropped is not None:
            self.tell(f"{given}: {dropped} is yours and stays; it is used again when {given} is named")

    def listing(self) -> Iterator[Listed]:
        """Return the catalogue, and what else is on the shelf."""
        items = {item.key: item for item in self.shelf.items()}
        for entry in catalogue.ENTRIES:
            item = items.pop(entry.name, None)
            if item is not None and status_of(item.path) is not None:
                yield listed(item, entry)
            elif entry.path is not None:
                yield Listed(entry.name, entry, "bundled", entry.path, entry.size_bytes, None, None)
            else:
                dropped = self._dropped(Wanted(entry.name, entry.name, entry, self._sources(entry)))
                state: State = "to fetch" if entry.sources or self.places.hub_repo else "no public source known"
                yield Listed(entry.name, entry, "here" if dropped else state, dropped, entry.size_bytes, None, None)
        for item in items.values():
            yield listed(item, None)

    def verify(self) -> Iterator[Verdict]:
        """Read everything on the shelf whole: whether each is what it was, and a KBNet of finite numbers."""
        from kbnet_cli import checkpoint

        for item in self.shelf.items():
            with _judged() as problems:
                self.shelf.compare(item)
                checkpoint.load(item.path)
            yield Verdict(item.key, item.path, next(iter(problems), None))
        for entry in catalogue.ENTRIES:
            wanted = Wanted(entry.name, entry.name, entry, self._sources(entry))
            file = self._dropped(wanted)
            if file is not None and self.shelf.item(entry.name) is None:
                with _judged() as problems:
                    self.intake.check(wanted, file, str(file))
                    checkpoint.load(file)
                yield Verdict(entry.name, file, next(iter(problems), None))

    def _here(self, given: str) -> Path | None:
        """Return the file of what is given if it is on this machine; None if it could be fetched.

        Raises:
            WeightsError: it is neither here nor anything that could be fetched.
        """
        wanted = self._wanted(given)
        if wanted is None:
            return _local(given)
        if wanted.entry is not None and wanted.entry.path is not None:
            return wanted.entry.path
        item = self.shelf.find(wanted.key)
        return None if item is None else item.path

    def _fetch(self, given: str, *, newest: bool, accept_change: bool = False) -> Path:
        wanted = self._wanted(given)
        if wanted is None or (wanted.entry is not None and wanted.entry.path is not None):
            return self.path(given)

        def kept() -> Item | None:
            """Return what is here, unless the user wants to hear what the source has now."""
            item = None if accept_change else self.shelf.find(wanted.key)
            return None if item is not None and newest and _may_change(item) else item

        item = kept()
        if item is not None:
            return item.path
        with self._locked(given, wanted.key):
            item = kept()  # another process may have been at it
            dropped = self._dropped(wanted)
            if dropped is not None and self.shelf.item(wanted.key) is None and not accept_change:
                item = self._taken(wanted, dropped)
            if item is not None:
                return item.path
            failures: list[FetchError] = []
            for source in wanted.sources:
                try:
                    return self.intake.fetch(wanted, source, newest=newest, accept_change=accept_change).path
                except FolderError:
                    raise  # no other source would help
                except FetchError as failure:
                    failures.append(failure)
            item = self.shelf.find(wanted.key)
            if item is not None:
                if failures:
                    self.tell(f"{given}: stays as it is here: {'; '.join(failure.message for failure in failures)}")
                return item.path
            raise self._not_to_be_had(wanted, failures)

    def _locked(self, given: str, key: str) -> AbstractContextManager[None]:
        return self.shelf.lock(key, waiting=lambda: self.tell(f"{given}: another kbnet is at work on it; waiting"))

    def _wanted(self, given: str) -> Wanted | None:
        """Return what a name or an address stands for; None for a path."""
        entry = catalogue.find(given)
        if entry is not None:
            return Wanted(given, given, entry, self._sources(entry))
        if NAME.fullmatch(given) and self.shelf.item(given) is not None:
            return Wanted(given, given, None, self._own_source(given))
        address = addresses.parse(given)
        if address is None:
            return None
        return Wanted(given, addresses.key(address), None, (Source(str(address)),))

    def _own_source(self, key: str) -> tuple[Source, ...]:
        """Return where something came from that is listed under its key, so that it can be pulled by it."""
        item = self.shelf.item(key)
        try:
            address = None if item is None else addresses.parse(item.record.origin)
        except UsageError:
            address = None
        return () if address is None else (Source(str(address)),)

    def _sources(self, entry: Entry) -> tuple[Source, ...]:
        if self.places.hub_repo is None:
            return entry.sources
        return (Source(f"hf:{self.places.hub_repo}/{entry.name}.safetensors"), *entry.sources)

    def _dropped(self, wanted: Wanted) -> Path | None:
        """Return a file that the user has put into the folder by hand: under the name or, of an entry, its source's."""
        names = [f"{wanted.key}.safetensors", f"{wanted.key}.pth"]
        if wanted.entry is not None:
            names += [source.address.rpartition("/")[2] for source in wanted.entry.sources]
        return next((path for name in names if status_of(path := self.shelf.folder / name) is not None), None)

    def _taken(self, wanted: Wanted, file: Path) -> Item:
        """Keep a file that the user has put into the folder, if it is none that is known to be another."""
        known = {source.sha256 for source in wanted.sources} - {None}
        if file.suffix == ".pth" and known and sha256(file) not in known:
            raise WeightsError(
                f"{file}: not the file that it should be: its sha256 is none of {', '.join(map(str, known))}",
                hint=f"kbnet weights import {file} --as NAME takes it under a name of its own",
            )
        return self.intake.take(wanted, file)

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


@contextmanager
def _judged() -> Iterator[list[WeightsError]]:
    """Collect what is wrong, instead of stopping at it."""
    problems: list[WeightsError] = []
    try:
        yield problems
    except WeightsError as problem:
        problems.append(problem)


def _local(given: str) -> Path:
    path = Path(given)
    try:
        if path.is_dir():
            raise WeightsError(f"{given}: is a folder, expected a checkpoint", hint="give the file inside it")
        there = path.exists()
    except (OSError, ValueError) as error:  # a name that no system takes, a folder that may not be looked into
        reason = error.strerror if isinstance(error, OSError) else error
        raise WeightsError(f"{given[:120]}: cannot be read: {reason}", hint="check the path") from error
    if not there:
        near = difflib.get_close_matches(given, [entry.name for entry in catalogue.ENTRIES], n=1)
        meant = f"did you mean {near[0]}? Else" if near else "see kbnet weights list, or"
        raise WeightsError(
            f"{given[:200]}: no such weights, neither a file nor a name of the catalogue",
            hint=f"{meant} give a .safetensors or .pth file, or {HUB_FORM}",
        )
    return path


def _may_change(item: Item) -> bool:
    try:
        address = addresses.parse(item.record.origin)
    except UsageError:
        return False
    return isinstance(address, HubAddress) and address.may_change
