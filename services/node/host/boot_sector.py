"""A guest of 512 bytes that finds out whether an accelerator really runs code.

It writes to port 0xe9 as it gets on: `R` in real mode, `L` in long mode, `D` after 20 million rounds of a loop, and then ends
QEMU through port 0x501 (isa-debug-exit) with 0x10, which makes QEMU's exit code 0x10 * 2 + 1 = 33. An accelerator that
opens, makes a VM and runs a BIOS, but emulates every instruction of 64-bit code, never comes to `D` in time.
"""

from __future__ import annotations

SAYS = b"RLD"
EXIT_CODE = 33
EXIT_PORT = 0x501
SAY_PORT = 0xE9

# assembled once with GNU as, linked at 0x7c00; AT&T syntax
_CODE = """
fa              # cli
31 c0           # xor %ax,%ax
8e d8           # mov %ax,%ds
8e c0           # mov %ax,%es
8e d0           # mov %ax,%ss
bc 00 7c        # mov $0x7c00,%sp
b0 52           # mov $'R',%al
e6 e9           # out %al,$0xe9
bf 00 10        # mov $0x1000,%di             page tables: clear 12 KiB from 0x1000
66 31 c0        # xor %eax,%eax
b9 00 0c        # mov $3072,%cx
66 f3 ab        # rep stosl
66 c7 06 00 10 03 20 00 00  # movl $0x2003,0x1000   PML4 -> PDPT
66 c7 06 00 20 03 30 00 00  # movl $0x3003,0x2000   PDPT -> PD
66 c7 06 00 30 83 00 00 00  # movl $0x0083,0x3000   PD: the first 2 MiB, identity
0f 20 e0        # mov %cr4,%eax
66 83 c8 20     # or $0x20,%eax               PAE
0f 22 e0        # mov %eax,%cr4
66 b8 00 10 00 00  # mov $0x1000,%eax
0f 22 d8        # mov %eax,%cr3
66 b9 80 00 00 c0  # mov $0xc0000080,%ecx       EFER
0f 32           # rdmsr
66 0d 00 01 00 00  # or $0x100,%eax             long mode enable
0f 30           # wrmsr
0f 01 16 a0 7c  # lgdtw 0x7ca0
0f 20 c0        # mov %cr0,%eax
66 0d 01 00 00 80  # or $0x80000001,%eax        paging, protection
0f 22 c0        # mov %eax,%cr0
ea 70 7c 08 00  # ljmp $8,$0x7c70
b0 4c           # 7c70: mov $'L',%al          64-bit from here
e6 e9           # out %al,$0xe9
48 c7 c1 00 2d 31 01  # mov $20000000,%rcx
48 ff c9        # 7c7b: dec %rcx
75 fb           # jne 7c7b
b0 44           # mov $'D',%al
e6 e9           # out %al,$0xe9
b0 10           # mov $0x10,%al
66 ba 01 05     # mov $0x501,%dx
ee              # out %al,(%dx)
f4              # 7c8b: hlt
eb fd           # jmp 7c8b
66 90           # to a multiple of 8
00 00 00 00 00 00 00 00  # 7c90: descriptor 0
00 00 00 00 00 9a 20 00  # descriptor 8: code, 64 bits
0f 00 90 7c 00 00  # 7ca0: size - 1 and address of the table above
"""


def boot_sector() -> bytes:
    """The sector, with the mark that makes a BIOS start it."""
    code = bytes.fromhex("".join(line.partition("#")[0] for line in _CODE.splitlines()))
    return code.ljust(510, b"\0") + b"\x55\xaa"
