"""Bytes of files that no library writes."""

import struct

IDX = {"u1": 0x08, "i1": 0x09, "i2": 0x0B, "i4": 0x0C, "f4": 0x0D, "f8": 0x0E}


def damaged(content, draw, turn):
    """The bytes of a file with one bit flipped, or every third turn cut off somewhere."""
    content = bytearray(content)
    if turn % 3:
        content[draw.integers(len(content))] ^= 1 << int(draw.integers(8))
    else:
        del content[int(draw.integers(len(content))) :]
    return bytes(content)


def idx_bytes(array):
    """An array as an IDX file has it."""
    code = IDX[array.dtype.str[1:]]
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, code, array.ndim, *array.shape)
    return header + array.astype(array.dtype.newbyteorder(">")).tobytes()
