"""The way of each picture of a trial: degraded, restored, compared."""

from collections.abc import Iterable, Iterator

import numpy as np
from jaxtyping import Float32, UInt8

from kbnet_cli.errors import InputError, PhotoError
from kbnet_cli.evaluate.collection import Sample
from kbnet_cli.evaluate.degradation import from_uint8, to_uint8
from kbnet_cli.evaluate.likeness import luma, psnr, ssim
from kbnet_cli.evaluate.picture import named, read
from kbnet_cli.evaluate.restoring import Restore
from kbnet_cli.evaluate.score import Likeness, Score
from kbnet_cli.evaluate.trial import Channel, Trial


def scores(restore: Restore, samples: Iterable[Sample], trial: Trial) -> Iterator[Score]:
    """Give how near each picture is to its clean one before and after restoration, as soon as it is known.

    Both are compared as 8-bit pictures, clipped and rounded; what is restored is neither, unless the degradation does
    it.

    Raises:
        PhotoError: a picture cannot be read, or the two of a pair are of different sizes.
    """
    for sample in samples:
        clean = read(sample.clean)
        degraded = trial.degraded(clean) if sample.degraded is None else _read_like(clean, sample)
        try:
            before = _likeness(to_uint8(degraded), clean, trial.channel)
            after = _likeness(to_uint8(restore(degraded)), clean, trial.channel)
        except PhotoError as error:
            raise named(error, sample.degraded or sample.clean) from error
        yield Score(trial, sample.name, before, after)


def _read_like(clean: UInt8[np.ndarray, "h w c"], sample: Sample) -> Float32[np.ndarray, "h w c"]:
    assert sample.degraded is not None
    degraded = read(sample.degraded)
    if degraded.shape != clean.shape:
        raise InputError(
            f"{sample.degraded}: is {_shape(degraded)}, its clean picture {sample.clean.name} is {_shape(clean)}",
            hint="expected pictures of one size and both grey or both in colour",
        )
    return from_uint8(degraded)


def _shape(picture: UInt8[np.ndarray, "h w c"]) -> str:
    height, width, channels = picture.shape
    return f"{width}×{height} {'grey' if channels == 1 else 'rgb'}"


def _likeness(picture: UInt8[np.ndarray, "h w c"], clean: UInt8[np.ndarray, "h w c"], channel: Channel) -> Likeness:
    if channel == "y":
        picture, clean = luma(picture), luma(clean)
    return Likeness(psnr(picture, clean), ssim(picture, clean))
