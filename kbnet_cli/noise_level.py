"""How strong the noise of a picture is, seen from the picture alone.

Two published methods. Small patches of a picture hardly vary but in a few directions, while white
noise varies alike in all of them: the noise is the mean of the patches' smallest variances (Chen, Zhu and Heng, An
efficient statistical method for image noise level estimation, ICCV 2015). Texture fills the directions of a single
channel, so its patches are first narrowed down to those whose gradients are no stronger than the noise's own (Liu,
Tanaka and Okutomi, Single-image noise level estimation for blind denoising, IEEE Transactions on Image Processing 22,
2013).

Both know white noise only. What a camera has smoothed and compressed is found weaker than it is.
"""

import math

import numpy as np
from jaxtyping import Bool, Float32, Float64, Shaped
from numpy.lib.stride_tricks import sliding_window_view

SIDE = 7
"""Patches that are drawn are this wide and high."""
SIDE_OF_COLOUR = 5
"""And this much of them is taken where three channels go together: their patches are long enough."""
PATCHES = 15_000
"""More are not drawn, however large the picture is: they tell the noise to about 1.5 %."""
FEWEST = 200
"""Pictures with fewer are too small, 20 × 20 pixels are enough."""
CLIPPED = 0.05
"""The share of a patch's samples that may be black or white. Clipping cuts the noise off and makes it look weaker."""
BEYOND = (-1.0, 4.0)
"""Samples outside this, where 1 is white, are damaged or no display-encoded picture."""
WEAK = 231.4
"""99 of 100 patches of white noise of variance 1 and nothing else have less gradient energy (simulated)."""
ENOUGH = 1000
"""So many patches are looked at, be they weak or not."""
ROUNDS = 6


def draw(
    samples: Shaped[np.ndarray, "h w c"], *, white: float, full: float | None = None
) -> Shaped[np.ndarray, "n k 7 7"] | None:
    """Take patches out of a picture that show its noise: three channels of colour or one, as stored.

    `full` is where samples are clipped, if not at white. They lie at random, the same ones each time. Patches without
    any variation (clipped, masked, drawn) are left out where they are fewer than the others.

    Returns:
        The patches, none where most of the picture has no noise at all; None if the picture is too small to tell.
    """
    channels = 3 if samples.shape[2] >= 3 else 1
    height, width = samples.shape[0] - SIDE + 1, samples.shape[1] - SIDE + 1
    if min(height, width) < 1 or height * width < FEWEST:
        return None
    if height * width > PATCHES:
        places = np.sort(np.random.default_rng(0).integers(height * width, size=PATCHES))
    else:
        places = np.arange(height * width)
    windows = sliding_window_view(samples[:, :, :channels], (SIDE, SIDE), axis=(0, 1))
    patches = windows[places // width, places % width]
    low, high = BEYOND[0] * white, BEYOND[1] * white
    # Comparing leaves out what is no number too.
    patches = patches[((patches >= low) & (patches <= high)).all(axis=(1, 2, 3))]
    if len(patches) < FEWEST:
        return None
    clipped = ((patches == 0) | (patches == white if full is None else patches >= full)).mean(axis=(1, 2, 3)) > CLIPPED
    if (~clipped).sum() >= FEWEST:
        patches = patches[~clipped]
    flat = _are_flat(patches)
    return patches[:0] if flat.mean() > 0.5 or (~flat).sum() < FEWEST else patches[~flat]


def _are_flat(patches: Shaped[np.ndarray, "n k 7 7"]) -> Bool[np.ndarray, " n"]:
    flat: Bool[np.ndarray, " n"] = (patches == patches[:, :, :1, :1]).all(axis=(1, 2, 3))
    return flat


def estimate(patches: Float32[np.ndarray, "n k 7 7"]) -> float:
    """Return the standard deviation of white noise in patches of `draw`, display-encoded; in 1/255, and 0 for none."""
    if not len(patches):
        return 0.0
    middle = patches.shape[1] // 2
    alone = _among_weak(patches[:, middle])
    if patches.shape[1] == 1:
        return 255 * alone
    together = _deviation(patches[:, :, :SIDE_OF_COLOUR, :SIDE_OF_COLOUR].reshape(len(patches), -1))
    # What is in the picture only ever adds to either. In photographs colours change together, so that three channels
    # hold their noise apart from it better than one; where they do not, one does. But channels that follow from each
    # other, as in a grey picture stored as RGB, leave directions without any noise, and three tell nothing.
    return 255 * (together if alone / 2 < together < alone else alone)


def _among_weak(patches: Float32[np.ndarray, "n 7 7"]) -> float:
    """Return the deviation of the noise in patches of one channel, from those that show little but noise."""
    down = np.square(patches[:, 2:, :] - patches[:, :-2, :]).sum(axis=(1, 2))
    across = np.square(patches[:, :, 2:] - patches[:, :, :-2]).sum(axis=(1, 2))
    energy = down + across
    rows = patches.reshape(len(patches), -1)
    # Of fewer patches the smallest variances are smaller by chance.
    enough = np.partition(energy, min(ENOUGH, len(rows)) - 1)[min(ENOUGH, len(rows)) - 1]
    deviation = _deviation(rows)
    for _ in range(ROUNDS):
        before = deviation
        deviation = _deviation(rows[energy <= max(enough, WEAK * before**2)])
        if abs(deviation - before) <= 0.005 * before:
            break
    return deviation


def _deviation(rows: Float32[np.ndarray, "n d"]) -> float:
    """Return the root of the mean of the smallest variances: as many as lie evenly about it, their median at it."""
    centred = rows.astype(np.float64)
    centred -= centred.mean(axis=0)
    variances: Float64[np.ndarray, " d"] = np.linalg.eigvalsh(centred.T @ centred / len(centred))
    kept = next(n for n in range(len(variances), 0, -1) if variances[:n].mean() <= np.median(variances[:n]))
    return math.sqrt(max(0.0, float(variances[:kept].mean())))
