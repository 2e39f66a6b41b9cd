"""Precisions, and how exactly torch itself multiplies numbers of float32 on NVIDIA's GPUs in each."""

import warnings
from typing import Literal

import torch

Precision = Literal["fp32", "tf32", "bf16"]


def settle_float32(precision: Precision) -> None:
    """Let torch round the factors of float32 products to 10 bits (TF32) in tf32, and in no other precision.

    It holds for the whole process, for products of matrices and for cuDNN's convolutions, of which torch by itself
    rounds only the latter. Products of bfloat16 are summed in float32. Triton's kernels go by none of this.
    """
    rounded = precision == "tf32"
    # From torch 2.9 on there are finer switches, and these warn; but they alone exist in all versions, and set both.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        torch.backends.cuda.matmul.allow_tf32 = rounded
        torch.backends.cudnn.allow_tf32 = rounded
        # Sums over all pixels of a tile, in parts that are added: those stay in float32.
        torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
