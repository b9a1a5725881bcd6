"""Who is told of which event: views are made of parts, and each part is told only of what may change it.

    class Guests:
        HEARS = {VmStarted: _started, **dict.fromkeys((VmStopped, VmDeleted), _gone)}     # (part, recorded, event)

    class Views:
        HEARS = {...}                # its own, told last
        PARTS = ("guests",)          # fields that are parts, told in this order

    tell(views, recorded, event)     # one event, as it comes
    told(views, VmStarted)           # for many of a class: what is to be called with (recorded, event)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MethodType
from typing import Any

from libs.common.messages import Recorded

type Heard = Mapping[type, Callable[[Any, Recorded, Any], None]]
type Table = dict[type, tuple[tuple[str, Callable[[Any, Recorded, Any], None]], ...]]
type Tell = Callable[[Recorded, Any], None]

UNRECORDED = Recorded(0, "", 0, "", 0, 0, b"", b"")
"""for a part that looks at the event alone"""


_TABLES: dict[type[Any], Table] = {}


def _table(views: type[Any]) -> Table:
    """Of a class of views: event class -> (field of the part, "" for the views themselves; what it does with it), in order."""
    if (known := _TABLES.get(views)) is not None:
        return known
    found: Table = {}
    for name in views.PARTS:
        part = views.__dataclass_fields__[name].default_factory
        for event, does in part.HEARS.items():
            found[event] = (*found.get(event, ()), (name, does))
    for event, does in views.HEARS.items():
        found[event] = (*found.get(event, ()), ("", does))
    _TABLES[views] = found
    return found


def tell(views: Any, recorded: Recorded, event: Any) -> None:
    """One event to all parts that hear it."""
    for name, does in _table(type(views)).get(type(event), ()):
        does(getattr(views, name) if name else views, recorded, event)


def told(views: Any, event: type) -> list[Tell]:
    """The same for many events of that class: good as long as the views and their parts are these very objects. Views without
    HEARS are told everything."""
    if not hasattr(views, "HEARS"):
        return [views.apply]
    heard = _table(type(views)).get(event, ())
    return [MethodType(does, getattr(views, name) if name else views) for name, does in heard]
