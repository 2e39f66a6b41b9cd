"""How far a job is, how fast it goes and how long it will take: pure arithmetic on what it is told.

Time is learned from megapixels, since photos differ: a thousand thumbnails say little of a thousand raw files. What a
photo ahead holds is known from its header, or reckoned from its file's size by what files of its kind held so far.
"""

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Status = Literal["done", "kept", "skipped", "failed"]
"""What became of a photo; kept is done by an earlier run and passed over by this one."""
Stopped = Literal["interrupted", "terminated"]
"""What ended a job early: Ctrl-C, or SIGTERM."""
MEMORY_SECONDS = 300.0
"""What was done this long ago weighs a third (1/e) of what is done now, so that a machine that became slower shows."""


@dataclass(frozen=True)
class Totals:
    """What became of a job."""

    done: int = 0
    kept: int = 0
    skipped: int = 0
    failed: int = 0
    left: int | None = 0
    """Photos without an outcome; None where nobody knows how many were still to come."""
    seconds: float = 0.0
    megapixels: float = 0.0
    """Of the photos done."""
    stopped: Stopped | None = None

    @property
    def photos(self) -> int:
        """How many photos have an outcome."""
        return self.done + self.kept + self.skipped + self.failed

    @property
    def megapixels_a_second(self) -> float | None:
        """The megapixels done over the whole time, or None where nothing was done."""
        return self.megapixels / self.seconds if self.megapixels and self.seconds > 0 else None

    def as_event(self) -> dict[str, object]:
        """Return the last line of `--json`."""
        speed = self.megapixels_a_second
        return {
            "event": "summary",
            "done": self.done,
            "kept": self.kept,
            "skipped": self.skipped,
            "failed": self.failed,
            "left": self.left,
            "seconds": round(self.seconds, 3),
            "megapixels": round(self.megapixels, 6),
            "megapixels_a_second": None if speed is None else round(speed, 4),
            "stopped": self.stopped,
        }


class _Kind:
    """What is known of the files of one kind."""

    def __init__(self) -> None:
        self.known_megapixels = 0.0
        self.known_bytes = 0
        """Of files whose megapixels are known."""
        self.ahead_bytes = 0
        """Of files ahead whose megapixels are not known yet."""
        self.passed_bytes = 0
        """Of files with an outcome whose megapixels never became known."""


@dataclass(slots=True)
class _Photo:
    """A photo that has no outcome yet."""

    kind: str
    file_bytes: int
    megapixels: float | None = None
    begun: bool = False
    share: float = 0.0
    """How much of it the network has done."""


class Outlook:
    """Reckon progress, speed and time left of a job of many photos. Any thread may tell and ask.

    Time that went only into passing over photos (kept, skipped, unreadable) while the network had none does not count
    for the speed. Nor does time before the first photo reaches the network: after that reading, network and writing
    overlap.
    """

    def __init__(self, *, photos: int | None, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin a job of so many photos; None: nobody knows how many, as of `--watch` and `--stream`."""
        self.photos = photos
        self._clock = clock
        self._lock = threading.RLock()
        self._ahead: dict[object, _Photo] = {}
        self._unexpected: set[object] = set()
        """Photos that were begun, or have their outcome, before they were expected."""
        self._kinds: dict[str, _Kind] = {}
        self._known_count = 0
        self._known_megapixels = 0.0
        """Of all photos that it is known of, with an outcome or without."""
        self._ahead_megapixels = 0.0
        self._passed_megapixels = 0.0
        """As far as known, of photos with an outcome."""
        self._ahead_unsized = self._passed_unsized = 0
        """Photos of which neither the megapixels nor the file's size are known."""
        self._reached_megapixels = 0.0
        """What the network has done of photos without an outcome."""
        self._counts: dict[Status, int] = {"done": 0, "kept": 0, "skipped": 0, "failed": 0}
        self._in_hand = 0
        self._restored_megapixels = 0.0
        self._started = clock()
        self._speed = _Speed(clock)

    def expect(self, key: object, megapixels: float | None, file_bytes: int, kind: str = "") -> None:
        """Tell of a photo ahead: its megapixels if known, its file's size (0: unknown), what kind of file it is."""
        with self._lock:
            if key in self._unexpected:
                self._unexpected.discard(key)
                if key not in self._ahead:
                    return  # whoever looks ahead came too late
                self._enlarge(self._ahead[key], file_bytes, kind)
            photo = self._ahead.get(key) or self._add(key, file_bytes, kind)
            self._learn(photo, megapixels)

    def begin(self, key: object, megapixels: float | None) -> None:
        """Tell that the network takes a photo in hand."""
        with self._lock:
            photo = self._ahead.get(key) or self._surprise(key)
            self._learn(photo, megapixels)
            self._in_hand += not photo.begun
            photo.begun = True
            self._speed.start()

    def tile(self, key: object, done: int, total: int) -> None:
        """Tell how many of its tiles a photo in hand has behind it."""
        with self._lock:
            photo = self._ahead.get(key)
            if photo is not None and total > 0:
                self._speed.work(self._reach(photo, done / total))

    def finish(self, key: object, status: Status, megapixels: float | None = None) -> None:
        """Tell what became of a photo, and its megapixels where they are known now."""
        with self._lock:
            photo = self._ahead.get(key) or self._surprise(key)
            self._learn(photo, megapixels)
            if status == "done":
                self._restored_megapixels += self._held(photo)
                self._speed.work(self._reach(photo, 1.0))
            elif not self._in_hand:
                self._speed.rest()
            self._counts[status] += 1
            self._in_hand -= photo.begun
            self._pass(key, photo)

    @property
    def photos_done(self) -> int:
        """How many photos have an outcome, whichever."""
        with self._lock:
            return sum(self._counts.values())

    @property
    def megapixels_done(self) -> float:
        """The megapixels behind the job: of photos with an outcome, whichever, and of tiles of those without."""
        with self._lock:
            reckoned = sum(kind.passed_bytes * self._a_byte(kind) for kind in self._kinds.values())
            unsized = self._passed_unsized * self._mean
            return self._passed_megapixels + reckoned + unsized + max(self._reached_megapixels, 0.0)

    @property
    def megapixels_expected(self) -> float | None:
        """The megapixels of the whole job, in part reckoned; None while nothing, or not how many photos, is known."""
        with self._lock:
            if self.photos is None or not self._known_count:
                return None
            sizes = ((kind.ahead_bytes + kind.passed_bytes) * self._a_byte(kind) for kind in self._kinds.values())
            untold = max(self.photos - self.photos_done - len(self._ahead), 0)
            unsized = (self._ahead_unsized + self._passed_unsized + untold) * self._mean
            return self._ahead_megapixels + self._passed_megapixels + sum(sizes) + unsized

    @property
    def megapixels_a_second(self) -> float | None:
        """Megapixels restored over wall time, what is recent weighing more; None before the first tile."""
        with self._lock:
            return self._speed.now

    @property
    def seconds_left(self) -> float | None:
        """The time left, or None where it cannot be known yet, or at all."""
        with self._lock:
            if self.photos is not None and self.photos_done >= self.photos:
                return 0.0
            expected, speed = self.megapixels_expected, self._speed.now
            if expected is None or speed is None:
                return None
            return max((expected - self.megapixels_done) / speed - self._speed.seconds_since, 0.0)

    def totals(self, stopped: Stopped | None = None) -> Totals:
        """Return what became of the job so far."""
        with self._lock:
            left = None if stopped else 0
            if self.photos is not None:
                left = self.photos - self.photos_done
            seconds = self._clock() - self._started
            return Totals(
                **self._counts, left=left, seconds=seconds, megapixels=self._restored_megapixels, stopped=stopped
            )

    def _surprise(self, key: object) -> _Photo:
        if self.photos is not None:  # of a job without an end nothing is expected, and nothing may be kept
            self._unexpected.add(key)
        return self._add(key)

    def _enlarge(self, photo: _Photo, file_bytes: int, name: str) -> None:
        """Take in which file a photo is that came before it was expected."""
        kind = self._kinds.setdefault(name, _Kind())
        if photo.megapixels is None:
            kind.ahead_bytes += file_bytes
            self._ahead_unsized -= bool(file_bytes)
        elif file_bytes:
            kind.known_megapixels += photo.megapixels
            kind.known_bytes += file_bytes
        photo.kind, photo.file_bytes = name, file_bytes

    def _add(self, key: object, file_bytes: int = 0, name: str = "") -> _Photo:
        photo = self._ahead[key] = _Photo(name, file_bytes)
        self._kinds.setdefault(name, _Kind()).ahead_bytes += file_bytes
        self._ahead_unsized += not file_bytes
        return photo

    def _learn(self, photo: _Photo, megapixels: float | None) -> None:
        """Take in what a photo holds. The last word counts: a header may tell of the sensor's border too."""
        if megapixels is None or megapixels == photo.megapixels:
            return
        kind, before = self._kinds[photo.kind], photo.megapixels
        if before is None:
            kind.ahead_bytes -= photo.file_bytes
            kind.known_bytes += photo.file_bytes
            self._ahead_unsized -= not photo.file_bytes
            self._known_count += 1
        more = megapixels - (before or 0.0)
        kind.known_megapixels += more if photo.file_bytes else 0.0
        self._known_megapixels += more
        self._ahead_megapixels += more
        self._reached_megapixels += photo.share * more
        photo.megapixels = megapixels

    def _reach(self, photo: _Photo, share: float) -> float:
        """Note how much of a photo the network has done, and return the megapixels of it that are new."""
        more = max(share - photo.share, 0.0) * self._held(photo)
        photo.share = max(share, photo.share)
        self._reached_megapixels += more
        return more

    def _pass(self, key: object, photo: _Photo) -> None:
        """Put a photo that has its outcome behind."""
        del self._ahead[key]
        self._reached_megapixels -= photo.share * self._held(photo)
        if photo.megapixels is not None:
            self._ahead_megapixels -= photo.megapixels
            self._passed_megapixels += photo.megapixels
            return
        kind = self._kinds[photo.kind]
        kind.ahead_bytes -= photo.file_bytes
        kind.passed_bytes += photo.file_bytes
        self._ahead_unsized -= not photo.file_bytes
        self._passed_unsized += not photo.file_bytes

    def _held(self, photo: _Photo) -> float:
        return photo.megapixels or 0.0

    def _a_byte(self, kind: _Kind) -> float:
        """Return the megapixels a byte of a kind of files: by those known of it, else by all."""
        if kind.known_bytes:
            return kind.known_megapixels / kind.known_bytes
        known_bytes = sum(each.known_bytes for each in self._kinds.values())
        return sum(each.known_megapixels for each in self._kinds.values()) / known_bytes if known_bytes else 0.0

    @property
    def _mean(self) -> float:
        return self._known_megapixels / self._known_count if self._known_count else 0.0


class _Speed:
    """Megapixels over wall time, fading."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._last: float | None = None
        """When work was last told of; None before the first."""
        self._megapixels = self._seconds = 0.0

    @property
    def now(self) -> float | None:
        """Megapixels a second."""
        return self._megapixels / self._seconds if self._megapixels > 0 and self._seconds > 0 else None

    @property
    def seconds_since(self) -> float:
        """How long nothing has been heard."""
        return 0.0 if self._last is None else self._clock() - self._last

    def start(self) -> None:
        """Let time count from now on, if it does not yet."""
        if self._last is None:
            self._last = self._clock()

    def work(self, megapixels: float) -> None:
        """Count what was done since the last word, and the time since then."""
        seconds = self.seconds_since
        self._last = self._clock()
        if seconds > 0:
            # As if it had been done evenly all the time: a tile may take longer than what is remembered.
            fade = math.exp(-seconds / MEMORY_SECONDS)
            weight = MEMORY_SECONDS * (1 - fade)
            self._megapixels = self._megapixels * fade + megapixels / seconds * weight
            self._seconds = self._seconds * fade + weight
        else:
            self._megapixels += megapixels

    def rest(self) -> None:
        """Leave out the time since the last word."""
        if self._last is not None:
            self._last = self._clock()
