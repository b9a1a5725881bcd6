"""The shipped docker-compose.yml: comes up, runs a real guest, loses nothing when processes are killed, leaves no trace."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from libs.common.clock import SystemClock
from proto.services import CONTROL
from tests.compose.shipped import JOBS, Shipped

pytestmark = pytest.mark.timeout(1800)  # the first run builds images

ENGINES = {"postgres", "nats"}
NODES = ("n1", "n2", "n3")
KILL = "import psutil; [child.kill() for child in psutil.Process(1).children()]"


@pytest.fixture(scope="module")
def web(shipped: Shipped) -> dict[str, Any]:
    """A running VM: its name, node, and this boot of its guest."""
    shipped.post("/v1/vms", {"name": "web-1", "vcpus": 1, "memory_mib": 256, "image": "tiny", "start": True})
    vm = shipped.until(lambda: running(shipped, "web-1"), "web-1 runs")
    boot = shipped.until(lambda: boot_of(shipped, "web-1"), "web-1 answers from inside")
    return {"name": "web-1", "node": vm["node"], "boot": boot}


def running(shipped: Shipped, vm: str) -> dict[str, Any] | None:
    found: dict[str, Any] = shipped.get(f"/v1/vms/{vm}")
    return found if found["state"] == "running" else None


def boot_of(shipped: Shipped, vm: str) -> str:
    return shipped.inside(vm, "cat", "/proc/sys/kernel/random/boot_id")


def test_everything_is_there_and_nothing_has_more_than_it_needs(shipped: Shipped) -> None:
    named = {c.labels["com.docker.compose.service"]: c.attrs for c in shipped.containers()}
    assert set(named) == {*JOBS, *ENGINES, *CONTROL, "gateway", *NODES}
    for service, attrs in named.items():
        assert not attrs["HostConfig"]["Privileged"], service
        published = [p for ports in (attrs["HostConfig"]["PortBindings"] or {}).values() for p in ports]
        assert [p["HostIp"] for p in published] == (["127.0.0.1"] if service == "gateway" else []), service
        if service != "postgres":
            assert attrs["HostConfig"]["CapDrop"] == ["ALL"], service
            assert attrs["HostConfig"]["ReadonlyRootfs"], service
        if service in (*CONTROL, "gateway", "nats"):
            assert not attrs["Config"]["User"].startswith("0"), service
    assert len(shipped.get("/v1/nodes")["items"]) == len(NODES)


def test_no_process_reads_another_ones_keys(shipped: Shipped) -> None:
    code, said = shipped.container("memory").exec_run(["cat", "/keys/relay/relay.seed", "/keys/cluster/account.seed"])
    assert code != 0
    assert said.decode().count("Permission denied") == 2
    code, _ = shipped.container("n1").exec_run(["python", "-c", "import socket; socket.getaddrinfo('postgres', 5432)"])
    assert code != 0, "nodes have no way to the database"


def test_a_guest_runs_and_answers(shipped: Shipped, web: dict[str, Any]) -> None:
    assert "amd64" in shipped.inside("web-1", "uname", "-r")
    assert web["node"] in NODES
    owners = shipped.run(web["node"], "bash", "-c", 'for p in $(pgrep qemu-system); do stat -c %u "/proc/$p"; done')
    assert owners.split() and "0" not in owners.split(), "QEMU never runs as root"


def test_the_command_line_works_in_the_gateways_container(shipped: Shipped, web: dict[str, Any]) -> None:
    assert web["name"] in shipped.run("gateway", "asvctl", "vm", "ls")


@pytest.mark.parametrize("service", ["compute", "relay"])
def test_a_killed_service_is_back_and_nothing_is_lost(shipped: Shipped, web: dict[str, Any], service: str) -> None:
    before = shipped.container(service).attrs["RestartCount"]
    assert shipped.container(service).exec_run(["python", "-c", KILL]).exit_code in (0, 137)  # 137: it ended with the rest
    shipped.until(lambda: shipped.container(service).attrs["RestartCount"] > before, f"{service} is started again")
    shipped.until(lambda: shipped.state(shipped.container(service)) == "healthy", f"{service} is healthy again")
    assert boot_of(shipped, web["name"]) == web["boot"]
    shipped.post("/v1/vms", {"name": f"after-{service}", "vcpus": 1, "memory_mib": 128, "image": "tiny"})
    shipped.until(lambda: shipped.get(f"/v1/vms/after-{service}"), "a new VM is defined")


@pytest.mark.parametrize("name", sorted(ENGINES))
def test_a_killed_engine_is_waited_for(shipped: Shipped, web: dict[str, Any], name: str) -> None:
    before = {c.name: c.attrs["RestartCount"] for c in shipped.others()}
    shipped.container(name).kill()
    shipped.container(name).start()
    shipped.until(lambda: shipped.state(shipped.container(name)) == "healthy", f"{name} is healthy again")
    body = {"name": f"after-{name}", "vcpus": 1, "memory_mib": 128, "image": "tiny"}
    key = str(SystemClock().new_id())  # asked for as often as the answer is 503, done once
    shipped.until(lambda: shipped.post("/v1/vms", body, key), "a new VM is accepted")
    shipped.until(lambda: shipped.get(f"/v1/vms/after-{name}"), "it is defined")
    assert boot_of(shipped, web["name"]) == web["boot"]
    assert {c.name: c.attrs["RestartCount"] for c in shipped.others()} == before, "no process of ours ended over it"


def test_a_killed_agent_finds_its_vm_again(shipped: Shipped, web: dict[str, Any]) -> None:
    node = web["node"]
    began = shipped.container(node).attrs["State"]["StartedAt"]
    old = shipped.run(node, "cat", "/run/asv/agent.pid")
    shipped.run(node, "bash", "-c", f"kill -9 {old}")
    shipped.until(lambda: shipped.run(node, "cat", "/run/asv/agent.pid") != old, "another agent runs")
    shipped.until(lambda: shipped.run(node, "ls", "/run/asv/ready"), "it serves")
    assert shipped.until(lambda: boot_of(shipped, web["name"]), "the guest answers") == web["boot"]
    assert shipped.container(node).attrs["State"]["StartedAt"] == began, "the container was not started again"
    shipped.post(f"/v1/vms/{web['name']}/pause", {})
    shipped.until(lambda: shipped.get("/v1/vms/web-1")["state"] == "paused", "the new agent commands the old QEMU")
    shipped.post(f"/v1/vms/{web['name']}/resume", {})
    shipped.until(lambda: running(shipped, "web-1"), "and again")


def test_a_guest_moves_to_another_node_and_does_not_notice(shipped: Shipped, web: dict[str, Any]) -> None:
    """From container to container, so over their network, where QEMU's stream is encrypted."""
    here = str(shipped.get("/v1/vms/web-1")["node"])
    to = next(node for node in NODES if node != here)
    shipped.post("/v1/vms/web-1/migrate", {"node": to})
    shipped.until(lambda: shipped.get("/v1/vms/web-1")["node"] == to and running(shipped, "web-1"), f"it runs on {to}")
    assert shipped.until(lambda: boot_of(shipped, web["name"]), "the guest answers") == web["boot"]
    assert shipped.run(to, "bash", "-c", "pgrep -fc '[g]uest=web-1'").strip() == "1"


def test_up_once_more_changes_nothing(shipped: Shipped, web: dict[str, Any]) -> None:
    shipped.compose("up", "-d", "--no-build")
    shipped.settled()
    assert boot_of(shipped, web["name"]) == web["boot"]


def test_a_node_whose_container_is_killed_has_its_vm_run_elsewhere(shipped: Shipped, web: dict[str, Any]) -> None:
    """As if its power were cut: watchdog, agent and QEMU end at once."""
    here = str(shipped.get("/v1/vms/web-1")["node"])
    shipped.container(here).kill()

    def elsewhere() -> bool:
        found = running(shipped, "web-1")
        return found is not None and found["node"] != here

    shipped.until(elsewhere, "it runs on another node")
    assert shipped.until(lambda: boot_of(shipped, web["name"]), "the guest answers") != web["boot"]
    shipped.container(here).start()
    shipped.until(lambda: shipped.state(shipped.container(here)) == "healthy", f"{here} is healthy again")
    shipped.until(lambda: standing(shipped, here) == "trusted", f"{here} is back with a lease of its next epoch")
    assert "is proven" in shipped.run("gateway", "asvctl", "why", "vm/web-1")


def test_a_node_is_cut_by_the_engine_that_runs_it(shipped: Shipped, web: dict[str, Any]) -> None:
    """With the file that gives ha the engine's socket: the node's container is killed, its VM starts elsewhere."""
    socket = shipped.engine.host.removeprefix("unix://")
    shipped.settings = {"ASV_DOCKER_SOCKET": socket, "ASV_DOCKER_GROUP": str(Path(socket).stat().st_gid)}
    shipped.compose("-f", "infra/docker/fencing.yml", "up", "-d", "--no-build", "--no-deps", "ha")
    shipped.until(lambda: shipped.state(shipped.container("ha")) == "healthy", "ha is back")
    node = str(shipped.get("/v1/vms/web-1")["node"])
    device = {"kind": "docker", "address": "unix:///run/docker.sock", "system": shipped.container(node).name}
    shipped.post(f"/v1/ha/fences/{node}", device)
    shipped.until(lambda: shipped.get(f"/v1/ha/fences/{node}")["state"] == "ready", "the device is tested")
    shipped.post(f"/v1/ha/fences/{node}/off", {"reason": "a test"})
    shipped.until(lambda: shipped.get(f"/v1/ha/fences/{node}")["state"] == "off", f"{node} is confirmed off")
    assert shipped.state(shipped.container(node)).startswith("exited")
    shipped.until(lambda: shipped.get("/v1/vms/web-1")["node"] != node and running(shipped, "web-1"), "it runs elsewhere")
    assert shipped.until(lambda: boot_of(shipped, web["name"]), "the guest answers") != web["boot"]
    assert standing(shipped, node) == "lost" and shipped.state(shipped.container(node)).startswith("exited")
    shipped.post(f"/v1/ha/fences/{node}/on", {})
    shipped.until(lambda: standing(shipped, node) == "trusted", f"{node} is back with a lease of its next epoch")


def standing(shipped: Shipped, node: str) -> str:
    return str(next(n["standing"] for n in shipped.get("/v1/ha")["nodes"] if n["name"] == node))


def test_down_leaves_nothing(shipped: Shipped) -> None:
    label = {"label": f"com.docker.compose.project={shipped.project}"}
    assert shipped.client.volumes.list(filters=label)
    shipped.compose("down", "-v", "-t", "20")
    assert not shipped.containers()
    assert not shipped.client.volumes.list(filters=label)
    assert not shipped.client.networks.list(filters=label)


def test_all_profiles_and_the_kvm_file_are_well_formed(shipped: Shipped) -> None:
    shipped.compose("--profile", "telemetry", "-f", "infra/docker/kvm.yml", "config", "-q")
