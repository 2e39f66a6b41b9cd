"""What earlier runs have made, and what is therefore no photo to restore, where inputs and outputs share a folder."""

import contextlib
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from kbnet_cli.batch.order import Order
from kbnet_cli.batch.tree import Source
from kbnet_cli.errors import OutputError, UsageError
from kbnet_cli.journal import NAME, Journal


def without_own(order: Order, found: Sequence[Source]) -> list[Source]:
    """Leave out what the journals know as made by the same verb, or from another of the inputs.

    Only what was found in a folder, by a pattern or in a list: what is named is meant. What another verb made stays in
    where its input is not there too, so that `kbnet derain '*_denoised.jpg'` does as it says.

    Raises:
        UsageError: nothing is left.
    """
    journals = _Known(order, found)
    kept = [
        source
        for source in found
        if not (source.found or source.listed) or source.error is not None or not journals.made(source.path)
    ]
    if found and not kept:
        raise UsageError(
            f"no photos but those that kbnet has {order.done} already: {len(found)} of them",
            hint="to restore such a photo once more, name it",
        )
    return kept


class _Known:
    def __init__(self, order: Order, found: Sequence[Source]) -> None:
        self._done = order.done
        self._found = found
        self._beside = order.output is None
        self._root = order.output.resolve() if order.output is not None and order.into_folder else None
        self._open: dict[Path, Journal | None] = {}
        self._journals: dict[str, Journal | None] = {}
        """By the folder of a file, as it is written."""

    @cached_property
    def _given(self) -> set[str]:
        return {_text(source.path) for source in self._found}

    def made(self, path: Path) -> bool:
        """Tell whether a file is such an output, of one of the inputs that are given in any case."""
        journal = self._journal_of(path)
        if journal is None:
            return False
        with contextlib.suppress(OutputError):  # a journal that cannot be read knows nothing
            last = journal.entry(path)
            if last is None:
                return False
            # Also if somebody has edited it: it stands where that input's output goes.
            if _text(last.source) in self._given:
                return True
            there = journal.present(path)
            # What is done is told by the verb's name and more: denoise, denoised.
            return there is not None and bool(there.task) and self._done.startswith(there.task)
        return False

    def _journal_of(self, path: Path) -> Journal | None:
        written = os.path.dirname(path)  # noqa: PTH120, fast
        if written not in self._journals:
            self._journals[written] = self._journal_in(Path(os.path.realpath(written)))
        return self._journals[written]

    def _journal_in(self, folder: Path) -> Journal | None:
        if not self._beside:
            if self._root is None or not folder.is_relative_to(self._root):
                return None
            folder = self._root
        if folder not in self._open:
            self._open[folder] = Journal(folder, {}, photos=None, read_only=True) if (folder / NAME).is_file() else None
        return self._open[folder]


def _text(path: Path) -> str:
    return os.path.normpath(path.absolute())
