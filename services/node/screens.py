"""What a guest's screen shows, by its pixels: a kernel's last words, a blue screen, nothing. Pure.

text     letters are read where the screen is a grid of cells: a text mode (720 by 400) or a kernel's frame buffer console. No more
         than those two fonts are known, so that nothing else is ever taken for text
blue     one blue covers BLUE_SHARE of it, and the rest is writing: between that blue and white, or a lighter grey
black    LEVEL_BLACK is not passed by more than a hundredth of it, as a cursor may blink
"""

from __future__ import annotations

import re
import struct
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from proto.vitals import Look
from services.node.glyphs import GLYPHS

PIXELS_MAX = 4096 * 2304
SHARE_BLACK = 0.99
LEVEL_BLACK = 16
BLUE_SHARE = 0.75
WRITING_SHARE = 0.99
SAMPLED_MAX = 120_000
COLOURS_MAX = 64
"""a console has sixteen; what has more is a picture"""
TOLERANCE = 28
ROWS = 16
LINE_LENGTH_MAX = 120
LAST_WORDS = ("Kernel panic - not syncing", "end Kernel panic")
PNG_BYTES_MAX = 3 * 1024 * 1024

type Pixels = NDArray[np.uint8]
"""height by width by 3"""

_HEAD = re.compile(rb"P6\s+(\d{1,5})\s+(\d{1,5})\s+255\s")


class BadPicture(ValueError):
    """Its text says what is wrong with it."""


def parse(ppm: bytes) -> Pixels:
    """A PPM as QEMU writes it. Raises BadPicture."""
    head = _HEAD.match(ppm)
    if head is None:
        raise BadPicture("it is no PPM of 8 bits a colour")
    width, height = int(head[1]), int(head[2])
    size = width * height * 3
    if not 0 < width * height <= PIXELS_MAX or len(ppm) != head.end() + size:
        raise BadPicture(f"{width} by {height} pixels in {len(ppm)} bytes")
    return np.frombuffer(ppm, np.uint8, size, head.end()).reshape(height, width, 3)


def classify(pixels: Pixels) -> tuple[Look, str]:
    """What it is, and the line by which a panic was recognized."""
    for line in lines(pixels):
        if any(words in line for words in LAST_WORDS):
            return Look.PANIC, line[:LINE_LENGTH_MAX]
    if is_black(pixels):
        return Look.BLACK, ""
    return (Look.BLUE if is_blue(pixels) else Look.OTHER), ""


def is_black(pixels: Pixels) -> bool:
    return float((pixels.max(axis=2) <= LEVEL_BLACK).mean()) >= SHARE_BLACK


def is_blue(pixels: Pixels) -> bool:
    back, share = _background(pixels)
    red, green, blue = (int(part) for part in back)
    if share < BLUE_SHARE or blue < 110 or red > 0.35 * blue or green > 0.72 * blue:
        return False
    return _writing(_sample(pixels).reshape(-1, 3).astype(np.float32), back) >= WRITING_SHARE


def _writing(flat: NDArray[np.float32], back: NDArray[np.float32]) -> float:
    """The share of pixels between the background and white, or of a grey that is lighter than it."""
    way = 255.0 - back
    along = np.clip((flat - back) @ way / float(way @ way), 0.0, 1.0)
    near = np.abs(flat - back - along[:, None] * way).max(axis=1) <= TOLERANCE
    grey = (flat.max(axis=1) - flat.min(axis=1) <= TOLERANCE) & (flat.mean(axis=1) > float(back.mean()))
    return float((near | grey).mean())


def _background(pixels: Pixels) -> tuple[NDArray[np.float32], float]:
    """The colour that most pixels have, and their share."""
    values, counts = np.unique(_packed(_sample(pixels)), return_counts=True)
    most = int(counts.argmax())
    value = int(values[most])
    colour = np.array([value >> 16, value >> 8 & 255, value & 255], np.float32)
    return colour, int(counts[most]) / int(counts.sum())


def _sample(pixels: Pixels) -> Pixels:
    """Of a large screen some pixels stand for all. In steps that no grid of letters has."""
    step = 1
    while pixels.shape[0] * pixels.shape[1] > step * step * SAMPLED_MAX:
        step += 2
    return pixels[::step, ::step]


def _packed(pixels: Pixels) -> NDArray[np.uint32]:
    wide = pixels.astype(np.uint32)
    packed = wide[:, :, 0] << 16 | wide[:, :, 1] << 8 | wide[:, :, 2]
    return packed.astype(np.uint32, copy=False)


def lines(pixels: Pixels) -> list[str]:
    """The text on it, from the top; a cell that is no known letter is a blank. A line that goes on in the next is two."""
    height, width = pixels.shape[:2]
    cell = 9 if (width, height) == (720, 400) else 8
    rows, columns = height // ROWS, width // cell
    if not rows or not columns:
        return []
    values, counts = np.unique(_packed(_sample(pixels)), return_counts=True)
    if len(values) > COLOURS_MAX:
        return []
    ink = _packed(pixels)[: rows * ROWS, : columns * cell] != values[counts.argmax()]
    grid = ink.reshape(rows, ROWS, columns, cell)[:, :, :, :8].transpose(0, 2, 1, 3)
    glyphs = np.ascontiguousarray(np.packbits(grid, axis=3)[..., 0])
    found, which = np.unique(glyphs.reshape(-1, ROWS), axis=0, return_inverse=True)
    letters = np.array([GLYPHS.get(zlib.crc32(glyph.tobytes()), " ") for glyph in found])
    return ["".join(row).rstrip() for row in letters[which.reshape(rows, columns)]]


def png(pixels: Pixels, bytes_max: int = PNG_BYTES_MAX) -> bytes:
    """As PNG, with every second pixel left out as often as it takes to be no larger."""
    while len(made := _png(pixels)) > bytes_max:
        pixels = pixels[::2, ::2]
    return made


def _png(pixels: Pixels) -> bytes:
    height, width = pixels.shape[:2]
    rows = np.zeros((height, 1 + width * 3), np.uint8)  # each row begins with its filter: none
    rows[:, 1:] = pixels.reshape(height, -1)
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks: tuple[tuple[bytes, Any], ...] = (
        (b"IHDR", head), (b"IDAT", zlib.compress(rows.tobytes(), 6)), (b"IEND", b""),
    )  # fmt: skip
    parts = [struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)
