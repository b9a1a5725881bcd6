"""What every secret store does; and that no secret's text shows up in a message."""

from __future__ import annotations

import stat
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest

from libs.common.log.migrate import migrate
from libs.common.messages import Command, encode
from libs.common.secret_store import OwnSecrets
from libs.common.secrets import (
    SECRET_BYTES_MAX,
    BadKey,
    Keys,
    MemorySecrets,
    PostgresSecrets,
    Secret,
    SecretError,
    SecretsAway,
    SecretStore,
    UnknownSecret,
)
from tests.servers import Postgres

PLAIN = b"correct horse battery staple"
AT_US = 1_700_000_000_000_000


class SetPassword(Command):
    vm: str
    password: Secret


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with Postgres() as one:
        yield one


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    Keys.create(tmp_path / "secrets.key")
    return tmp_path / "secrets.key"


def read(path: Path) -> str:
    return path.read_text()


def write(path: Path, text: str) -> None:
    path.write_text(text)


class Stores:
    """Opens a store on the same rows again and again, with the keys as they are in the file by then."""

    def __init__(
        self, kind: str, keys: Path, pool: asyncpg.Pool[asyncpg.Record] | None, own: OwnSecrets | None = None
    ) -> None:
        self._own = own
        self._keys = keys
        self._pool = pool
        self._rows: dict[str, tuple[str, bytes]] = {}

    def open(self) -> SecretStore:
        if self._own is not None:
            return self._own
        if self._pool is not None:
            return PostgresSecrets(self._pool, Keys.load(self._keys))
        store = MemorySecrets(Keys.load(self._keys))
        store.rows = self._rows
        return store

    async def everything_stored(self) -> bytes:
        if self._pool is not None:
            return str(await self._pool.fetch("select * from asv.secrets")).encode()
        return str(self._rows).encode()

    async def exchange(self, one: Secret, other: Secret) -> None:
        """Someone who can write to the database puts the ciphertext of one secret in the place of another."""
        if self._pool is None:
            self._rows[one.ref] = self._rows[other.ref]
            return
        await self._pool.execute(
            "update asv.secrets set ciphertext = (select ciphertext from asv.secrets where ref = $2) where ref = $1",
            one.ref, other.ref,
        )  # fmt: skip


@pytest.fixture(params=["memory", "postgres", "own"])
async def stores(request: pytest.FixtureRequest, keys: Path) -> AsyncIterator[Stores]:
    if request.param == "memory":
        yield Stores("memory", keys, None)
        return
    server: Postgres = request.getfixturevalue("server")
    await migrate(server.dsn())
    pool = await asyncpg.create_pool(server.dsn(role="asv_gateway"), min_size=1, max_size=2)
    await pool.execute("delete from asv.secrets")
    own = OwnSecrets(server.dsn(role="asv_gateway"), keys) if request.param == "own" else None
    yield Stores("postgres", keys, pool, own)
    if own is not None:
        await own.close()
    await pool.close()


async def test_secrets_are_away_with_their_database_and_made_where_that_is_wished(tmp_path: Path) -> None:
    own = OwnSecrets("postgresql://asv@127.0.0.1:1/asv", tmp_path / "made.key", make=True)
    with pytest.raises(SecretsAway):
        await own.put(PLAIN, AT_US)
    assert (tmp_path / "made.key").exists()
    with pytest.raises(BadKey, match="cannot read"):
        await OwnSecrets("postgresql://asv@127.0.0.1:1/asv", tmp_path / "none.key").put(PLAIN, AT_US)


async def test_what_is_put_can_be_had_until_forgotten(stores: Stores) -> None:
    secret = await stores.open().put(PLAIN, AT_US)
    other = await stores.open().put(PLAIN, AT_US)
    assert secret != other
    assert await stores.open().get(secret) == PLAIN
    await stores.open().forget(secret)
    await stores.open().forget(secret)
    with pytest.raises(UnknownSecret, match=secret.ref):
        await stores.open().get(secret)
    assert await stores.open().get(other) == PLAIN


async def test_nothing_readable_is_stored(stores: Stores) -> None:
    await stores.open().put(PLAIN, AT_US)
    assert PLAIN not in await stores.everything_stored()
    assert PLAIN.hex().encode() not in await stores.everything_stored()


async def test_keys_are_rotated(stores: Stores, keys: Path) -> None:
    secret = await stores.open().put(PLAIN, AT_US)
    old = read(keys)
    Keys.rotate(keys)
    assert await stores.open().get(secret) == PLAIN
    assert await stores.open().rekey() == 1
    assert await stores.open().rekey() == 0
    write(keys, read(keys).splitlines()[0])  # the old key is thrown away
    assert await stores.open().get(secret) == PLAIN
    write(keys, old)
    with pytest.raises(BadKey, match="not in the key file"):
        await stores.open().get(secret)


async def test_rows_cannot_be_exchanged(stores: Stores) -> None:
    one, other = await stores.open().put(b"one", AT_US), await stores.open().put(b"other", AT_US)
    await stores.exchange(one, other)
    with pytest.raises(BadKey, match="another"):
        await stores.open().get(one)


async def test_too_much_is_refused(stores: Stores) -> None:
    with pytest.raises(SecretError, match="at most"):
        await stores.open().put(b"." * (SECRET_BYTES_MAX + 1), AT_US)


async def test_no_secret_shows_up_in_a_message(stores: Stores) -> None:
    secret = await stores.open().put(PLAIN, AT_US)
    message = SetPassword(vm="web-1", password=secret)
    assert PLAIN not in encode(message)
    assert PLAIN.decode() not in repr(message)
    assert secret.ref.encode() in encode(message)


async def test_errors_say_nothing_secret(stores: Stores, keys: Path) -> None:
    secret = await stores.open().put(PLAIN, AT_US)
    id = read(keys).split()[0]
    Keys.create(keys.with_name("other.key"))
    write(keys, f"{id} {read(keys.with_name('other.key')).split()[1]}\n")
    with pytest.raises(BadKey, match="changed") as caught:
        await stores.open().get(secret)
    assert PLAIN.decode() not in str(caught.value)


async def test_a_service_reads_but_does_not_write(server: Postgres, keys: Path) -> None:
    await migrate(server.dsn())
    async with asyncpg.create_pool(server.dsn(role="asv_gateway"), min_size=1, max_size=1) as pool:
        secret = await PostgresSecrets(pool, Keys.load(keys)).put(PLAIN, AT_US)
    async with asyncpg.create_pool(server.dsn(role="asv_service"), min_size=1, max_size=1) as pool:
        store = PostgresSecrets(pool, Keys.load(keys))
        assert await store.get(secret) == PLAIN
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await store.put(PLAIN, AT_US)


def test_the_key_file(tmp_path: Path) -> None:
    path = tmp_path / "secrets.key"
    first = Keys.create(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert Keys.create(path).current == first.current
    path.chmod(0o640)
    with pytest.raises(BadKey, match="0600"):
        Keys.load(path)
    path.chmod(0o600)
    for text in ("", "one two three", "id not-base64!", "id c2hvcnQ="):
        path.write_text(text)
        with pytest.raises(BadKey, match=r"secrets\.key"):
            Keys.load(path)
    with pytest.raises(BadKey, match="cannot read"):
        Keys.load(tmp_path / "missing")
