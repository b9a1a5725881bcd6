"""asvctl's words about fence devices: what they ask of the API, and that no password is an argument."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.contract.canned_gateway import Canned
from tests.contract.cli_rig import Ctl

BMC = ("--kind", "redfish", "--address", "https://bmc1", "--user", "asv")


@pytest.mark.parametrize(
    ("words", "method", "path", "body"),
    [
        ("ha fence off n1 --yes --reason hangs", "POST", "ha/fences/n1/off", {"reason": "hangs"}),
        ("ha fence on n1", "POST", "ha/fences/n1/on", b""),
        ("ha fence test n1", "POST", "ha/fences/n1/test", b""),
        ("ha fence rm n1", "DELETE", "ha/fences/n1", b""),
    ],
)
def test_what_is_asked(ctl: Ctl, gateway: Canned, words: str, method: str, path: str, body: object) -> None:
    said = ctl(*words.split())
    assert said.code == 0, said.err
    asked = gateway.posted[-1]
    assert (asked[0], asked[1], asked[3]) == (method, path, body)


def test_a_device_is_set_with_a_password_from_a_file(ctl: Ctl, gateway: Canned, tmp_path: Path) -> None:
    (tmp_path / "password").write_text("s3cret of all\n")
    (tmp_path / "ca.pem").write_text("-----BEGIN CERTIFICATE-----")
    files = ("--password-file", str(tmp_path / "password"), "--ca", str(tmp_path / "ca.pem"))
    more = (*files, "--system", "437XR1138R2", "--call", "5")
    said = ctl("ha", "fence", "set", "n1", *BMC, *more)
    assert said.code == 0, said.err
    method, path, _, body = gateway.posted[-1]
    assert (method, path) == ("POST", "ha/fences/n1")
    assert body == {
        "kind": "redfish", "address": "https://bmc1", "system": "437XR1138R2", "user": "asv", "password": "s3cret of all",
        "ca": "-----BEGIN CERTIFICATE-----", "insecure": False, "cipher": 0, "call_s": 5,
    }  # fmt: skip
    said = ctl("ha", "fence", "set", "n1", "--kind", "docker", "--address", "unix:///run/docker.sock", "--system", "asv-n1-1")
    assert said.code == 0 and gateway.posted[-1][3]["password"] == ""


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("ha", "fence", "set", "n1", "--kind", "redfish"), "--address"),
        (("ha", "fence", "set", "n1", "--kind", "ilo", "--address", "a"), "none of redfish"),
        (("ha", "fence", "set", "n1", *BMC), "--password-file"),
        (("ha", "fence", "set", "n1", *BMC, "--password-file", "/nowhere/at/all"), "cannot be read"),
        (("ha", "fence", "set", "n1", *BMC, "--password", "x"), "No such option"),
        (("ha", "fence", "off", "n1"), "--yes"),
    ],
)
def test_what_is_no_wish(ctl: Ctl, gateway: Canned, words: tuple[str, ...], says: str) -> None:
    said = ctl(*words)
    assert said.code == 2 and says in said.err and not gateway.posted


def test_devices_are_listed_and_shown(ctl: Ctl, gateway: Canned) -> None:
    listed = ctl("ha", "fence", "ls").out
    assert "https://bmc1 437XR1138R2" in listed and "failing" in listed and "does not take the user" in listed
    shown = ctl("ha", "fence", "show", "n1").out
    assert "what helps" in shown and "set it with the right ones" in shown and "password" not in shown.replace("that password", "")
    assert ctl("ha", "fence", "show", "n1", "--json").json["state"] == "failing"
