"""Camera raw files: a linear or a developed photo of each, through LibRaw."""
