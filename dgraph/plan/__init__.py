"""Messages from rects."""
