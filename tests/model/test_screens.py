"""What a screen is, by its pixels. golden/screens holds what QEMU showed of real guests (README there)."""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest

from proto.vitals import Look
from services.node import screens
from services.node.screens import BadPicture, Pixels

HERE = Path(__file__).parent / "golden" / "screens"
ALL = "".join(map(chr, range(33, 127)))


def real(name: str) -> Pixels:
    return screens.parse(gzip.decompress((HERE / f"{name}.ppm.gz").read_bytes()))


def plain(colour: tuple[int, int, int], height: int = 800, width: int = 1280) -> Pixels:
    made = np.zeros((height, width, 3), np.uint8)
    made[:] = colour
    return made


def written(pixels: Pixels, ink: tuple[int, int, int] = (255, 255, 255), size: int = 2) -> Pixels:
    """Lines of writing whose edges are half its colour and half the background's, as smoothed letters are."""
    back = pixels[0, 0].astype(int)
    half = ((back + np.array(ink)) // 2).astype(np.uint8)
    for row in range(200, 560, 40):
        for column in range(150, 150 + 20 * (row % 37 + 10), 24):
            pixels[row - 2 : row + 10 * size, column - 2 : column + 4 * size] = half
            pixels[row : row + 10 * size - 2, column : column + 4 * size - 2] = ink
    return pixels


@pytest.mark.parametrize(("name", "columns"), [("text-letters", 80), ("framebuffer-letters", 128)])
def test_all_letters_are_read_as_a_kernel_wrote_them(name: str, columns: int) -> None:
    read = [line for line in screens.lines(real(name)) if line]
    assert "".join(read[: 2 if columns == 80 else 1]) == ALL


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("text-panic", "---[ end Kernel panic - not syncing: sysrq triggered crash ]---"),
        ("framebuffer-panic", "Kernel panic - not syncing: sysrq triggered crash"),
    ],
)
def test_a_kernels_last_words_are_read_off_a_real_screen(name: str, line: str) -> None:
    look, said = screens.classify(real(name))
    assert look is Look.PANIC and said.endswith(line)


def test_other_text_is_no_panic() -> None:
    for name in ("text-letters", "framebuffer-letters"):
        assert screens.classify(real(name)) == (Look.OTHER, "")
    cut = real("text-panic").copy()
    cut[-48:] = 0  # its last line
    assert screens.classify(cut)[0] is Look.OTHER


@pytest.mark.parametrize(
    "blue",
    [(0, 120, 215), (16, 113, 170), (0, 0, 128), (0, 0, 170)],
    ids=["windows 10", "windows 8", "windows 7", "text mode"],
)
def test_a_blue_screen_with_writing_is_one(blue: tuple[int, int, int]) -> None:
    assert screens.classify(written(plain(blue)))[0] is Look.BLUE
    assert screens.classify(written(plain(blue, 600, 800), size=1))[0] is Look.BLUE


def test_a_blue_screen_of_a_text_mode_has_grey_letters() -> None:
    letters = real("text-letters").copy()
    letters[(letters == 0).all(axis=2)] = (0, 0, 170)
    assert screens.classify(letters)[0] is Look.BLUE


def test_a_blue_desktop_is_none() -> None:
    desktop = written(plain((0, 120, 215)))
    desktop[-48:] = (16, 16, 24)
    desktop[40:110, 30:90] = (230, 170, 40)
    assert screens.classify(desktop)[0] is Look.OTHER
    assert screens.classify(plain((40, 90, 60)))[0] is Look.OTHER
    assert screens.classify(plain((200, 200, 215)))[0] is Look.OTHER


def test_black_is_black_with_a_cursor_and_not_with_a_line_of_text() -> None:
    black = plain((0, 0, 0), 400, 720)
    assert screens.classify(black)[0] is Look.BLACK
    black[14:16, 0:9] = 170
    assert screens.classify(black)[0] is Look.BLACK
    assert screens.classify(plain((9, 4, 12)))[0] is Look.BLACK
    assert screens.classify(written(plain((0, 0, 0))))[0] is Look.OTHER


def test_noise_and_tiny_screens_are_neither() -> None:
    noise = np.random.default_rng(3).integers(0, 255, (480, 640, 3), dtype=np.uint8)
    assert screens.classify(noise) == (Look.OTHER, "")
    assert screens.classify(plain((0, 0, 0), 1, 1))[0] is Look.BLACK
    assert screens.classify(plain((250, 10, 10), 3, 5))[0] is Look.OTHER


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"P6\n", b"P5\n1 1\n255\n\0", b"P6\n1 1\n255\n\0\0", b"P6\n0 9\n255\n"),
        *(b"P6\n99999 99999\n255\n", b"P6\n1 1\n65535\n\0\0\0"),
    ],
)
def test_what_is_no_picture_is_refused(data: bytes) -> None:
    with pytest.raises(BadPicture):
        screens.parse(data)


def test_a_picture_is_a_png_that_holds_the_pixels_and_has_a_bound() -> None:
    pixels = real("text-panic")
    made = screens.png(pixels)
    assert made.startswith(b"\x89PNG\r\n\x1a\n") and struct.unpack(">II", made[16:24]) == (720, 400)
    start = made.index(b"IDAT") + 4
    (size,) = struct.unpack(">I", made[start - 8 : start - 4])
    rows = np.frombuffer(zlib.decompress(made[start : start + size]), np.uint8).reshape(400, 1 + 720 * 3)
    assert (rows[:, 0] == 0).all() and (rows[:, 1:].reshape(pixels.shape) == pixels).all()
    noise = np.random.default_rng(3).integers(0, 255, (480, 640, 3), dtype=np.uint8)
    assert len(screens.png(noise, 300_000)) <= 300_000
