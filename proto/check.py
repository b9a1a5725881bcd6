"""Keeps the promise that every event ever written can be read, and that two neighbouring releases understand each other.

    python -m proto.check                       what is wrong and what would be right; exit code 1 if anything is
    python -m proto.check write                 writes what is missing: samples, schema entries, AsyncAPI
    python -m proto.check write --unreleased    also rewrites what was not released yet
    python -m proto.check release               lists today's versions in proto/RELEASED: from then on they are frozen

A sample `samples/<service>/<type>.v<N>.json` is an event as version N wrote it. `schema/<service>.json` holds the schema of
every message version. Neither is ever overwritten for a version that RELEASED lists, but for additions that are allowed.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from libs.common.messages import Event, Message, Recorded, tag_of
from libs.common.protocol import PROTOCOL, PROTOCOL_MIN
from libs.common.registry import Registry, Upcast
from proto import asyncapi, cluster, compute, io, mapping, memory, node, nodes
from proto.compat import Schema, breaks, schema_of
from proto.examples import example
from proto.families import FAMILIES, Family
from proto.upcasts import DOWNCASTS, UPCASTS

WRITE = "run `python -m proto.check write`"
REWRITE = "run `python -m proto.check write --unreleased`"


class Shelf(msgspec.Struct, frozen=True):
    """Where samples, schemas and the list of released versions lie."""

    root: Path

    def sample(self, service: str, version: str) -> Path:
        return self.root / "samples" / service / f"{version}.json"

    def samples(self, service: str) -> list[str]:
        """The versions with a sample, `type.vN`."""
        return sorted(p.stem for p in (self.root / "samples" / service).glob("*.json"))

    def schemas(self, service: str) -> dict[str, Schema]:
        path = self.root / "schema" / f"{service}.json"
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any]) if path.exists() else {}

    def released(self) -> set[str]:
        path = self.root / "RELEASED"
        lines = path.read_text().splitlines() if path.exists() else []
        return {line.strip() for line in lines if line.strip() and not line.startswith("#")}

    def write(self, path: Path, value: Any) -> bool:
        """Pretty JSON; True when the file changed."""
        data = msgspec.json.format(msgspec.json.encode(value, order="deterministic"), indent=2) + b"\n"
        if path.exists() and path.read_bytes() == data:
            return False
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return True


def version_of(kind: type[Message]) -> str:
    """`vm_started.v1`: how a message version is called in samples, schemas and RELEASED."""
    return f"{tag_of(kind)}.v{kind.VERSION}"


def check(shelf: Shelf, families: Mapping[str, Family], upcasts: Mapping[tuple[str, int], Upcast]) -> list[str]:
    """One sentence per thing that is wrong; empty when the promise holds."""
    released = shelf.released()
    wrong: list[str] = []
    for family in families.values():
        for event in family.events:
            wrong += _samples(shelf, family, event, upcasts, released)
            wrong += _downcast(event)
        wrong += _schemas(shelf, family, released)
        wrong += _left_over(shelf, family, released)
    return wrong


def _samples(
    shelf: Shelf, family: Family, event: type[Message], upcasts: Mapping[tuple[str, int], Upcast], released: set[str]
) -> Iterator[str]:
    tag = tag_of(event)
    reader = Registry([event], upcasts)
    for v in range(1, event.VERSION + 1):
        name = f"{tag}.v{v}"
        path = shelf.sample(family.service, name)
        if not path.exists():
            yield f"{name}: no sample; " + (
                WRITE if v == event.VERSION else "restore it from the history: it may not be made up"
            )
            continue
        body = msgspec.json.decode(path.read_bytes())
        try:
            read = reader.event(Recorded(0, "", 0, tag, v, 0, msgspec.msgpack.encode(body), b""))
        except KeyError as missing:
            yield f"{name}: no upcast {missing}; add that step to proto/upcasts.py"
        except msgspec.ValidationError as error:
            yield f"{name}: its sample cannot be read: {error}; " + (_advice(name, released))
        else:
            if v == event.VERSION and not _holds(_plain(read), body):
                yield f"{name}: what its sample says is lost in reading; {_advice(name, released)}"


def _downcast(event: type[Message]) -> Iterator[str]:
    """While a cluster may not be finalized at the protocol that brought a version, the version before must be writable."""
    since = getattr(event, "SINCE", 1)
    if since > PROTOCOL:
        yield f"{version_of(event)}: SINCE is {since}, this release speaks up to {PROTOCOL}; raise PROTOCOL with it"
    if since > PROTOCOL_MIN and (tag_of(event), event.VERSION) not in DOWNCASTS:
        yield f"{version_of(event)}: no downcast ({tag_of(event)!r}, {event.VERSION}); add that step to proto/upcasts.py"


def _holds(whole: Any, part: Any) -> bool:
    """Everything `part` says, `whole` says too; it may say more (fields that came later)."""
    if isinstance(part, dict):
        return isinstance(whole, dict) and all(k in whole and _holds(whole[k], v) for k, v in part.items())
    if isinstance(part, list):
        return len(whole) == len(part) and all(_holds(w, p) for w, p in zip(whole, part, strict=True))
    return bool(whole == part)


def _advice(version: str, released: set[str]) -> str:
    return "raise VERSION and add an upcast to proto/upcasts.py" if version in released else REWRITE


def _schemas(shelf: Shelf, family: Family, released: set[str]) -> Iterator[str]:
    kept = shelf.schemas(family.service)
    for kind in family.messages:
        name = version_of(kind)
        old, new = kept.get(name), schema_of(kind)
        if old is None:
            yield f"{name}: no schema is kept of it; {WRITE}"
        elif old == new:
            continue
        elif name not in released:
            yield f"{name}: changed, and not released yet; {REWRITE}"
        elif wrong := breaks(old, new, name):
            yield from (str(w) for w in wrong)
        else:
            yield f"{name}: an allowed addition is not noted; {WRITE}"


def _left_over(shelf: Shelf, family: Family, released: set[str]) -> Iterator[str]:
    """Versions on the shelf whose class is gone or went back."""
    today = {tag_of(k): k.VERSION for k in family.messages}
    for name in sorted(set(shelf.samples(family.service)) | set(shelf.schemas(family.service))):
        tag, _, v = name.rpartition(".v")
        if int(v) <= today.get(tag, 0):
            continue
        yield f"{name}: no class has that name and version; " + (
            "it was released: bring its class back, it lies in logs" if name in released else REWRITE
        )


def unlisted() -> list[str]:
    """Messages that no family lists: nothing would decode or guard them."""
    listed = {kind for family in FAMILIES.values() for kind in family.messages}
    found = []
    for module in (cluster, compute, io, mapping, memory, node, nodes):
        for name, kind in vars(module).items():
            own = isinstance(kind, type) and issubclass(kind, Message) and kind.__module__ == module.__name__
            if own and kind not in listed:
                found.append(f"{module.__name__}.{name}: not in a union of proto/families.py; add it there")
    return found


def write(shelf: Shelf, families: Mapping[str, Family], unreleased: bool = False) -> list[str]:
    """Writes what is missing (and with `unreleased` what is not released yet); returns what was written or removed."""
    released, done = shelf.released(), []
    for family in families.values():
        for event in family.events:
            name = version_of(event)
            path = shelf.sample(family.service, name)
            if (not path.exists() or (unreleased and name not in released)) and shelf.write(path, _sample(event)):
                done.append(f"samples/{family.service}/{name}.json")
        schemas = _next_schemas(shelf, family, released, unreleased)
        if shelf.write(shelf.root / "schema" / f"{family.service}.json", schemas):
            done.append(f"schema/{family.service}.json")
        if unreleased:
            done += _sweep(shelf, family, released)
    if shelf.write(shelf.root / "asyncapi.json", asyncapi.document(families)):
        done.append("asyncapi.json")
    return done


def _sample(event: type[Message]) -> Any:
    return _plain(example(event))


def _plain(event: Any) -> Any:
    """As it reads in a file: lists for tuples, words for enums."""
    return msgspec.json.decode(msgspec.json.encode(event))


def _next_schemas(shelf: Shelf, family: Family, released: set[str], unreleased: bool) -> dict[str, Schema]:
    kept = shelf.schemas(family.service)
    today = {version_of(kind): schema_of(kind) for kind in family.messages}
    for name, new in today.items():
        old = kept.get(name)
        free = old is None or (name in released and not breaks(old, new, name)) or (unreleased and name not in released)
        if free:
            kept[name] = new
    if unreleased:
        kept = {name: s for name, s in kept.items() if name in today or name in released}
    return kept


def _sweep(shelf: Shelf, family: Family, released: set[str]) -> list[str]:
    """Samples of versions that were never released and are no more."""
    today = {version_of(event) for event in family.events}
    gone = [name for name in shelf.samples(family.service) if name not in today | released]
    for name in gone:
        shelf.sample(family.service, name).unlink()
    return [f"samples/{family.service}/{name}.json removed" for name in gone]


def release(shelf: Shelf, families: Mapping[str, Family]) -> list[str]:
    """Freezes today's versions; returns those that are new in the list."""
    today = {version_of(kind) for family in families.values() for kind in family.messages}
    new = sorted(today - shelf.released())
    head = "# Message versions that were released: their samples and schemas are frozen. One `type.vN` per line.\n"
    lines = "".join(f"{name}\n" for name in sorted(today | shelf.released()))
    (shelf.root / "RELEASED").write_text(head + lines)
    return new


def main(words: list[str]) -> int:
    shelf = Shelf(Path(__file__).parent)
    match words:
        case ["write"] | ["write", "--unreleased"]:
            print("\n".join(write(shelf, FAMILIES, unreleased=len(words) == 2)) or "nothing to write")
            return 0
        case [] | ["release"]:
            wrong = (
                check(shelf, FAMILIES, UPCASTS) + unlisted() + asyncapi.stale(shelf.root / "asyncapi.json", FAMILIES)
            )
            if wrong:
                print("\n".join(wrong))
            elif words:
                print(f"{len(release(shelf, FAMILIES))} versions are frozen from now on")
            else:
                events = sum(issubclass(k, Event) for f in FAMILIES.values() for k in f.messages)
                print(f"all {events} events can be read, in every version ever written")
            return bool(wrong)
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
