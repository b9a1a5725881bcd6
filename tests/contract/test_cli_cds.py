"""CD drives from the command line to a simulated guest, and back: all services, one real gateway."""

from __future__ import annotations

from pathlib import Path

import pytest

from proto.images import ImageFormat
from tests.contract.test_cli_gateway import FILE, Ctl, TakesAll
from tests.contract.test_cli_gateway import api as api
from tests.contract.test_cli_gateway import ctl as ctl


@pytest.fixture
async def isos(ctl: Ctl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TakesAll, "format", ImageFormat.ISO)
    file = tmp_path / "a.iso"
    file.write_bytes(FILE)
    for name in ("red", "blue"):
        said = await ctl("image", "import", name, "--file", str(file), "--wait")
        assert said.code == 0 and "a.iso is taken for iso" in said.err, said
    assert [i["source"] for i in (await ctl("image", "ls", "--json")).json] == ["iso", "iso"]
    monkeypatch.setattr(TakesAll, "format", ImageFormat.RAW)
    said = await ctl("image", "import", "deb", "--file", str(file), "--format", "raw", "--wait")
    assert said.code == 0, said


async def lies(ctl: Ctl) -> list[tuple[str, str]]:
    return [(d["name"], d.get("image", "")) for d in (await ctl("cd", "ls", "web-1", "--json")).json]


@pytest.mark.usefixtures("isos")
async def test_discs_go_in_and_out_of_a_running_vm(ctl: Ctl) -> None:
    words = ("vm", "create", "web-1", "--memory", "128MiB", "--disk", "64MiB", "--cd", "red", "--boot-cd", "--wait")
    said = await ctl(*words)
    assert said.code == 0, said
    assert await lies(ctl) == [("cd1", "red")]
    assert "yes" in (await ctl("cd", "ls", "web-1")).out
    assert [d["name"] for d in (await ctl("disk", "ls", "web-1", "--json")).json] == ["disk0"]
    said = await ctl("cd", "insert", "web-1", "--image", "blue", "--wait")
    assert said.code == 0 and "holds blue" in said.err + said.out, said
    assert await lies(ctl) == [("cd1", "blue")]
    said = await ctl("image", "delete", "blue")
    assert said.code == 1 and "IMAGE_IN_USE" in said.err and "web-1" in said.err
    assert (await ctl("image", "delete", "red", "--wait")).code == 0
    said = await ctl("cd", "eject", "web-1", "--wait")
    assert said.code == 0 and "cd1 of web-1 is empty" in said.err + said.out, said
    assert await lies(ctl) == [("cd1", "")]
    assert (await ctl("cd", "attach", "web-1", "--image", "blue", "--wait")).code == 0
    assert await lies(ctl) == [("cd1", ""), ("cd2", "blue")]
    assert (await ctl("disk", "detach", "web-1", "cd2", "--wait")).code == 0
    assert (await ctl("image", "delete", "blue", "--wait")).code == 0
    assert (await ctl("vm", "delete", "web-1")).code == 1
    assert (await ctl("vm", "stop", "web-1", "--force", "--wait")).code == 0
    assert (await ctl("vm", "delete", "web-1", "--wait")).code == 0


@pytest.mark.usefixtures("isos")
async def test_what_does_not_belong_into_a_drive_is_refused(ctl: Ctl) -> None:
    assert (await ctl("vm", "create", "web-1", "--disk", "64MiB", "--no-start", "--wait")).code == 0
    for words, reason in (
        (("vm", "create", "b", "--cd", "deb", "--no-start"), "imported as iso"),
        (("vm", "create", "b", "--cd", "none", "--no-start"), "NO_IMAGE"),
        (("vm", "create", "b", "--image", "red", "--no-start"), "is an ISO"),
        (("cd", "insert", "web-1", "--image", "red"), "has no CD drive"),
        (("disk", "attach", "web-1", "--image", "red"), "put it into a CD drive"),
        (("cd", "attach", "web-1", "--image", "deb"), "CD drive reads ISOs"),
        (("cd", "attach", "web-1", "--image", "none"), "IMAGE_UNKNOWN"),
    ):
        said = await ctl(*words)
        assert said.code == 1 and reason in said.err, (words, said)
    assert (await ctl("vm", "create", "b", "--boot-cd")).code == 2
    for option, text in (("--pci", "PCI passthrough is not offered"), ("--security-group", "security groups are not offered")):
        said = await ctl("vm", "create", "b", option, "0000:01:00.0")
        assert said.code == 2 and text in said.err and "what would help" in said.err, said
    assert (await ctl("vm", "create", "win", "--os", "windows", "--cd", "red", "--no-start", "--wait")).code == 0
    win = (await ctl("vm", "show", "win", "--json")).json
    assert (win["system"], [d["bus"] for d in win["disk_wishes"]]) == ("windows", ["sata-cdrom"])
    assert (await ctl("cd", "attach", "web-1", "--wait")).code == 0
    assert (await ctl("cd", "insert", "web-1", "cd1", "--image", "red", "--wait")).code == 0
    assert (await ctl("image", "delete", "red")).code == 1
    assert (await ctl("disk", "resize", "web-1", "cd1", "1GiB")).code == 1
