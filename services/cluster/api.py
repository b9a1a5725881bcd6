"""The supervisor's own calls of the HTTP API, with the admin token. Small and blocking: callers use threads."""

from __future__ import annotations

import http.client
import json
from pathlib import Path
from typing import Any

from services.cluster.ports import LOOPBACK

TIMEOUT_S = 10.0


class ApiRefused(Exception):
    """The gateway's own sentence. status: of HTTP."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


def call(port: int, token_file: Path, method: str, path: str, body: object = None) -> Any:
    """The decoded answer. Raises ApiRefused, OSError where nobody listens or the token cannot be read."""
    headers = {"Authorization": f"Bearer {token_file.read_text().strip()}", "Content-Type": "application/json"}
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=TIMEOUT_S)
    try:
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        answer = connection.getresponse()
        text = answer.read()
    except http.client.HTTPException as error:
        raise OSError(f"the gateway's answer was cut off: {error}") from error
    finally:
        connection.close()
    found = json.loads(text) if text else {}
    if answer.status >= 400:
        raise ApiRefused(answer.status, f"{found.get('detail', answer.reason)} {found.get('remedy', '')}".strip())
    return found
