"""Swap for VMs: which of a host's counts, how much there should be, and making it, with every step failing once."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from libs.memory import swap as sizes
from libs.memory.areas import sized
from libs.memory.promise import taken_mib
from libs.memory.swap import Size
from proto.ladder import MemoryPolicy
from services.node.config import NodeConfig
from services.node.host import swap
from services.node.host.swap_host import ToolFailed
from services.node.host.swap_maker import CannotMake, Made, active, make, unmake
from services.node.swapping import Swapping, Wish, own_device

BOOT = "boot-1"
SIZE = Size(swap_mib=300, memory_mib=100)


class FakeHost:
    """A machine with zram, loop devices and dm-crypt. fail: the step that fails, by its number, once. trace: the steps."""

    def __init__(self, fail: int = -1) -> None:
        self.files: dict[str, int] = {}
        self.zrams: dict[int, dict[str, str]] = {}
        self.loops: dict[str, str] = {}
        self.mappings: dict[str, str] = {}
        self.swaps: list[str] = []
        self.paths = {"/sys/class/zram-control/hot_add", "/dev/mapper/control"}
        self.modules: set[str] = set()
        self.content: dict[str, str] = {}
        self.targets = "crypt v1.25.0\nlinear v1.4.0"
        self.fail = fail
        self.trace: list[str] = []
        self.given: list[str] = []

    @property
    def clean(self) -> bool:
        return not (self.files or self.zrams or self.loops or self.mappings or self.swaps)

    def _step(self, what: str) -> None:
        self.trace.append(what)
        if len(self.trace) - 1 == self.fail:
            raise ToolFailed(f"{what}: no")

    def exists(self, path: str) -> bool:
        known = self.paths | set(self.files) | {f"/dev/zram{n}" for n in self.zrams}
        return path in known | {f"/sys/block/zram{n}" for n in self.zrams}

    def read(self, path: str) -> str:
        if path == "/proc/swaps":
            return "\n".join(["Filename Type Size Used Priority", *(f"{name} partition 1 0 1" for name in self.swaps)])
        if path.endswith("hot_add"):
            self._step("hot_add")
            self.zrams[len(self.zrams)] = {}
            return str(max(self.zrams))
        if path.endswith("comp_algorithm"):
            return "[lzo-rle] lzo lz4"
        assert path.endswith("/size"), path
        return str(SIZE.swap_mib << 11)

    def write(self, path: str, text: str) -> None:
        name = path.rsplit("/", 1)[1]
        self._step(f"write {name}")
        if name == "hot_remove":
            assert f"/dev/zram{text}" not in self.swaps, "it is in use"
            del self.zrams[int(text)]
        elif name != "reset":
            self.zrams[int(path.split("/")[3].removeprefix("zram"))][name] = text

    def run(self, *argv: str, given: str = "") -> str:
        tool = argv[0]
        if argv[:2] not in {("dmsetup", "info"), ("losetup", "--associated")}:
            self._step(" ".join(argv[:2]))
        self.given.append(given)
        match argv:
            case ("modprobe", module):
                if module not in self.modules:
                    raise ToolFailed(f"modprobe: FATAL: Module {module} not found")
            case ("dmsetup", "targets"):
                return self.targets
            case ("dmsetup", "create", name, "--uuid", uuid):
                assert uuid.startswith("CRYPT-") and " crypt aes-xts-plain64 " in given
                self.mappings[name] = given
            case ("dmsetup", "remove", _, name):
                assert f"/dev/mapper/{name}" not in self.swaps
                del self.mappings[name]
            case ("dmsetup", "info", *_, name):
                if name not in self.mappings:
                    raise ToolFailed("dmsetup: no such device")
                return "0"
            case ("losetup", "--find", "--show", file):
                self.loops["/dev/loop7"] = file
                return "/dev/loop7"
            case ("losetup", "--associated", file):
                return "\n".join(f"{loop}: []: ({of})" for loop, of in self.loops.items() if of == file)
            case ("losetup", "--detach", loop):
                assert not self.mappings, "it is in use"
                del self.loops[loop]
            case ("blkid", *_, device):
                return self.content.get(device, "")
            case ("swapon", *_, device):
                self.swaps.append(device)
            case ("swapoff", device):
                self.swaps.remove(device)
            case _:
                assert tool == "mkswap"
        return ""

    def allocate(self, path: str, size_mib: int) -> None:
        self._step("allocate")
        self.files[path] = size_mib

    def remove(self, path: str) -> None:
        self.files.pop(path, None)

    def free_mib(self, folder: str) -> int:
        return 5000


def made(host: FakeHost, kind: str, kept: list[Made] | None = None) -> Made:
    save = (kept if kept is not None else []).append
    return make(host, kind, SIZE, BOOT, "asv-swap-x", Path("/state"), save)


@pytest.mark.parametrize("kind", ["zram", "disk"])
def test_swap_is_made_and_unmade(kind: str) -> None:
    host = FakeHost()
    done = made(host, kind)
    assert active(host, done) and host.swaps == [done.device]
    if kind == "zram":
        assert host.zrams == {0: {"comp_algorithm": "lz4", "disksize": str(300 << 20), "mem_limit": str(100 << 20)}}
    else:
        assert host.files == {"/state/swap": 300} and host.loops == {"/dev/loop7": "/state/swap"}
    assert unmake(host, done, BOOT) == "" and host.clean
    assert unmake(host, done, BOOT) == "", "said twice it changes nothing"


def test_the_key_is_random_and_in_no_list_of_processes() -> None:
    keys = set()
    for _ in range(2):
        host = FakeHost()
        kept: list[Made] = []
        made(host, "disk", kept)
        (table,) = [text for text in host.given if text]
        key = table.split()[4]
        assert len(bytes.fromhex(key)) == 64
        assert key not in " ".join(host.trace) and key not in repr(kept), "it is kept nowhere"
        keys.add(key)
    assert len(keys) == 2


@pytest.mark.parametrize("kind", ["zram", "disk"])
def test_every_step_that_fails_leaves_nothing(kind: str) -> None:
    well = FakeHost()
    made(well, kind)
    for step, what in enumerate(well.trace):
        host = FakeHost(fail=step)
        if what == "dmsetup targets":
            host.targets = ""
        with pytest.raises(CannotMake, match=r"no$|not found"):
            made(host, kind)
        assert host.clean, f"{what} failed: {vars(host)}"


@pytest.mark.parametrize("kind", ["zram", "disk"])
def test_an_agent_killed_at_any_step_leaves_nothing_to_the_next(kind: str) -> None:
    """What was kept by then is enough to find all that is there; but for a device of zram that was just asked for."""

    class Killed(BaseException):
        pass

    well = FakeHost()
    made(well, kind)
    for step, what in enumerate(well.trace):
        host, kept = FakeHost(), list[Made]()
        real = host._step

        def dies(said: str, real=real, host=host, step=step) -> None:  # type: ignore[no-untyped-def]
            real(said)
            if len(host.trace) > step:
                raise Killed

        host._step = dies  # type: ignore[method-assign, assignment]
        with pytest.raises(Killed):
            make(host, kind, SIZE, BOOT, "asv-swap-x", Path("/state"), kept.append)
        host._step = real  # type: ignore[method-assign]
        if kept:
            assert unmake(host, kept[-1], BOOT) == ""
        assert host.clean, f"killed at {what}: {vars(host)}"


def test_what_cannot_be_undone_is_said_and_found_again(tmp_path: Path) -> None:
    host = FakeHost()
    state = Swapping(tmp_path, BOOT, host)
    assert state.prepare(wish("zram")) == []
    host.fail = len(host.trace)
    assert state.leave() == "swapoff /dev/zram0: no"
    assert host.swaps == ["/dev/zram0"] and own_device(tmp_path) == "/dev/zram0"
    assert state.leave() == "" and host.clean and own_device(tmp_path) == ""


def wish(kind: str, swap_mib: int = 300) -> Wish:
    return Wish(kind=kind, memory_mib=16_384, swap_mib=swap_mib, where=Path("/state"))


def test_the_next_agent_of_the_same_boot_adopts_it(tmp_path: Path) -> None:
    host = FakeHost()
    assert Swapping(tmp_path, BOOT, host).prepare(wish("auto")) == []
    before = list(host.trace)
    assert Swapping(tmp_path, BOOT, host).prepare(wish("auto")) == []
    assert host.trace == before and host.swaps == ["/dev/zram0"]
    assert Swapping(tmp_path, BOOT, host).prepare(wish("")) == [], "wanted no more"
    assert host.clean and not list(tmp_path.iterdir())


def test_after_a_boot_only_the_file_is_left_of_it(tmp_path: Path) -> None:
    host = FakeHost()
    assert Swapping(tmp_path, BOOT, host).prepare(wish("disk")) == []
    host.swaps, host.mappings, host.loops = [], {}, {}
    assert Swapping(tmp_path, "boot-2", host).prepare(wish("disk")) == []
    assert host.swaps == ["/dev/mapper/asv-swap-" + own_device(tmp_path)[-8:]] and len(host.files) == 1


def test_a_host_that_cannot_says_what_is_missing(tmp_path: Path) -> None:
    host = FakeHost()
    host.paths = set()
    (said,) = Swapping(tmp_path, BOOT, host).prepare(wish("auto"))
    assert "zram-control/hot_add is not there (modprobe: FATAL: Module zram not found): install" in said
    assert "/dev/mapper/control is not there (modprobe: FATAL: Module dm_mod not found): install" in said
    assert "best-effort VMs are not swapped out here" in said and host.clean and not list(tmp_path.iterdir())
    host = FakeHost()
    (said,) = Swapping(tmp_path, BOOT, host).prepare(wish("disk", 4500))
    assert "4500 MiB of swap are wanted and 5000 are free in /state, of which 1024 are kept" in said
    (said,) = Swapping(tmp_path, BOOT, host).prepare(wish("zram", 5))
    assert "5 MiB are too little" in said


def test_a_partition_that_holds_something_is_not_taken(tmp_path: Path) -> None:
    host = FakeHost()
    host.content["/dev/sdb1"] = "ext4"
    given = msgspec.structs.replace(wish("disk"), where=Path("/dev/sdb1"))
    (said,) = Swapping(tmp_path, BOOT, host).prepare(given)
    assert "/dev/sdb1 holds ext4, which would be lost" in said and host.clean
    host.content.clear()
    assert Swapping(tmp_path, BOOT, host).prepare(given) == []
    assert not host.files and not host.loops and "/dev/sdb1" in next(iter(host.mappings.values()))
    assert Swapping(tmp_path, BOOT, host).leave() == "" and host.clean


def test_a_damaged_record_is_not_taken_for_nothing(tmp_path: Path) -> None:
    (tmp_path / "swap.json").write_text("{")
    with pytest.raises(ValueError, match="damaged"):
        Swapping(tmp_path, BOOT, FakeHost()).prepare(wish("zram"))


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"swap": "lots"}, "none of zram, disk, auto"),
        ({"swap_mib": 3}, "16 to"),
        ({"swap_device": Path("/dev/null")}, "no block device"),
        ({"swap_device": Path("/etc/passwd")}, "no block device"),
        ({"control_plane_group": Path("/nowhere")}, "no folder"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, object], why: str) -> None:
    config = NodeConfig(node="n1", state=Path("/s"), pools=("default=/p",))
    config.check()
    with pytest.raises(ValueError, match=why):
        msgspec.structs.replace(config, **settings).check()


def test_how_much_swap_follows_from_memory_ratio_and_classes() -> None:
    assert sizes.wanted_mib(10_000, MemoryPolicy()) == 5000, "what nominal memory exceeds the node's by at 150 %"
    assert sizes.wanted_mib(10_000, MemoryPolicy(ratio_pct=100)) == 0
    assert sizes.wanted_mib(10_000, MemoryPolicy(class_ratio_pct={"best-effort": 300})) == 20_000
    assert sizes.wanted_mib(10_000, MemoryPolicy(class_ratio_pct={"normal": 300})) == 5000, "others are not swapped"
    assert sizes.zram(16_384, 5000) == Size(swap_mib=4096, memory_mib=1366)
    assert sizes.zram(16_384, 900) == Size(swap_mib=900, memory_mib=300)


def test_what_zram_may_take_is_taken_off_before_anything_is_promised() -> None:
    plain, squeezed = sized(16_384), sized(16_384, swap_memory_mib=1366)
    assert taken_mib(squeezed) == taken_mib(plain) + 1366
    assert taken_mib(sized(16_384, control_plane=True)) == taken_mib(plain) + 256 + 128


def plant(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


HEAD = "Filename Type Size Used Priority\n"
STAT = "0 0 52428800 {limit} 0 0 0 0 0"


def test_swap_that_keeps_secrets_and_bounds_counts(tmp_path: Path) -> None:
    plant(tmp_path, {
        "proc/swaps": f"{HEAD}/dev/zram0 partition 524288 1024 5\n/dev/mapper/swap partition 1048576 0 1\n",
        "sys/block/zram0/mm_stat": STAT.format(limit=175 << 20), "sys/block/zram0/backing_dev": "none",
        "sys/block/dm-2/dm/uuid": "CRYPT-PLAIN-swap", "sys/block/dm-2/dm/name": "swap",
    })  # fmt: skip
    zram, crypt = swap.swaps(tmp_path, own="/dev/zram0")
    assert (zram.kind, zram.size_mib, zram.used_mib, zram.memory_mib, zram.memory_max_mib) == ("zram", 512, 1, 50, 175)
    assert zram.own and not crypt.own and crypt.kind == "crypt"
    assert swap.for_vms((zram, crypt)) == (1536, 175) and swap.unfit((zram, crypt)) == []
    assert swap.swaps(tmp_path / "none") == () and swap.for_vms(()) == (0, 0)


@pytest.mark.parametrize(
    ("line", "files", "why"),
    [
        ("/dev/sda2 partition 1048576 0 -2", {}, "in the clear"),
        ("/swapfile file 1048576 0 -2", {}, "in the clear"),
        ("/dev/dm-1 partition 1048576 0 1", {"sys/block/dm-1/dm/uuid": "LVM-abc"}, "in the clear"),
        ("/dev/zram1 partition 1048576 0 5", {"sys/block/zram1/mm_stat": STAT.format(limit=0)}, "no mem_limit"),
        (
            "/dev/zram1 partition 1048576 0 5",
            {"sys/block/zram1/mm_stat": STAT.format(limit=9 << 20), "sys/block/zram1/backing_dev": "/dev/sda3"},
            "/dev/sda3 in the clear",
        ),
    ],
)
def test_one_unfit_swap_keeps_vms_from_all(tmp_path: Path, line: str, files: dict[str, str], why: str) -> None:
    """The kernel chooses where a page goes, not we."""
    plant(tmp_path, {
        "proc/swaps": f"{HEAD}/dev/zram0 partition 524288 0 5\n{line}\n",
        "sys/block/zram0/mm_stat": STAT.format(limit=175 << 20), **files,
    })  # fmt: skip
    found = swap.swaps(tmp_path)
    assert swap.for_vms(found) == (0, 0)
    (said,) = swap.unfit(found)
    assert said.startswith(f"swap for VMs ({line.split(maxsplit=1)[0]} is on") and why in said
