"""Reading of page tables, mappings and address spaces, from texts and made-up trees."""

from __future__ import annotations

import asyncio
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proto.mapping import Backing, Region
from services.node.drivers.memory import canonical
from services.node.drivers.qemu.memory_tree import Range, at, parse, regions
from services.node.drivers.qemu.page_walk import Tables, Walked, parse_dumped, parse_registers, walk
from services.node.host.memory_now import memory_now, parse_pressure
from services.node.host.pages import HUGE, PAGE, NeedsRoot, look, parse_entry
from services.node.host.process_memory import parse_numa_maps, parse_smaps, parse_status

VIEW = """address-space: I/O
  0000000000000000-000000000000ffff (prio 0, i/o): io
    0000000000000000-0000000000000007 (prio 0, i/o): dma-chan

address-space: cpu-memory-0
address-space: memory
  0000000000000000-ffffffffffffffff (prio 0, i/o): system
    0000000000000000-000000007fffffff (prio 0, ram): alias ram-below-4g @pc.ram 0000000000000000-000000007fffffff
    0000000000000000-ffffffffffffffff (prio -1, i/o): pci
      00000000000a0000-00000000000bffff (prio 1, i/o): vga-lowmem
      00000000fd000000-00000000fdffffff (prio 1, ram): vga.vram
    00000000000a0000-00000000000bffff (prio 1, i/o): alias smram-region @pci 00000000000a0000-00000000000bffff
    00000000000c0000-00000000000c3fff (prio 1, ram): alias pam-rom @pc.ram 00000000000c0000-00000000000c3fff
    00000000000c0000-00000000000c3fff (prio 1, ram): alias pam-pci @pci 00000000000c0000-00000000000c3fff [disabled]
    0000000100000000-000000013fffffff (prio 0, ram): alias ram-above-4g @pc.ram 0000000080000000-00000000bfffffff
    0000000140000000-00000001ffffffff (prio 0, i/o): device-memory
      0000000140000000-000000014fffffff (prio 0, ram): m1

memory-region: pc.ram
  0000000000000000-00000000bfffffff (prio 0, ram): pc.ram
"""
BACKENDS: list[dict[str, Any]] = [
    {"id": "pc.ram", "host-nodes": []},
    {"id": "m1", "host-nodes": [1], "hugetlb": True},
]


def test_the_view_of_the_guest_and_no_other() -> None:
    view = parse(VIEW)
    assert len(view) == 9
    assert at(view, 0xC0000) == Range(0xC0000, 0xC3FFF, "ram", "pc.ram", 0xC0000, (1,))
    assert at(view, 0xB8000) == Range(0xA0000, 0xBFFFF, "i/o", "pci", 0xA0000, (1,)), "the window lies above the memory"
    assert at(view, 0x100000) == Range(0, 0x7FFFFFFF, "ram", "pc.ram", 0, (0,))
    assert at(view, 0x100000000) == Range(4 << 30, (5 << 30) - 1, "ram", "pc.ram", 2 << 30, (0,))
    assert at(view, 0x140000000) == Range(5 << 30, (5 << 30) + (256 << 20) - 1, "ram", "m1", 0, (0, 0))
    hole = at(view, 0x90000000)
    assert hole is not None and not hole.is_memory
    assert parse("") == ()


def test_regions_are_runs_of_the_vms_own_blocks() -> None:
    assert regions(parse(VIEW), BACKENDS, True) == (
        Region(name="below-4g", guest_address=0, size_mib=2048, dirty_tracking=True),
        Region(name="above-4g", guest_address=4 << 30, size_mib=1024, dirty_tracking=True),
        Region(name="m1", guest_address=5 << 30, size_mib=256, backing=Backing.HUGEPAGES, cell=1, dirty_tracking=True),
    )


def test_registers_say_where_the_tables_are() -> None:
    text = "CR0=80050033 CR2=00005597e4ffd428 CR3=00000000094ac801 CR4=000006f0\nEFER=0000000000000d01\n"
    assert parse_registers(text) == Tables(0x94AC000, 4)
    assert parse_registers(text.replace("000006f0", "000016f0")) == Tables(0x94AC000, 5)
    assert parse_registers(text.replace("80050033", "00000011")) is None
    assert parse_registers("") is None
    assert parse_dumped("00000000094ac000: 0x0000000005a2b067\r\n") == 0x5A2B067
    assert parse_dumped("Cannot access memory") is None


def built(gva: int, gpa: int, levels: int, leaf: int) -> dict[int, int]:
    """Page tables that lead from one page to another; leaf: the level whose entry maps it."""
    memory, table = {}, 0x1000
    for level in range(levels, leaf - 1, -1):
        slot = table + (gva >> (12 + 9 * (level - 1)) & 511) * 8
        table += 0x1000
        memory[slot] = (gpa | 0x80 * (leaf > 1) if level == leaf else table) | 1
    return memory


@given(
    gva=st.integers(0, 2**47 - 1), frame=st.integers(1, 2**30), levels=st.sampled_from((4, 5)), leaf=st.integers(1, 3)
)
def test_a_walk_finds_pages_of_all_sizes(gva: int, frame: int, levels: int, leaf: int) -> None:
    size = 1 << (12 + 9 * (leaf - 1))
    gpa = frame * size % 2**50
    memory = built(gva, gpa, levels, leaf)

    async def read(address: int) -> int | None:
        return memory.get(address)

    tables = Tables(0x1000, levels)
    assert asyncio.run(walk(read, tables, gva)) == Walked(gpa + gva % size, size >> 10)
    memory[next(iter(memory))] &= ~1
    assert asyncio.run(walk(read, tables, gva)) is None


@pytest.mark.parametrize(
    ("gva", "yes"),
    [(0, True), (2**47 - 1, True), (2**56, False), (1 << 62, False), (0xFFFFFFFF81000000, True), (0xFF7F << 48, False)],
)
def test_addresses_that_can_be(gva: int, yes: bool) -> None:
    assert canonical(gva) == yes


# --- the host's side ---------------------------------------------------------------------------------------------------


def host(root: Path, frames: list[int], flags: dict[int, int]) -> None:
    """A tree with process 7, whose pages from address 0 on have these words, and the flags of frames."""
    (root / "proc/7").mkdir(parents=True)
    (root / "proc/7/pagemap").write_bytes(struct.pack(f"<{len(frames)}Q", *frames))
    table = bytearray(8 * 2048)
    for frame, word in flags.items():
        struct.pack_into("<Q", table, frame * 8, word)
    (root / "proc/kpageflags").write_bytes(bytes(table))


PRESENT, SWAPPED = 1 << 63, 1 << 62


def test_a_page_in_each_of_its_states(tmp_path: Path) -> None:
    host(tmp_path, [PRESENT | 5, 0, SWAPPED | 9, PRESENT, PRESENT | 1 << 61 | 6], {5: 1 << 21})
    page = look(7, 0x123, root=tmp_path)
    assert (page.machine, page.page_kib, page.state) == (5 * PAGE + 0x123, 4, ("resident", "ksm"))
    assert look(7, PAGE, root=tmp_path).state == ("untouched",)
    swapped = look(7, 2 * PAGE, root=tmp_path)
    assert (swapped.machine, swapped.cell, swapped.state) == (-1, -1, ("swapped",))
    with pytest.raises(NeedsRoot):
        look(7, 3 * PAGE, root=tmp_path)
    assert look(7, 4 * PAGE, root=tmp_path).state == ("resident", "file")
    with pytest.raises(ProcessLookupError):
        look(8, 0, root=tmp_path)
    with pytest.raises(OSError, match="no address"):
        look(7, 1 << 30, root=tmp_path)


def test_a_huge_page_is_one_run_of_frames(tmp_path: Path) -> None:
    thp = 1 << 22
    whole = [PRESENT | (HUGE * 2 + i) for i in range(HUGE)]
    host(tmp_path, whole, {HUGE * 2 + 3: thp})
    assert look(7, 3 * PAGE, root=tmp_path).page_kib == 2048
    torn = tmp_path / "torn"
    host(torn, [*whole[:-1], PRESENT | 1], {HUGE * 2 + 3: thp})
    assert look(7, 3 * PAGE, root=torn).page_kib == 4
    shifted = tmp_path / "shifted"
    host(shifted, [PRESENT | (HUGE * 2 + 1 + i) for i in range(HUGE)], {HUGE * 2 + 4: thp})
    assert look(7, 3 * PAGE, root=shifted).page_kib == 4, "a huge page begins where its address does"
    plain = tmp_path / "plain"
    host(plain, whole, {})
    assert look(7, 3 * PAGE, root=plain).page_kib == 4
    assert look(7, 3 * PAGE, small_kib=1048576, root=plain).page_kib == 1048576


def test_an_entry() -> None:
    assert parse_entry(0).frame == 0 and not parse_entry(SWAPPED | 77).present
    assert parse_entry(SWAPPED | 77).frame == 0, "what is there is a place in the swap"


SMAPS = """7f7d41e00000-7f7d4be00000 rw-p 00000000 00:00 0 
Size:             163840 kB
KernelPageSize:        4 kB
Rss:              122880 kB
Shared_Clean:          8 kB
AnonHugePages:    120832 kB
Swap:                 64 kB
THPeligible:           1
VmFlags: rd wr mr mw me dc ac dd hg mg
7f7d4be00000-7f7d4bf00000 r-xp 00000000 fe:01 77 /usr/bin/qemu system
Rss:                 100 kB
"""  # noqa: W291


def test_mappings_of_a_process() -> None:
    ram, code = parse_smaps(SMAPS.splitlines())
    assert (ram.first, ram.end, ram.resident_kib, ram.huge_kib) == (0x7F7D41E00000, 0x7F7D4BE00000, 122880, 120832)
    assert (ram.swapped_kib, ram.shared_kib, ram.page_kib, ram.name) == (64, 8, 4, "")
    assert (code.name, code.mode, code.resident_kib) == ("/usr/bin/qemu system", "r-xp", 100)
    assert parse_numa_maps(["7f00 default anon=3 N0=2 N1=1 kernelpagesize_kB=4", "8f00 default N1=1 kernelpagesize_kB=2048"]) == {
        0: 8,
        1: 2052,
    }  # fmt: skip
    quick = parse_status("Name:\tqemu\nVmRSS:\t  100 kB\nVmSwap:\t 7 kB\nThreads:\t3\n")
    assert (quick.resident_kib, quick.swapped_kib) == (100, 7)


def test_the_hosts_memory_now(tmp_path: Path) -> None:
    for name, text in {
        "proc/meminfo": "MemTotal: 4194304 kB\nMemAvailable: 2097152 kB\nSwapTotal: 1048576 kB\nSwapFree: 524288 kB\n",
        "proc/pressure/memory": "some avg10=1.50 avg60=0.00 total=1\nfull avg10=0.25 avg60=0.00 total=1\n",
        "sys/kernel/mm/ksm/pages_sharing": "512\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    now = memory_now(tmp_path)
    assert (now.total_mib, now.available_mib, now.swap_total_mib, now.swap_free_mib) == (4096, 2048, 1024, 512)
    assert (now.psi_some_avg10, now.psi_full_avg10, now.ksm_saved_mib) == (1.5, 0.25, 2)
    assert parse_pressure("") == (-1.0, -1.0)
    (tmp_path / "proc/pressure/memory").unlink()
    assert memory_now(tmp_path).psi_some_avg10 == -1.0
    for name, text in {
        "proc/self/mountinfo": "30 24 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup rw",
        "proc/self/cgroup": "0::/job",
        "sys/fs/cgroup/job/cgroup.controllers": "memory",
        "sys/fs/cgroup/job/memory.pressure": "some avg10=7.00 total=1\nfull avg10=3.00 total=1",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert memory_now(tmp_path).psi_some_avg10 == 7.0, "in a container: of its own group"
