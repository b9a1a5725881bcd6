"""What the hash chain costs an append: `figures(...)` for tests/bench/replay.py, and `python -m tests.bench.replay_chain`.

chain_cost_pct  of the commands per second that 256 callers commit, how many per cent the chain takes: the median over pairs of
                windows, one with it and one without, in turn, on two databases of one server. Without it there are no digests
                (neither the writer's nor the server's), no rows of batches, no index that finds a batch's commands
"""

from __future__ import annotations

import re
import statistics

import asyncpg
import uvloop

from libs.common.log import batch
from libs.common.log.migrate import SQL, migrate
from tests.bench.common import Options, options, report
from tests.bench.eventlog import CALLERS, SETTINGS, append_for
from tests.servers import Postgres

WITH, WITHOUT = "chained", "unchained"
APPEND_BATCH = "024_append_batch_contract.sql"
CUTS = (
    # what is the chain's alone in append_batch: from the first of these words up to the last, and what stays instead
    (r".*?create function", "create or replace function"),
    (r" *if octet_length\(digests\).*?end if;\n", ""),
    (r"case when digests is null then e\.hash.*?end\n", "''::bytea\n"),
    (r"head\.batches \+ 1,\n *case when digests is null.*?end\n", "null::bigint, null::bytea\n"),
    (r"returning position, id, hash\n *\)\n.*?from written w;", "returning 1) select count(*) into written from written;"),
    (r"if alive is null and digests is not null.*?insert into asv\.log_batches.*?;", ""),
    (r", hash = chain, batches = head\.batches \+ 1", ""),
)
NO_DIGESTS = {"event_digest": lambda stream, version, event: b"", "command_digest": lambda stream, command: b"", "NONE": b""}
"""of batch.py, by its names there"""


def without_chain() -> str:
    """append_batch as it is, but for the chain. Raises AssertionError where its text has changed beyond this recipe."""
    text = (SQL / APPEND_BATCH).read_text()
    for found, instead in CUTS:
        text, count = re.subn(found, instead, text, count=1, flags=re.DOTALL)
        assert count == 1, f"{APPEND_BATCH} has no {found!r} any more"
    assert "sha256" not in text, text
    return text


async def prepare(server: Postgres) -> None:
    admin = await asyncpg.connect(server.dsn())
    for name in (WITH, WITHOUT):
        await admin.execute(f"create database {name}")
    await admin.close()
    for name in (WITH, WITHOUT):
        await migrate(server.dsn(name))
    bare = await asyncpg.connect(server.dsn(WITHOUT))
    await bare.execute(without_chain())
    await bare.execute("drop index asv.commands_batch")
    await bare.close()


def window(server: Postgres, name: str, seconds: float, run: str) -> float:
    """Commands per second into one of the two databases."""
    found = {name: getattr(batch, name) for name in NO_DIGESTS}
    for word, value in (NO_DIGESTS if name == WITHOUT else found).items():
        setattr(batch, word, value)
    try:
        return uvloop.run(append_for(server.dsn(name, "asv_service"), CALLERS, seconds, run))
    finally:
        for word, value in found.items():
            setattr(batch, word, value)


def figures(wanted: Options, server: Postgres | None = None) -> dict[str, float]:
    """chain_cost_pct, and the two rates it is of."""
    seconds, pairs = (0.3, 12) if wanted.quick else (2.0, 20)
    if server is None:
        with Postgres(SETTINGS) as own:
            return figures(wanted, own)
    uvloop.run(prepare(server))
    costs, rates = [], {WITH: 0.0, WITHOUT: 0.0}
    for name in rates:
        window(server, name, seconds, "warm")
    for n in range(pairs):
        order = (WITH, WITHOUT) if n % 2 else (WITHOUT, WITH)
        pair = {name: window(server, name, seconds, f"c{n}") for name in order}
        rates = {name: max(rate, pair[name]) for name, rate in rates.items()}
        costs.append(100 * (1 - pair[WITH] / pair[WITHOUT]))
        wanted.say(f"  pair {n + 1}: {pair[WITH]:,.0f}/s with the chain, {pair[WITHOUT]:,.0f}/s without: {costs[-1]:.1f} %")
    return {
        "chain_cost_pct": round(statistics.median(costs), 1),
        "chained_append_per_s": round(rates[WITH]),
        "unchained_append_per_s": round(rates[WITHOUT]),
    }


def main() -> None:
    report(**figures(options("what the hash chain costs an append")))


if __name__ == "__main__":
    main()
