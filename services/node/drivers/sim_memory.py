"""The memory of simulated VMs: nothing lies anywhere, but the same question always has the same answer, and sums are right.

The made-up mapping: a guest-virtual page lies at the guest-physical page that a fixed stride and the process id give; the guest's
memory lies in one run of the "process", and that in one run of the "machine".
"""

from __future__ import annotations

from proto.mapping import CellUse, GuestMemory, MemoryUse, Region, Space, Step, Translation, WhyNot
from proto.memory import Area
from proto.node import VmMemory
from services.node.drivers import NoSuchVm
from services.node.drivers.memory import Untranslatable, canonical, not_canonical
from services.node.drivers.simhost import SimHost
from services.node.drivers.simvm import SimVm
from services.node.host.memory_now import MemoryNow
from services.node.memory_plan import Balloon

PAGE = 4096
STRIDE = 40_503
"""odd, so that neighbouring pages lie apart"""
KERNEL = 1 << 63
HOST_BASE, MACHINE_BASE = 0x7F00_0000_0000, 1 << 32
LOW_MIB_MAX, LOW_MIB_SPLIT = 2816, 2048
"""a q35 board has so much below 4 GiB, or, where that is not enough, the second"""
WORDS = "simulated"


class SimMemory:
    def __init__(self, host: SimHost) -> None:
        self._host = host
        self.demand_mib: dict[str, int] = {}
        """VM -> what its guest uses, where it was said by hand; else half of its memory"""
        self.areas: tuple[Area, ...] = ()

    def vms(self) -> dict[str, int]:
        return {name: vm.spec.generation for name, vm in self._host.vms.items() if not vm.starting}

    async def regions(self, vm: str) -> tuple[Region, ...]:
        return _regions(self._find(vm))

    async def translate(self, vm: str, gva: int, pid: int) -> Translation:
        found = self._find(vm)
        if not canonical(gva):
            raise not_canonical(gva)
        if gva < PAGE or (pid and gva >= KERNEL):
            text = f"{vm} has no page at {gva:#x} ({WORDS})"
            raise Untranslatable(WhyNot.NOT_MAPPED, text, "give another address")
        if pid > PAGE:
            text = f"the guest has no process {pid}: a simulated one has those up to {PAGE}"
            raise Untranslatable(WhyNot.NO_PROCESS, text, "give a smaller --pid")
        offset = _offset(found, gva, pid)
        regions = _regions(found)
        region = next(r for r in reversed(regions) if offset >= _before(regions, r))
        gpa = region.guest_address + offset - _before(regions, region)
        hva, machine = HOST_BASE + (found.pid << 34) + offset, MACHINE_BASE + (found.pid << 34) + offset
        last = region.guest_address + (region.size_mib << 20) - 1
        memory = found.spec.shape.memory_mib << 20
        steps = (
            _page(Space.GUEST_VIRTUAL, gva, f"process {pid}" if pid else "the page tables of vCPU 0"),
            Step(space=Space.GUEST_PHYSICAL, address=gpa, region=region.name, first=region.guest_address, last=last),
            Step(
                space=Space.HOST_VIRTUAL,
                address=hva,
                region=f"process {found.pid}",
                first=hva - offset,
                last=hva - offset + memory - 1,
                page_kib=4,
            ),
            _page(Space.MACHINE, machine, "page of the machine, cell 0"),
        )
        return Translation(
            vm=vm, generation=found.spec.generation, steps=steps, cell=0, state=("resident",), simulated=True
        )

    async def host(self) -> MemoryNow:
        total_mib = self._host.params.memory_mib
        used_mib = sum(v.resident_mib for v in await self.figures())
        swaps = self._host.swaps
        sizes = [(s.size_mib, s.size_mib - s.used_mib) for s in swaps]
        return MemoryNow(
            total_mib=total_mib, available_mib=max(0, total_mib - used_mib), swap_total_mib=sum(t for t, _ in sizes),
            swap_free_mib=sum(free for _, free in sizes), swaps=swaps,
        )  # fmt: skip

    async def figures(self) -> tuple[VmMemory, ...]:
        return tuple(self._figures(vm, self._host.vms[vm]) for vm in sorted(self.vms()))

    def _figures(self, name: str, vm: SimVm) -> VmMemory:
        nominal_mib = vm.spec.shape.memory_mib
        balloon_mib = vm.balloon_mib or nominal_mib
        used_mib = min(balloon_mib, self.demand_mib.get(name, nominal_mib // 2))
        return VmMemory(name, vm.spec.generation, used_mib, 0, balloon_mib, balloon_mib - used_mib)

    async def balloons(self) -> dict[str, Balloon]:
        return {
            f.vm: Balloon(f.generation, self._host.vms[f.vm].spec.shape.memory_mib, f.balloon_mib)
            for f in await self.figures()
        }

    async def inflate(self, vm: str, mib: int) -> None:
        found = self._find(vm)
        found.balloon_mib = max(1, min(mib, found.spec.shape.memory_mib))

    async def limit(self, vm: str, high_mib: int, swap_max_mib: int, merge: bool) -> list[str]:
        self._find(vm)
        return []

    async def divide(self, areas: tuple[Area, ...]) -> list[str]:
        self.areas = areas
        return []

    def shelter(self) -> bool:
        return False

    async def use(self, vm: str) -> MemoryUse:
        found = self._find(vm)
        now = self._figures(vm, found)
        kib = now.resident_mib << 10
        return MemoryUse(
            vm=vm,
            generation=found.spec.generation,
            nominal_mib=found.spec.shape.memory_mib,
            balloon_mib=now.balloon_mib,
            resident_kib=kib,
            guest_resident_kib=kib,
            cells=(CellUse(cell=0, kib=kib),),
            guest=GuestMemory(total_kib=now.balloon_mib << 10, available_kib=now.guest_available_mib << 10, age_s=0),
            regions=_regions(found),
            simulated=True,
        )

    def _find(self, vm: str) -> SimVm:
        found = self._host.vms.get(vm)
        if found is None or found.starting:
            raise NoSuchVm(f"no process of {vm} on {self._host.node}")
        return found


def _page(space: Space, address: int, words: str) -> Step:
    first = address // PAGE * PAGE
    return Step(space=space, address=address, region=words, first=first, last=first + PAGE - 1, page_kib=4)


def _offset(vm: SimVm, gva: int, pid: int) -> int:
    pages = vm.spec.shape.memory_mib << 20 >> 12
    return (gva // PAGE * STRIDE + pid * 7 * STRIDE) % pages * PAGE + gva % PAGE


def _regions(vm: SimVm) -> tuple[Region, ...]:
    size_mib = vm.spec.shape.memory_mib
    low = size_mib if size_mib < LOW_MIB_MAX else LOW_MIB_SPLIT
    high = size_mib - low
    first = Region(name="below-4g", guest_address=0, size_mib=low)
    return (first, Region(name="above-4g", guest_address=4 << 30, size_mib=high)) if high else (first,)


def _before(regions: tuple[Region, ...], region: Region) -> int:
    """Bytes of the VM's memory below that region."""
    return sum(r.size_mib << 20 for r in regions if r.guest_address < region.guest_address)
