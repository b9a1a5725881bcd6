"""/schema: the API's description as a page of our own. One file, no script, nothing from elsewhere: it works offline."""

from __future__ import annotations

import html
from typing import Any

from litestar import Request, Router
from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin, OpenAPIRenderPlugin
from litestar.openapi.spec import Components, SecurityScheme

VERSION = "1"
ABOUT = (
    "Send `Authorization: Bearer TOKEN`. Errors are application/problem+json with reason, detail and remedy. A changing "
    "call takes an `Idempotency-Key` and answers 202 with the task to follow."
)
STYLE = """
:root{color-scheme:light dark}
body{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:68rem;padding:0 1rem}
h1{font-size:1.5rem} h2{font-size:1.15rem;margin-top:2.2rem;border-bottom:1px solid #8886}
details{border:1px solid #8885;border-radius:6px;margin:.4rem 0;padding:.45rem .8rem}
summary{cursor:pointer} code,pre{font:13px/1.4 ui-monospace,monospace}
.m{display:inline-block;min-width:4.6em;font-weight:700} .get{color:#2a7ab8} .post{color:#2c8a4b} .delete{color:#c0392b}
table{border-collapse:collapse;margin:.4rem 0} td,th{text-align:left;padding:.15rem .9rem .15rem 0;vertical-align:top}
.dim{opacity:.7} a{color:inherit}
"""


def config() -> OpenAPIConfig:
    """For the app: `/schema` and `/schema/openapi.json`, open to all."""
    bearer = SecurityScheme(type="http", scheme="bearer", description="a token of this cluster")
    return OpenAPIConfig(
        title="aSV",
        version=VERSION,
        description=ABOUT,
        components=Components(security_schemes={"bearer": bearer}),
        security=[{"bearer": []}],
        use_handler_docstrings=True,
        render_plugins=[Page(path="/"), JsonRenderPlugin(path="/openapi.json")],
        openapi_router=Router("/schema", route_handlers=[], opt={"open": True}),
    )


class Page(OpenAPIRenderPlugin):
    """The schema as HTML."""

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:
        return page(openapi_schema).encode()


def page(schema: dict[str, Any]) -> str:
    """Operations by tag, then every schema; all of it readable without a script."""
    title, about = _e(schema["info"]["title"]), _e(schema["info"].get("description", ""))
    groups: dict[str, list[str]] = {}
    for path, item in sorted(schema.get("paths", {}).items()):
        for method, operation in item.items():
            tag = (operation.get("tags") or ["Other"])[0]
            groups.setdefault(tag, []).append(_operation(path, method, operation))
    parts = [f"<h2>{_e(tag)}</h2>{''.join(operations)}" for tag, operations in sorted(groups.items())]
    schemas = schema.get("components", {}).get("schemas", {})
    parts.append("<h2>Schemas</h2>" + "".join(_schema(name, body) for name, body in sorted(schemas.items())))
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title} API</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head>'
        f'<body><h1>{title} API</h1><p>{about}</p><p><a href="/schema/openapi.json">openapi.json</a></p>'
        f"{''.join(parts)}</body></html>"
    )


def _operation(path: str, method: str, operation: dict[str, Any]) -> str:
    lines = [f"<p>{_e(operation.get('description', ''))}</p>"]
    if rows := [_parameter(one) for one in operation.get("parameters", ())]:
        lines.append(f"<table><tr><th>parameter</th><th>in</th><th>takes</th><th></th></tr>{''.join(rows)}</table>")
    for content in operation.get("requestBody", {}).get("content", {}).values():
        lines.append(f"<p>body: {_type(content.get('schema', {}))}</p>")
    for status, answer in sorted(operation.get("responses", {}).items()):
        types = [_type(content.get("schema", {})) for content in answer.get("content", {}).values()]
        lines.append(f"<p class=dim>{_e(status)} {_e(answer.get('description', ''))} {' '.join(types)}</p>")
    head = f'<span class="m {_e(method)}">{_e(method.upper())}</span> <code>{_e(path)}</code>'
    return f"<details><summary>{head} {_e(operation.get('summary', ''))}</summary>{''.join(lines)}</details>"


def _parameter(one: dict[str, Any]) -> str:
    needed = "needed" if one.get("required") else ""
    about = f"{needed} {one.get('description', '')}"
    return (
        f"<tr><td><code>{_e(one['name'])}</code></td><td>{_e(one['in'])}</td>"
        f"<td>{_type(one.get('schema', {}))}</td><td>{_e(about)}</td></tr>"
    )


def _schema(name: str, body: dict[str, Any]) -> str:
    required = set(body.get("required", ()))
    rows = "".join(
        f"<tr><td><code>{_e(field)}</code></td><td>{_type(kind)}</td><td>{'needed' * (field in required)}</td></tr>"
        for field, kind in body.get("properties", {}).items()
    )
    text = f"<p>{_e(body.get('description', ''))}</p>" + (f"<table>{rows}</table>" if rows else f"<p>{_type(body)}</p>")
    return f'<details id="{_e(name)}"><summary><code>{_e(name)}</code></summary>{text}</details>'


LIMITS = {
    "minimum": "≥ {}", "maximum": "≤ {}", "exclusiveMinimum": "> {}", "maxLength": "≤ {} characters", "pattern": "like {}",
    "maxItems": "≤ {} items", "default": "default {}",
}  # fmt: skip


def _type(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        name = _e(schema["$ref"].rpartition("/")[2])
        return f'<a href="#{name}">{name}</a>'
    for word in ("oneOf", "anyOf"):
        if word in schema:
            return " or ".join(_type(one) for one in schema[word])
    limits = [text.format(schema[key]) for key, text in LIMITS.items() if schema.get(key) not in (None, "")]
    if "enum" in schema:
        return _e(", ".join([" | ".join(str(value) for value in schema["enum"]), *limits]))
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    return _e(", ".join([str(schema.get("type", "any")), *limits]))


def _e(text: object) -> str:
    return html.escape(str(text or ""))
