"""What cloud-init begins with: from the command line to the file that a guest reads, and nowhere else."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import msgspec
import pycdlib
import pytest
from msgspec.structs import replace

from proto.machine import Disk, DiskBus, DiskFormat, MachineSpec, Seed
from proto.seeds import SeedContent
from services.node.drivers import CannotStart
from services.node.drivers.qemu import seed
from tests.contract.driver_rigs import GUEST_S_MAX, QemuRig, guest_up, rig_of
from tests.contract.test_cli_gateway import Ctl
from tests.contract.test_cli_gateway import api as api
from tests.contract.test_cli_gateway import ctl as ctl
from tests.contract.test_driver_moves import over

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ ann@home"
SECRET = "correct horse battery staple ü"
USER = f"#cloud-config\npassword: {SECRET}\n"
NETWORK = "version: 2\nethernets: {}\n"
CONTENT = SeedContent(user_data=USER, network_config=NETWORK, hostname="web-1.example.org", ssh_keys=(KEY,))


def read(data: bytes) -> dict[str, bytes]:
    disc, found = pycdlib.PyCdlib(), dict[str, bytes]()
    disc.open_fp(BytesIO(data))
    assert disc.pvd.volume_identifier.decode().strip() == "CIDATA"
    for child in disc.list_children(joliet_path="/"):
        name = child.file_identifier().decode("utf-16-be")
        if child.is_file():
            out = BytesIO()
            disc.get_file_from_iso_fp(out, joliet_path=f"/{name}")
            found[name] = out.getvalue()
    disc.close()
    return found


def test_the_disc_is_what_cloud_init_looks_for() -> None:
    found = read(seed.iso(CONTENT, "uuid-1"))
    assert sorted(found) == ["meta-data", "network-config", "user-data"]
    assert (found["user-data"].decode(), found["network-config"].decode()) == (USER, NETWORK)
    meta = {"instance-id": "uuid-1", "local-hostname": "web-1.example.org", "public-keys": [KEY]}
    assert json.loads(found["meta-data"]) == meta
    bare = read(seed.iso(SeedContent(), "uuid-2"))
    assert bare["user-data"] == b"#cloud-config\n{}\n" and "network-config" not in bare
    assert json.loads(bare["meta-data"]) == {"instance-id": "uuid-2"}


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[QemuRig]:
    for made in rig_of("qemu", tmp_path):
        assert isinstance(made, QemuRig)
        (made.pool / "incoming").mkdir(exist_ok=True)
        yield made


def seeded(rig: QemuRig, generation: int = 1, content: bytes = b"") -> MachineSpec:
    data = content or msgspec.json.encode(CONTENT)
    (rig.pool / "incoming" / "a.seed").write_bytes(data)
    drive = Disk(
        name="cd1", pool="default", file="web-1-cd1.iso", size_mib=1, format=DiskFormat.RAW, serial="asv-cd1", slot=1,
        bus=DiskBus.CDROM, seed=Seed(file="a.seed", sha256=hashlib.sha256(data).hexdigest()),
    )  # fmt: skip
    spec = rig.spec(generation=generation)
    return replace(spec, disks=(*spec.disks, drive))


async def test_a_guest_finds_it_by_its_label_and_it_goes_with_the_vm(rig: QemuRig) -> None:
    here, there = rig.driver("n1"), rig.driver("n2")
    await here.open()
    await there.open()
    changes = here.changes()
    await here.start(seeded(rig))
    await guest_up(here)
    find = "modprobe -a sr_mod isofs; until d=$(findfs LABEL=CIDATA); do sleep 0.1; done"
    find += "; mkdir -p /run/s; mount -t iso9660 -o ro $d /run/s"
    done = await here.exec("web-1", ("sh", "-c", f"{find} && cd /run/s && ls && cat user-data"), b"", GUEST_S_MAX)
    assert done.stdout.decode() == "meta-data\nnetwork-config\nuser-data\n" + USER, done
    meta = await here.exec("web-1", ("cat", "/run/s/meta-data"), b"", GUEST_S_MAX)
    assert json.loads(meta.stdout)["instance-id"] == seeded(rig).shape.uuid
    file = rig.pool / "disks" / "web-1-cd1.iso"
    assert file.stat().st_mode & 0o777 == 0o600 and (os.geteuid() != 0 or file.stat().st_uid != 0)
    hardware = (await here.fit(seeded(rig))).hardware
    assert hardware is not None and hardware.misfits == ()
    waiting = await there.receive(seeded(rig, 2))
    await here.send("web-1", waiting.address)
    assert (await over(changes)).status == "sent"
    await here.kill("web-1")
    await there.activate("web-1")
    await there.resume("web-1")
    again = await there.exec("web-1", ("cat", "/run/s/user-data"), b"", GUEST_S_MAX)
    assert again.stdout.decode() == USER
    await there.kill("web-1")
    made = file.read_bytes()
    await there.start(seeded(rig, 3))
    assert file.read_bytes() == made
    await there.kill("web-1")
    await there.remove_disks("web-1", seeded(rig).disks)
    assert rig.disks("n1") == [] and list((rig.pool / "incoming").iterdir()) == []
    await here.close()
    await there.close()


async def test_a_seed_that_is_not_there_or_another_is_refused(rig: QemuRig) -> None:
    driver = rig.driver()
    await driver.open()
    spec = seeded(rig)
    (rig.pool / "incoming" / "a.seed").write_bytes(b"{}")
    with pytest.raises(CannotStart, match="digest differs"):
        await driver.start(spec)
    (rig.pool / "incoming" / "a.seed").unlink()
    with pytest.raises(CannotStart, match="cannot be read"):
        await driver.start(spec)
    with pytest.raises(CannotStart, match="is no seed"):
        await driver.start(seeded(rig, content=b"[]"))
    assert rig.left_over("n1") == []
    await driver.close()


async def test_the_log_never_holds_what_a_seed_says(ctl: Ctl, tmp_path: Path) -> None:
    files = {"user": USER, "net": NETWORK, "keys": f"# mine\n{KEY}\n\n"}
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    words = ("--user-data", str(tmp_path / "user"), "--network-config", str(tmp_path / "net"), "--ssh-key", str(tmp_path / "keys"))
    said = await ctl("vm", "create", "web-1", "--disk", "64MiB", *words, "--wait")
    assert said.code == 0, said
    (kept,) = (tmp_path / "pool" / "incoming").glob("*.seed")
    content = msgspec.json.decode(kept.read_bytes(), type=SeedContent)
    assert content == SeedContent(user_data=USER, network_config=NETWORK, hostname="web-1", ssh_keys=(KEY,))
    assert kept.stat().st_mode & 0o007 == 0
    (drive,) = (await ctl("cd", "ls", "web-1", "--json")).json
    assert drive["seed"]["file"] == kept.name and "(cloud-init)" in (await ctl("cd", "ls", "web-1")).out
    everything = (await ctl("events", "--json")).out + (await ctl("vm", "show", "web-1", "--json")).out
    assert kept.name in everything and SECRET not in everything and "horse" not in everything and KEY not in everything
    for wrong, reason in (
        (("cd", "insert", "web-1", "--image", "x"), "has no CD drive"),
        (("vm", "create", "web-1", "--hostname", "b"), "ALREADY_DEFINED"),
        (("vm", "create", "b", "--hostname", "Not A Host"), "hostname"),
    ):
        said = await ctl(*wrong)
        assert said.code in (1, 2) and reason in said.err, said
    assert [p.name for p in (tmp_path / "pool" / "incoming").glob("*.seed")] == [kept.name], "a refusal leaves nothing"
