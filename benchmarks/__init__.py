"""Comparisons with spandrel's KBNet, the same weights in the same run. `run` is the entry."""
