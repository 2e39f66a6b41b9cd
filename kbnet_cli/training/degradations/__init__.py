"""What makes a clean patch a degraded one: one file a degradation."""
