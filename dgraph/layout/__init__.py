"""Which rank does which piece, and which rects it reads and writes."""
