"""Linear DNG: what is carried over, written and read back."""
