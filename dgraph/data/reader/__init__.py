"""Readers of files, one kind of file a module: each opens a file's headers and labels and gives a `Pair`."""
