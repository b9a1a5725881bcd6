"""Which API, with which token: said by option, by the environment, or by the embedded cluster of this machine.

    --api, ASV_API            else `api` in cluster.json of the state folder ($ASV_HOME, /var/lib/asv for root, ~/.local/share/asv)
    --token, ASV_TOKEN, ASV_TOKEN_FILE            else the token file that cluster.json names
    --log, ASV_LOG            else `log` in cluster.json: for the tools that read the log itself
    --folder                  else ASV_LOG_ARCHIVE, else `archive` in cluster.json: where `log archive` writes to

The local cluster's token is never sent to another address than the local cluster's.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from services.cli.failure import DENIED, UNREACHABLE, USAGE, Failure

TOKEN_BYTES_MAX = 4096


class Where(NamedTuple):
    api: str
    token: str


def home(environ: Mapping[str, str]) -> Path:
    """The state folder of this user's embedded cluster."""
    if environ.get("ASV_HOME"):
        return Path(environ["ASV_HOME"]).expanduser().absolute()
    return Path("/var/lib/asv") if os.geteuid() == 0 else Path.home() / ".local" / "share" / "asv"


def find(environ: Mapping[str, str], api: str = "", token: str = "", *, token_needed: bool = True) -> Where:
    """Raises Failure where there is no API or no token to be had."""
    local = _local(home(environ) / "cluster.json")
    local_api = _local_api(local)
    chosen = (api or environ.get("ASV_API", "") or local_api).rstrip("/")
    if not chosen:
        here = home(environ) / "cluster.json"
        raise Failure(
            UNREACHABLE,
            f"no cluster is known here: {here} names no API",
            "run `make up`, or say where it is by --api or ASV_API",
        )
    if not chosen.startswith(("http://", "https://")):
        raise Failure(USAGE, f"`{chosen}` is not an address of an API", "write http://HOST:PORT or https://HOST:PORT")
    found = token or environ.get("ASV_TOKEN", "")
    if not found and environ.get("ASV_TOKEN_FILE"):
        found = _read(Path(environ["ASV_TOKEN_FILE"]))
    if not found and local_api and chosen == local_api.rstrip("/"):
        found = _read(_local_token(local, home(environ)))
    if not found and token_needed:
        raise Failure(DENIED, f"no token for {chosen}", "give one by --token, ASV_TOKEN or ASV_TOKEN_FILE")
    return Where(chosen, found)


def find_log(environ: Mapping[str, str], log: str = "") -> str:
    """Where the log itself is, as libs/past/where.py takes it. Raises Failure where nothing says it."""
    found = log or environ.get("ASV_LOG", "") or str(_local(home(environ) / "cluster.json").get("log") or "")
    if not found:
        here = home(environ) / "cluster.json"
        raise Failure(UNREACHABLE, f"no log is known here: {here} names none", "say where it is by --log or ASV_LOG")
    return found


def find_owner(environ: Mapping[str, str], log: str = "") -> str:
    """The log's address for a member of asv_owner, who alone may archive. Raises Failure where nothing says it."""
    found = log or str(_local(home(environ) / "cluster.json").get("log_owner") or "")
    if not found:
        here = home(environ) / "cluster.json"
        raise Failure(UNREACHABLE, f"no owner of a log is known here: {here} names none", "give the address by --log")
    return found


def find_archive(environ: Mapping[str, str]) -> Path:
    """The folder that archives are written to. Raises Failure where nothing says it."""
    found = environ.get("ASV_LOG_ARCHIVE", "") or str(_local(home(environ) / "cluster.json").get("archive") or "")
    if not found:
        here = home(environ) / "cluster.json"
        raise Failure(USAGE, f"no folder for archives is known here: {here} names none", "give one by --folder")
    return Path(found)


def _local(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _local_api(local: dict[str, Any]) -> str:
    """`api`, else the port of the process that is called gateway."""
    port = (local.get("ports") or {}).get("gateway")
    return str(local.get("api") or (f"http://127.0.0.1:{port}" if port else ""))


def _local_token(local: dict[str, Any], folder: Path) -> Path:
    return Path(local.get("token_file") or folder / "tokens" / "admin.token")


def _read(path: Path) -> str:
    try:
        text = path.read_text()[:TOKEN_BYTES_MAX].strip()
    except OSError as error:
        raise Failure(
            DENIED, f"the token file {path} cannot be read ({error.strerror})", "ask its owner, or give --token"
        ) from error
    if not text or not text.isprintable() or not text.isascii():
        raise Failure(DENIED, f"the token file {path} holds no token", "it should hold one line: the token")
    return text
