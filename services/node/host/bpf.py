"""Small programs for the kernel's traffic control: an assembler with labels, pure, and the system call that loads them."""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from dataclasses import dataclass, field

# linux/bpf.h
PROG_LOAD = 5
SCHED_CLS = 3
VLAN_PUSH, VLAN_POP = 18, 19
LEN, VLAN_PRESENT, VLAN_TCI, VLAN_PROTO = 0, 20, 24, 28
"""where in a packet's context"""
SYSCALL = {"x86_64": 321, "aarch64": 280}
LOG_BYTES = 64 * 1024
R0, R1, R2, R3, R6 = 0, 1, 2, 3, 6


@dataclass(slots=True)
class Assembler:
    """Instructions in the order of the calls. A jump names a label, which is placed once, further down."""

    words: list[tuple[int, int, int, int, int]] = field(default_factory=list)
    jumps: list[tuple[int, str]] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)

    def move(self, to: int, source: int) -> None:
        self.words.append((0xBF, to, source, 0, 0))

    def put(self, to: int, value: int) -> None:
        self.words.append((0xB7, to, 0, 0, value))

    def field(self, to: int, offset: int) -> None:
        """32 bits of the packet's context, which r6 points at."""
        self.words.append((0x61, to, R6, offset, 0))

    def half(self, offset: int) -> None:
        """16 bits of the packet into r0, as a number. Beyond its end the program ends with 0: look at its length before."""
        self.words.append((0x28, 0, 0, 0, offset))

    def word(self, offset: int) -> None:
        self.words.append((0x20, 0, 0, 0, offset))

    def mask(self, register: int, bits: int) -> None:
        self.words.append((0x57, register, 0, 0, bits))

    def call(self, helper: int) -> None:
        self.words.append((0x85, 0, 0, 0, helper))

    def jump_if(self, register: int, value: int, label: str) -> None:
        """Equal, as 32 bits."""
        self._jump(0x16, register, value, label)

    def jump_unless(self, register: int, value: int, label: str) -> None:
        self._jump(0x56, register, value, label)

    def jump_below(self, register: int, value: int, label: str) -> None:
        self._jump(0xA6, register, value, label)

    def label(self, name: str) -> None:
        self.labels[name] = len(self.words)

    def end(self, answer: int) -> None:
        self.put(R0, answer)
        self.words.append((0x95, 0, 0, 0, 0))

    def code(self) -> bytes:
        """Raises KeyError for a label that was never placed."""
        words = list(self.words)
        for at, name in self.jumps:
            code, to, source, _, value = words[at]
            words[at] = code, to, source, self.labels[name] - at - 1, value
        return b"".join(_packed(*word) for word in words)

    def _jump(self, code: int, register: int, value: int, label: str) -> None:
        self.jumps.append((len(self.words), label))
        self.words.append((code, register, 0, 0, value))


def _packed(code: int, to: int, source: int, offset: int, value: int) -> bytes:
    return struct.pack("=BBhI", code, source << 4 | to, offset, value & 0xFFFFFFFF)


def load(code: bytes) -> int:
    """A descriptor of the program, checked by the kernel. Raises OSError, with the end of what its verifier said."""
    syscall = SYSCALL.get(platform.machine())
    if syscall is None:
        raise OSError(38, f"no such programs are loaded on {platform.machine()}")
    libc = ctypes.CDLL(None, use_errno=True)
    program, license = ctypes.create_string_buffer(code), ctypes.create_string_buffer(b"GPL")
    said = ctypes.create_string_buffer(LOG_BYTES)
    at = [ctypes.addressof(buffer) for buffer in (program, license, said)]
    asked = struct.pack("=IIQQIIQII", SCHED_CLS, len(code) // 8, at[0], at[1], 1, LOG_BYTES, at[2], 0, 0).ljust(120, b"\0")
    fd = int(libc.syscall(syscall, PROG_LOAD, ctypes.create_string_buffer(asked), len(asked)))
    if fd < 0:
        error = ctypes.get_errno()
        why = said.value.decode(errors="replace").strip().splitlines()
        raise OSError(error, ": ".join([os.strerror(error), *why[-1:]]))
    return fd
