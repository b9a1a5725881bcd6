"""How the characters ! to ~ look in 8 by 16 pixels: the CRC-32 of each one's sixteen bytes, as hex, one behind the other. Taken
from screens that a guest's kernel had written them on, in text mode (QEMU's VGA BIOS) and on a frame buffer (Linux)."""

from __future__ import annotations

FIRST = 33
TEXT_MODE = (
    "24eac8db4d41fbdf6f6272405c072db6e3704c0d60e4d277a4e12f1755100be584daf1c1555e463e0ff94fb7f7b43de8b28f535d53ae17e04b64aed0"
    "5efc0c86a33082d3420f1810c952ba19a7b4daa78590dbe9a2f03d5a71670f53a899922de7e302f6492ea786e80f1f00408f4b14f935b10215a4ac83"
    "178aba35f5532edd2a42ecfc10cd0a0f85988c0c57a977b5291adbc7d7ec97925cfacddbea8c2a69cee759c4a10c85d8909e1e0e9b3d4d44bb761da3"
    "2bf75c09314d89ddd5c14124f95e0757afb30fb2714f8b1d2b039ff1cbdff810c0e946cfe908cae8378e5e55788a57ed0b2fbd6d5d65e8148f521de3"
    "8726012c12986df852237fb884ef8d3d92fd448b799a03c498cdde14be18b3307e3ec554cc4f0d598f659a72cc8f9a1d96a7bad245acb147b7ef360c"
    "d74bd6df2041b5102c4303794e689b23615e51c42d6dc013264d8f815b5aa6f806df734f4d7487b6f955a995c6379fdf7089dd21799823497c5b0574"
    "9d8e76bf1a17e6df12187bffcd4c183b"
)
FRAME_BUFFER = (
    "24eac8db4d41fbdf6f6272405c072db6e3704c0d60e4d277a4e12f1755100be584daf1c1555e463e0ff94fb7f7b43de8b28f535d53ae17e04b64aed0"
    "de89f66ba33082d3420f1810c952ba19a7b4daa78590dbe9a2f03d5a71670f53a899922de7e302f6492ea786e80f1f00408f4b14f935b10215a4ac83"
    "178aba35f5532edd2a42ecfc10cd0a0f85988c0c57a977b5291adbc7d7ec97925cfacddbea8c2a69cee759c4a10c85d8909e1e0e9b3d4d44dff71b76"
    "2bf75c09314d89ddd5c14124f95e0757afb30fb2714f8b1d1c7e4674cbdff8105b5e96152c99f14e4a1170b65c50b043d74a4d965d65e8148f521de3"
    "8726012c12986df852237fb8ef4d712592fd448b799a03c498cdde14be18b3307e3ec554fcc168538f659a72cc8f9a1d96a7bad245acb147b7ef360c"
    "d74bd6df025f55012c4303794e689b23615e51c42d6dc013264d8f815b5aa6f806df734f4d7487b6e6b87125cc2040f22f525af5799823497c5b0574"
    "9d8e76bf2e6e27c312187bff4690f059"
)


def table(hexes: str) -> dict[int, str]:
    """From a fingerprint to the character."""
    return {int(hexes[i : i + 8], 16): chr(FIRST + i // 8) for i in range(0, len(hexes), 8)}


GLYPHS = table(TEXT_MODE) | table(FRAME_BUFFER)
