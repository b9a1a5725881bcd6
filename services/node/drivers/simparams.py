"""How a simulated host behaves."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SimParams:
    """How this host behaves. Times in microseconds; chances are 0..1 per start (or per shutdown), drawn from the host's Random.

    lease_us, start_us    from the order to the process, and from there to running vCPUs; jitter_us is added at most once
    boot_us               from running vCPUs to a guest agent that answers
    shutdown_us           how long a guest takes to power off when asked
    verb_us               pause, resume, reset; kill_us: power off until the process is gone
    start_fails           chance that QEMU ends at once; start_hangs: that it says nothing until hang_us, then is killed
    ignores_unplug        chance that a guest does not let go of a device when asked
    ignores_shutdown      chance that a guest does not power off when asked
    move_us               from `send` to the guest being sent whole, give or take a half of it; move_fails: chance that it is not
    backup_us             from the instant of a backup to its being whole (a world's are so at once)
    home_us               how long a recovered disk's data comes home
    crashes_per_hour      mean number of crashes of a running VM's process in an hour, spread evenly in time
    pcpus, memory_mib     what the host claims to have; cells: so many parts its pCPUs fall into; swap_mib: encrypted swap
    balloon               whether memory can be taken back from its guests (in a world: libs/world/memory.py)
    busy_pct              what each vCPU wants of a pCPU
    """

    lease_us: int = 5_000
    start_us: int = 250_000
    jitter_us: int = 50_000
    boot_us: int = 1_500_000
    shutdown_us: int = 1_000_000
    verb_us: int = 5_000
    kill_us: int = 20_000
    hang_us: int = 30_000_000
    move_us: int = 400_000
    move_fails: float = 0.0
    backup_us: int = 0
    home_us: int = 1_500_000
    start_fails: float = 0.0
    start_hangs: float = 0.0
    ignores_shutdown: float = 0.0
    ignores_unplug: float = 0.0
    crashes_per_hour: float = 0.0
    pcpus: int = 8
    memory_mib: int = 16_384
    cells: int = 1
    busy_pct: float = 0.0
    swap_mib: int = 0
    balloon: bool = False

    @property
    def pcpus_of_cells(self) -> tuple[tuple[int, ...], ...]:
        size = -(-self.pcpus // self.cells)
        return tuple(tuple(range(n, min(n + size, self.pcpus))) for n in range(0, self.pcpus, size))
