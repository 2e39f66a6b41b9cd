"""Files that come in: fetched, compared with what is known of them, checked, converted, and then put on the shelf."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from kbnet_cli.catalogue import Entry, Source
from kbnet_cli.errors import FetchError, WeightsError
from kbnet_cli.hub import address as addresses
from kbnet_cli.hub import transfer
from kbnet_cli.hub.address import Address, HubAddress, WebAddress
from kbnet_cli.hub.ledger import Seen
from kbnet_cli.hub.shelf import Item, Shelf, sha256
from kbnet_cli.hub.transfer import Announce

LARGEST_UNKNOWN_BYTES = 2_000_000_000
"""Files that no entry tells of may be this large: over three times the largest published network."""


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


@dataclass(frozen=True)
class _Found:
    """A file that has come, and what is known of it."""

    path: Path
    origin: str
    """An address or a path: errors speak of it, for the name that a file has on its way tells a user nothing."""
    sha256: str
    etag: str | None = None


class Intake:
    """The way onto a shelf. Whoever uses it holds the lock of what is wanted."""

    def __init__(self, shelf: Shelf, announce: Announce) -> None:
        self.shelf = shelf
        self.announce = announce

    def fetch(self, wanted: Wanted, source: Source, *, newest: bool, accept_change: bool) -> Item:
        """Fetch a file and keep it.

        Args:
            wanted: what it is for.
            source: where it is.
            newest: ask the Hub for its newest form, instead of taking what huggingface_hub's cache has.
            accept_change: take another file than the first time, where no hash is published.

        Raises:
            FetchError: it cannot be had there now.
            WeightsError: it cannot be trusted; nothing of it is kept.
        """
        address = addresses.parse(source.address)
        assert address is not None
        if isinstance(address, HubAddress):
            return self._from_hub(wanted, source, address, newest=newest, accept_change=accept_change)
        return self._from_web(wanted, source, address, accept_change=accept_change)

    def take(self, wanted: Wanted, file: Path) -> Item:
        """Keep a copy of a file that the user has.

        Raises:
            WeightsError: it is not what is wanted, or no safe KBNet.
        """
        origin = os.path.normpath(file.absolute())
        self.check(wanted, file, origin)
        return self._keep(wanted, _Found(file, origin, sha256(file)))

    def forget_part(self, key: str) -> None:
        """Delete what a transfer that was cut has left."""
        transfer.forget_part(self._part(key))

    def _from_hub(
        self, wanted: Wanted, source: Source, address: HubAddress, *, newest: bool, accept_change: bool
    ) -> Item:
        there = None if newest else transfer.cached(address)
        if there is not None:  # what another program has fetched needs no connection, and is left to it
            found = _Found(there, str(address), sha256(there))
            return self._trusted(wanted, source, address, found, accept_change=accept_change)
        mark = transfer.ask_hub(address)
        item = self.shelf.find(wanted.key) if not accept_change else None
        if item is not None and (item.record.origin, item.record.etag) == (str(address), mark.etag):
            return item
        with self._folder(wanted.key) as folder:
            largest = wanted.largest_bytes
            path = transfer.from_hub(address, mark, folder, largest_bytes=largest, announce=self.announce)
            found = _Found(path, str(address), sha256(path), mark.etag)
            return self._trusted(wanted, source, address, found, accept_change=accept_change)

    @contextmanager
    def _folder(self, key: str) -> Iterator[Path]:
        """Lend a folder for what is on its way; nothing of it stays, also of an earlier one."""
        folder = self.shelf.folder / f".fetch-{key}"
        try:
            shutil.rmtree(folder, ignore_errors=True)
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _from_web(self, wanted: Wanted, source: Source, address: WebAddress, *, accept_change: bool) -> Item:
        part = self._part(wanted.key)
        try:
            transfer.from_web(address, part, largest_bytes=wanted.largest_bytes, announce=self.announce)
            found = _Found(part, str(address), sha256(part))
            item = self._trusted(wanted, source, address, found, accept_change=accept_change)
        except FetchError:
            raise  # what was cut is gone on with another time
        except WeightsError:
            transfer.forget_part(part)
            raise
        transfer.forget_part(part)
        return item

    def _part(self, key: str) -> Path:
        return self.shelf.folder / f"{key}.part"

    def _trusted(self, wanted: Wanted, source: Source, address: Address, found: _Found, *, accept_change: bool) -> Item:
        """Keep a fetched file, if it is the one that it should be."""
        if source.sha256 is not None and found.sha256 != source.sha256:
            raise WeightsError(
                f"{address}: not the file that it should be: sha256 should be {source.sha256}, is {found.sha256}",
                hint="it was damaged or exchanged; nothing of it is kept. Try again, or another source",
            )
        seen = self.shelf.ledger.seen(address)
        is_known = seen is not None and seen.sha256 == found.sha256
        if source.sha256 is None and not (is_known or accept_change):
            self._refuse_change(wanted, seen, found)
        self.check(wanted, found.path, found.origin)
        return self._keep(wanted, found, None if is_known else address)

    def _refuse_change(self, wanted: Wanted, seen: Seen | None, found: _Found) -> None:
        """Refuse a file that is another than the address gave first, or than the one that is here from elsewhere."""
        hint = f"if it is meant: kbnet weights pull {wanted.given} --accept-change"
        if seen is not None:
            raise WeightsError(
                f"{found.origin}: changed since {seen.first_seen}: sha256 was {seen.sha256}, is {found.sha256}",
                hint=hint,
            )
        item = self.shelf.item(wanted.key)
        if item is not None and item.record.origin_sha256 != found.sha256:
            raise WeightsError(
                f"{found.origin}: not what {wanted.given} is here, which came from {item.record.origin}: "
                f"sha256 was {item.record.origin_sha256}, is {found.sha256}",
                hint=hint,
            )

    def check(self, wanted: Wanted, file: Path, origin: str) -> None:
        """Check what can be checked without reading the values.

        Raises:
            WeightsError: it is not what is wanted, or no KBNet.
        """
        from kbnet_cli import checkpoint

        outline = checkpoint.outline(file, name=origin)
        entry = wanted.entry
        if entry is not None and (outline.architecture, outline.parameters) != (entry.architecture, entry.parameters):
            raise WeightsError(
                f"{origin}: {outline.architecture} with {outline.parameters:,} parameters, "
                f"expected {entry.architecture} with {entry.parameters:,} for {entry.name}",
                hint="this is another network; kbnet weights import FILE --as NAME takes it under a name of its own",
            )

    def _keep(self, wanted: Wanted, found: _Found, first_seen: Address | None = None) -> Item:
        """Put a file on the shelf, as safetensors of finite numbers that say what they are for.

        Before that, remember the hash that an address gave: a crash between the two must not lose it.
        """
        from kbnet_cli import checkpoint

        converted = self.shelf.folder / f"{wanted.key}.converted"
        facts = None if wanted.entry is None else wanted.entry.facts
        try:
            with self.shelf.writing():
                checkpoint.convert(found.path, converted, facts=facts, name=found.origin)
            if first_seen is not None:
                with self.shelf.lock(".ledger"), self.shelf.writing():
                    self.shelf.ledger.record(first_seen, found.sha256)
            return self.shelf.put(
                wanted.key, converted, origin=found.origin, origin_sha256=found.sha256, etag=found.etag
            )
        finally:
            with suppress(OSError):
                converted.unlink(missing_ok=True)
