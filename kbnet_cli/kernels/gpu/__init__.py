"""The kernel basis attention and the blocks around it in Triton, for NVIDIA's GPUs.

Only `launching` may be imported where there is no Triton.
"""
