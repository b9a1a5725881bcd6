"""HTTP to the gateway, over the standard library (httpx takes longer to import than all else together).

Every answer other than success becomes a Failure with the gateway's own sentence and remedy. A call is made once; nothing is
tried again behind the caller's back.
"""

from __future__ import annotations

import http.client
import json
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from libs.common.protocol import OURS
from services.cli import show
from services.cli.failure import UNREACHABLE, USAGE, Failure, code_of
from services.cli.where import Where

TIMEOUT_S = 30.0
ANSWER_BYTES_MAX = 64 * 1024 * 1024
PIECE_BYTES = 1 << 20
LINE_BYTES_MAX = 4 * 1024 * 1024
AWAY = "see `make status` on its machine, or check --api"


def path(*parts: str, **query: object) -> str:
    """`path("vms", name, "start")` -> `/v1/vms/NAME/start`; each part is quoted, empty query values are left out."""
    whole = "/v1/" + "/".join(quote(part, safe="") for part in parts)
    asked = {
        k: str(v).lower() if isinstance(v, bool) else v
        for k, v in query.items()
        if v is not None and v is not False and v != ""
    }
    return whole + (f"?{urlencode(asked)}" if asked else "")


class Client:
    """One API, one token. timeout_s bounds each wait for the gateway, not the whole of a long answer. at: the moment of the past
    that all is asked of; `moment` is what the first answer says of it."""

    def __init__(self, where: Where, timeout_s: float = TIMEOUT_S, at: str = "") -> None:
        self.where = where
        self.at = at
        self.moment = ""
        self.timeout_s = timeout_s

    def get(self, path: str) -> Any:
        return self._call("GET", path)

    def file(self, path: str) -> tuple[bytes, dict[str, str]]:
        """An answer that is no JSON, with its headers by lower-case names."""
        with self._answer("GET", path, None, {"Accept": "*/*"}) as answer:
            return answer.read(ANSWER_BYTES_MAX), {key.lower(): value for key, value in answer.headers.items()}

    def download(self, path: str, opened: Any, told: Any) -> int:
        """An answer of any length into `opened(headers)`, which is closed then unless it is standard output; how many bytes. told:
        each time, so many came. Raises Failure where the answer is cut off."""
        with self._answer("GET", path, None, {"Accept": "*/*"}) as answer:
            headers = {key.lower(): value for key, value in answer.headers.items()}
            count, target = 0, opened(headers)
            try:
                while piece := answer.read(PIECE_BYTES):
                    target.write(piece)
                    count += len(piece)
                    told(count)
                target.flush()
            finally:
                if target is not sys.stdout.buffer:
                    target.close()
        if count != int(headers.get("content-length", count)):
            raise Failure(UNREACHABLE, f"{count} of {headers['content-length']} bytes came", "take it again")
        return count

    def items(self, path: str) -> list[dict[str, Any]]:
        """A list, whether bare or in `items`."""
        found = self.get(path)
        rows = found.get("items", []) if isinstance(found, dict) else found
        return list(rows or [])

    def post(self, path: str, body: Any = None, *, timeout_s: float | None = None) -> Any:
        return self._call("POST", path, body, timeout_s)

    def put(self, path: str, body: Any) -> Any:
        return self._call("PUT", path, body)

    def patch(self, path: str, body: Any) -> Any:
        return self._call("PATCH", path, body)

    def delete(self, path: str) -> Any:
        return self._call("DELETE", path)

    def upload(self, path: str, file: Path, sent: Any) -> Any:
        """The file as the body, in pieces; `sent(bytes, of)` is told on the way."""
        size = file.stat().st_size
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
        with file.open("rb") as source, self._answer("POST", path, _pieces(source, size, sent), headers) as answer:
            return _decoded(answer)

    def lines(self, path: str) -> Iterator[str]:
        """Lines of an endless answer (server-sent events), as they come; a silence longer than timeout_s ends in Failure."""
        with self._answer("GET", path, None, {"Accept": "text/event-stream"}) as answer:
            while line := answer.readline(LINE_BYTES_MAX):
                yield line.decode("utf-8", "replace").rstrip("\r\n")

    def _call(self, method: str, path: str, body: Any = None, timeout_s: float | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        headers = {} if data is None else {"Content-Type": "application/json"}
        with self._answer(method, path, data, headers, timeout_s) as answer:
            return _decoded(answer)

    @contextmanager
    def _answer(
        self, method: str, path: str, body: Any, headers: dict[str, str], timeout_s: float | None = None
    ) -> Iterator[http.client.HTTPResponse]:
        connection = self._connection(timeout_s or self.timeout_s)
        said = {"Accept": "application/json", "User-Agent": "asvctl", "Asv-Protocol": str(OURS)} | headers
        if self.where.token:
            said["Authorization"] = f"Bearer {self.where.token}"
        if self.at:
            said["Asv-At"] = self.at
        prefix = urlsplit(self.where.api).path.rstrip("/")
        try:
            try:
                connection.request(method, prefix + path, body=body, headers=said)
            except (BrokenPipeError, ConnectionResetError):
                pass  # an upload may be refused before it is over: the answer that is there already says why
            answer = connection.getresponse()
            if answer.status >= 300:
                raise _failure(answer)
            self._note(answer)
            yield answer
        except TimeoutError as error:
            sentence = f"{self.where.api} did not answer within {timeout_s or self.timeout_s:g} s"
            raise Failure(UNREACHABLE, sentence, AWAY) from error
        except (OSError, http.client.HTTPException) as error:
            raise Failure(UNREACHABLE, f"{self.where.api} cannot be reached ({_why(error)})", AWAY) from error
        finally:
            connection.close()

    def _note(self, answer: http.client.HTTPResponse) -> None:
        """Once: which moment it is that is shown. Raises Failure where the answer is of now though another was asked about."""
        if not self.at:
            return
        position, time = answer.headers.get("Asv-At-Position"), answer.headers.get("Asv-At-Time")
        if not position:
            raise Failure(USAGE, "the answer is of now, not of the moment that was asked about", "ask without --at")
        if not self.moment:
            asked = f" (asked for: {self.at})" if self.at[4:5] == "-" else ""
            self.moment = f"as of position {position}, {time}{asked}"
            show.note(self.moment)

    def _connection(self, timeout_s: float) -> http.client.HTTPConnection:
        parts = urlsplit(self.where.api)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        return kind(parts.hostname or "", parts.port, timeout=timeout_s)


def _pieces(source: Any, size: int, sent: Any) -> Iterator[bytes]:
    done = 0
    while piece := source.read(1 << 20):
        yield piece
        done += len(piece)
        sent(done, size)


def _decoded(answer: http.client.HTTPResponse) -> Any:
    data = answer.read(ANSWER_BYTES_MAX)
    if not data:
        return {}
    try:
        return json.loads(data)
    except ValueError as error:
        raise Failure(UNREACHABLE, "the answer is not JSON: is that address aSV's gateway?", "check --api") from error


def _failure(answer: http.client.HTTPResponse) -> Failure:
    """The gateway's problem as it was said, or the bare status where it is no problem document."""
    data = answer.read(1 << 20)
    try:
        problem = json.loads(data)
    except ValueError:
        problem = {}
    if not isinstance(problem, dict):
        problem = {}
    sentence = problem.get("detail") or problem.get("title") or f"the gateway answered {answer.status} {answer.reason}"
    remedy = problem.get("remedy", "")
    if not remedy and answer.status == 503 and answer.headers.get("Retry-After"):
        remedy = f"ask again in {answer.headers['Retry-After']} s"
    return Failure(code_of(answer.status), str(sentence), str(remedy), problem)


def _why(error: Exception) -> str:
    if isinstance(error, socket.gaierror):
        return "its name is not known"
    if isinstance(error, http.client.RemoteDisconnected | ConnectionResetError | http.client.IncompleteRead):
        return "the connection was cut"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
