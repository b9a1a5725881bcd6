"""What an embedded cluster is made of: every process with its arguments, environment and signs of life. Starts nothing.

Order: postgres, nats → control plane, gateway → agents. With ASV_POSTGRES_DSN or ASV_NATS_URL set, that engine is not embedded.
"""

from __future__ import annotations

import http.client
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from signal import SIGINT, SIGKILL, SIGTERM

from proto.services import CONTROL
from services.cluster import apart, nats, networks, postgres
from services.cluster.child import Spec
from services.cluster.identities import Identities
from services.cluster.layout import CHECKOUT, NODES, TINY, Layout
from services.cluster.ports import LOOPBACK
from services.cluster.record import Record
from services.cluster.standing import Standing

HEALTH_S_MAX = 2.0
POSTGRES_STOP_S_MAX = 30.0


@dataclass(frozen=True, slots=True)
class Engines:
    """Where log and bus are; the server is None where it is not ours. dsn: of the role that migrates."""

    dsn: str
    nats_url: str
    postgres: postgres.Postgres | None
    nats: nats.Nats | None

    def dsn_of(self, role: str) -> str:
        """As that role where the server is ours; else as its owner told us to."""
        return self.postgres.dsn(role) if self.postgres else self.dsn


def engines(layout: Layout, record: Record, environ: Mapping[str, str]) -> Engines:
    """Makes the places of the engines that are ours. Raises NoPlace, PostgresFailed, NatsFailed."""
    dsn, url = environ.get("ASV_POSTGRES_DSN", ""), environ.get("ASV_NATS_URL", "")
    own_postgres = None if dsn else postgres.place(layout.home)
    own_nats = None if url else nats.place(layout.home, record.ports["nats"])
    return Engines(
        dsn or (own_postgres.dsn() if own_postgres else ""),
        url or (own_nats.url if own_nats else ""),
        own_postgres,
        own_nats,
    )


def port_names(environ: Mapping[str, str]) -> tuple[str, ...]:
    """The ports to be chosen. A NATS that is not ours is reached directly: there is no line to cut."""
    if environ.get("ASV_NATS_URL"):
        return ("gateway",)
    return ("nats", "gateway", *(f"line-{node}" for node in NODES))


def base_environment(layout: Layout) -> dict[str, str]:
    """What every process of ours gets: nothing of our own environment but what finds programs and people's words."""
    kept = ("PATH", "HOME", "LANG", "USER", "TMPDIR", "SSL_CERT_FILE", "ASV_LOG_LEVEL")
    traces = ("ASV_OTLP_ENDPOINT", "ASV_TRACE_RATIO")
    chosen = {key: os.environ[key] for key in (*kept, *traces) if key in os.environ}
    otel = {key: value for key, value in os.environ.items() if key.startswith("OTEL_")}
    # One arena: with glibc's default of eight per core, threads of small Python processes hold many MiB that nobody uses.
    return {"MALLOC_ARENA_MAX": "1", **chosen, **otel, "PYTHONUNBUFFERED": "1", "ASV_HOME": str(layout.home)}


def engine_specs(layout: Layout, engines: Engines) -> list[Spec]:
    specs = []
    if (server := engines.postgres) is not None:
        specs.append(Spec(
            "postgres", tuple(server.argv()), server.environment(), layout.log("postgres"), server.base,
            ready=server.ready, user=server.user, death=SIGINT, stop=SIGINT, stop_s_max=POSTGRES_STOP_S_MAX,
        ))  # fmt: skip
    if (bus := engines.nats) is not None:
        specs.append(Spec(
            "nats", tuple(bus.argv()), bus.environment(), layout.log("nats"), bus.base,
            ready=bus.ready, user=bus.user, death=SIGTERM,
        ))  # fmt: skip
    return specs


def control_specs(layout: Layout, record: Record, engines: Engines, identities: Identities) -> list[Spec]:
    """The services, all in one process or each in its own, and the gateway."""
    groups = {name: (name,) for name in CONTROL} if record.separate else {"host": CONTROL}
    secrets = {"ASV_SECRETS_KEY": str(layout.secrets_key)}
    archive = {"ASV_LOG_ARCHIVE": record.archive or str(layout.archive)}
    specs = [
        _python(layout, name, ("services.host", *group), secrets | archive | _connections(engines, identities, name, "asv_service"))
        for name, group in groups.items()
    ]
    port = record.ports["gateway"]
    settings = {
        "ASV_LISTEN": f"{LOOPBACK}:{port}",
        "ASV_ADMIN_TOKEN_FILE": str(layout.admin_token),
        "ASV_POOLS": f"default={layout.pool}",
        "ASV_READER_DSN": engines.dsn_of("asv_reader"),
        **secrets,
        **_connections(engines, identities, "gateway", "asv_gateway"),
    }
    if identities.signer is not None:
        seed, account = identities.signer
        settings |= {"ASV_ACCOUNT_KEY": str(seed), "ASV_ACCOUNT": account}
    gateway = _python(layout, "gateway", ("services.gateway",), settings | archive, http_port=port)
    return [*specs, gateway]


def agent_spec(layout: Layout, record: Record, engines: Engines, node: str, standing: Standing) -> Spec:
    """The first node is the one whose ledger counts the control plane, and whose agent sets its limits."""
    settings = {
        "ASV_NODE": node,
        "ASV_GATEWAY": f"http://{apart.HUB}:{record.ports['gateway']}" if record.apart else api_url(record),
        "ASV_NATS_URL": _bus_of(record, engines, node),
        "ASV_JOIN_TOKEN_FILE": str(layout.node(node) / "join.token"),
        "ASV_SHARE": str(len(NODES)),
        "ASV_MEMORY_MIB": str(record.memory_mib),
        "ASV_POOLS": pools_of(layout, node),
        "ASV_WATCHDOG": "yes",
        "ASV_DRIVER": record.driver or "qemu",
        "ASV_STATE": str(layout.node(node)),
        "ASV_APPLIANCE": str(TINY),
    }
    if node == NODES[0] and standing.control_plane is not None:
        settings["ASV_CONTROL_PLANE_GROUP"] = str(standing.control_plane)
    if record.driver != "simulated" and (namespace := networks.namespace(layout.home, node)) is not None:
        settings["ASV_NETWORK_NAMESPACE"] = str(namespace)
    settings |= {key: os.environ[key] for key in ("ASV_SWAP", "ASV_SWAP_MIB") if key in os.environ}
    spec = _python(layout, node, ("services.node",), settings)
    return replace(spec, group=standing.agents.get(node), namespace=home_of(layout, record, node))


def pools_of(layout: Layout, node: str) -> str:
    """Of an agent and its watchdog."""
    return f"default={layout.pool},local={layout.local(node)}"


def home_of(layout: Layout, record: Record, node: str) -> Path | None:
    """The network namespace in which a node's processes live; None: the host's."""
    return networks.namespace(layout.home, node) if record.apart else None


def _bus_of(record: Record, engines: Engines, node: str) -> str:
    if record.apart:
        return f"nats://{apart.HUB}:{record.ports['nats']}"
    line = record.ports.get(f"line-{node}")
    return f"nats://{LOOPBACK}:{line}" if line else engines.nats_url


def api_url(record: Record) -> str:
    return f"http://{LOOPBACK}:{record.ports.get('gateway', 0)}"


def _connections(engines: Engines, identities: Identities, name: str, role: str) -> dict[str, str]:
    found = {"ASV_NAME": name, "ASV_POSTGRES_DSN": engines.dsn_of(role), "ASV_NATS_URL": engines.nats_url}
    return found | ({"ASV_NATS_CREDS": str(identities.folder)} if identities.folder else {})


def _python(
    layout: Layout, name: str, module: tuple[str, ...], settings: dict[str, str], http_port: int | None = None
) -> Spec:
    ready = layout.ready(name)
    environment = base_environment(layout) | {"ASV_READY": str(ready), "PYTHONPATH": str(CHECKOUT)} | settings
    argv = (sys.executable, "-m", *module)
    return Spec(
        name, argv, environment, layout.log(name), CHECKOUT, death=SIGKILL,
        ready=(lambda: healthy(http_port)) if http_port else None, ready_file=ready,
    )  # fmt: skip


def healthy(port: int) -> bool:
    """Whether the gateway answers, with log and bus behind it. Raises OSError where it does not even listen."""
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=HEALTH_S_MAX)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == 200
    except http.client.HTTPException:
        return False
    finally:
        connection.close()


def log_tail(path: Path, lines: int = 12) -> str:
    """The end of a log, for a sentence about a process that does not start."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 16_384))
            return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])
    except OSError:
        return ""
