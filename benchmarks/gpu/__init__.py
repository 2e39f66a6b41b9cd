"""KBNet on one NVIDIA GPU, measured by one command: `python benchmarks/gpu/run.py --out DIR`."""
