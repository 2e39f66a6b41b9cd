"""The kernel basis attention and the blocks around it in Triton, for NVIDIA's and AMD's GPUs.

Only `launching` may be imported where there is no Triton.
"""
