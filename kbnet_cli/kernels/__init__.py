"""The kernel basis attention and the few fused operators around it."""
