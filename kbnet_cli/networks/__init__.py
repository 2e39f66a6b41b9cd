"""The architectures, one file each, as plain torch modules whose state dicts have the published names."""
