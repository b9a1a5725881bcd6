"""Identities of machines, as devices give them and as hosts know themselves. Pure."""

from __future__ import annotations

import re

UUID = re.compile(r"\b(?:uuid|guid) ([0-9a-f]{8})-([0-9a-f]{4})-([0-9a-f]{4})-([0-9a-f]{4})-([0-9a-f]{12})\b")


def names(identity: str) -> frozenset[str]:
    """UUIDs by which a host may know itself that a device names so. Devices and firmware differ in the order of bytes in the first
    three groups (SMBIOS has them the other way round), and IPMI's may be reversed as a whole."""
    found = UUID.search(identity)
    if found is None:
        return frozenset()
    a, b, c, d, e = found.groups()
    whole = a + b + c + d + e
    return frozenset(
        {
            _split(whole),
            _split(_turned(a) + _turned(b) + _turned(c) + d + e),
            _split(_turned(whole)),
            _mixed(_turned(whole)),
        }
    )


def _turned(digits: str) -> str:
    return bytes.fromhex(digits)[::-1].hex()


def _split(digits: str) -> str:
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def _mixed(digits: str) -> str:
    return _split(_turned(digits[:8]) + _turned(digits[8:12]) + _turned(digits[12:16]) + digits[16:])
