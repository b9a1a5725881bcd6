"""asvctl's words about networks and NICs: what they ask of the API."""

from __future__ import annotations

import pytest

from tests.contract.canned_gateway import Canned
from tests.contract.cli_rig import Ctl

NAMED = {"name": "blue", "bridge": "lan", "vlan": 5, "mtu": 1400, "trusted": True, "description": "for tests"}


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        (
            "network create blue --bridge lan --vlan 5 --mtu 1400 --trusted --description for\xa0tests",
            ("POST", "networks", NAMED),
        ),
        ("network set blue --vlan 0 --not-trusted", ("PATCH", "networks/blue", {"vlan": 0, "trusted": False})),
        ("network delete blue", ("DELETE", "networks/blue", b"")),
        (
            "nic attach web-1 --network blue --queues 2",
            ("POST", "vms/web-1/nics", {"network": "blue", "model": "virtio", "queues": 2}),
        ),
        ("nic set web-1 nic0 --network red", ("PATCH", "vms/web-1/nics/nic0", {"network": "red"})),
        ("nic set web-1 nic0 --link down", ("PATCH", "vms/web-1/nics/nic0", {"link": False})),
    ],
)  # fmt: skip
def test_what_is_asked(ctl: Ctl, gateway: Canned, words: str, asked: tuple[str, str, object]) -> None:
    said = ctl(*(word.replace("\xa0", " ") for word in words.split(" ")))
    assert said.code == 0, said.err
    method, path, _, body = gateway.posted[-1]
    assert (method, path, body) == asked


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("network create blue", "--bridge"),
        ("network create blue --bridge lan --vlan 4095", "4094"),
        ("nic set web-1 nic0", "--network NAME"),
        ("nic attach web-1 --queues 9", "queues"),
        ("vm create web-9 --nic bridge:br0", "write NETWORK"),
    ],
)
def test_what_cannot_be_asked_is_a_usage_error(ctl: Ctl, gateway: Canned, words: str, says: str) -> None:
    said = ctl(*words.split(" "))
    assert said.code == 2 and says in said.err, said
    assert not gateway.posted
