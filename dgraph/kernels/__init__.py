"""Local arithmetic: arrays in, arrays out, no ranks."""
