"""The weights that come with the program: one .safetensors, one recipe and one model card each."""
