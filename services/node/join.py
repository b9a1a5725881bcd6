"""Joining a cluster: the agent makes its own key, shows a one-time token to the gateway, and gets its user JWT for the bus."""

from __future__ import annotations

import asyncio
import json
import logging
import urllib.error
import urllib.request
from pathlib import Path

from libs.common.bus.credentials import Credentials, own_key, write_private

log = logging.getLogger(__name__)

JOIN_TIMEOUT_S = 10.0
RETRY_S = 1.0


class JoinRefused(Exception):
    """The gateway said no; the text is its sentence."""


async def credentials(node: str, keys: Path, gateway: str, token_file: Path | None) -> tuple[Credentials | None, str]:
    """(who we are on the bus, None where it asks nobody; its address or ""): from disk, else by joining; a gateway that is away
    is waited for.
    Raises JoinRefused, BadCredentials."""
    keys.mkdir(parents=True, exist_ok=True, mode=0o700)  # noqa: ASYNC240 a few bytes, before anything is served
    jwt, address = keys / f"{node}.jwt", keys / "nats_url"
    if not jwt.exists():
        if not gateway or token_file is None:
            raise JoinRefused("this node has not joined: ASV_GATEWAY and ASV_JOIN_TOKEN_FILE are needed once")
        key = own_key(keys / f"{node}.seed")
        token = token_file.read_text().strip()  # noqa: ASYNC240 likewise
        answer = await _join(gateway, {"token": token, "node": node, "public_key": key.public})
        write_private(address, answer["nats_url"].encode())
        write_private(jwt, answer["jwt"].encode())
        log.info("%s has joined", node)
    url = address.read_text().strip() if address.exists() else ""
    if jwt.stat().st_size == 0:
        return None, url
    return Credentials.load(keys, node), url


async def _join(gateway: str, body: dict[str, str]) -> dict[str, str]:
    while True:
        try:
            return await asyncio.to_thread(_post, f"{gateway.rstrip('/')}/v1/join", body)
        except (urllib.error.URLError, TimeoutError, ConnectionError) as away:
            if isinstance(away, urllib.error.HTTPError) and away.code < 500:
                raise JoinRefused(_sentence(away)) from away
            log.info("the gateway at %s is not there yet: %s", gateway, away)
            await asyncio.sleep(RETRY_S)


def _post(url: str, body: dict[str, str]) -> dict[str, str]:
    if not url.startswith(("http://", "https://")):
        raise JoinRefused(f"ASV_GATEWAY must be an http or https address, not {url!r}")
    request = urllib.request.Request(  # noqa: S310 the scheme was checked
        url, json.dumps(body).encode(), {"Content-Type": "application/json"}, method="POST"
    )
    with urllib.request.urlopen(request, timeout=JOIN_TIMEOUT_S) as response:  # noqa: S310
        answer: dict[str, str] = json.load(response)
        return answer


def _sentence(refusal: urllib.error.HTTPError) -> str:
    try:
        problem = json.loads(refusal.read())
        return f"{problem.get('detail', refusal.reason)} {problem.get('remedy', '')}".strip()
    except ValueError:
        return f"{refusal.code} {refusal.reason}"
