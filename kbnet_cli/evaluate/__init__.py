"""How good weights are, by the protocols of the papers."""
