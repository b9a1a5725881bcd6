"""Spans of time, as people read them. Pure."""

from __future__ import annotations


def ms(value: int | None) -> str:
    """`850 ms`, `2.4 s`."""
    return "" if value is None else f"{value} ms" if value < 1000 else span(value / 1000)


def span(seconds: float | None) -> str:
    """`4.2 s`, `12 min 5 s`, `3 h 20 min`, `2 d 4 h`; two parts at most."""
    if seconds is None:
        return ""
    if seconds < 60:
        return f"{seconds:.3g} s"
    whole, parts = round(seconds), []
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1)):
        many, whole = divmod(whole, length)
        parts.append(f"{many} {unit}" if many else "")
    first = next(n for n, part in enumerate(parts) if part)
    return " ".join(part for part in parts[first : first + 2] if part)
