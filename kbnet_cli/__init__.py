"""Take noise, rain, blur and JPEG marks out of photographs with KBNet (arXiv 2303.02881), and nothing else."""

__version__ = "0.1.0"
