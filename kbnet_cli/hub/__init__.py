"""From a name of the catalogue or an address to a verified local file, and back to a Hub repository."""
