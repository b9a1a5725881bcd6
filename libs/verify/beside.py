"""Readers in a process of their own: a log is folded there while this process proves its chain.

    with Beside(partial(readers, …)) as beside:
        report = await verify(evidence, readers=[beside])

They take the very records that the chain was proved of, over a pipe. What they find comes back with the last one.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Self

import msgspec

from libs.common.loop import undisturbed
from libs.common.messages import Recorded, encode
from libs.verify import Fault
from libs.verify.verify import Reader

type Make = Callable[[], Sequence[Reader]]

END = b""
_records = msgspec.msgpack.Decoder(list[Recorded]).decode
_faults = msgspec.msgpack.Decoder(list[Fault]).decode


class Ended(Exception):
    """That process is no more, and has not said what it found."""

    def __init__(self, code: int | None) -> None:
        super().__init__(f"the process that folds the log has ended (exit code {code})")


class Beside:
    """A Reader. make: what makes those that read; it goes to the other process, and what it makes stays there. All methods raise
    Ended."""

    def __init__(self, make: Make) -> None:
        self.faults: list[Fault] = []
        context = get_context("spawn")
        self._pipe, there = context.Pipe()
        self._process = context.Process(target=_run, args=(there, make), name="folding", daemon=True)
        self._process.start()
        there.close()

    def __enter__(self) -> Self:
        """Once they are made."""
        try:
            self._answer()
        except BaseException:
            self._leave()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._leave()

    def _leave(self) -> None:
        """Where it was not told the end, that the pipe is closed tells it."""
        self._pipe.close()
        self._process.join()

    def take(self, records: Sequence[Recorded]) -> None:
        self._say(encode(records))

    def finish(self) -> None:
        self._say(END)
        self.faults += self._answer()

    def _say(self, said: bytes) -> None:
        try:
            self._pipe.send_bytes(said)
        except OSError as error:
            raise self._ended() from error

    def _answer(self) -> list[Fault]:
        try:
            return _faults(self._pipe.recv_bytes())
        except (EOFError, OSError) as error:
            raise self._ended() from error

    def _ended(self) -> Ended:
        self._process.join()
        return Ended(self._process.exitcode)


def _run(pipe: Connection, make: Make) -> None:
    """The other process: answers once when it is ready, and once when it was told the end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal asks both; who is asked ends the other
    readers = make()
    pipe.send_bytes(encode([]))
    with undisturbed(lasting=True):
        while True:
            try:
                said = pipe.recv_bytes()
            except EOFError:
                return  # given up
            if said == END:
                break
            records = _records(said)
            for reader in readers:
                reader.take(records)
    for reader in readers:
        reader.finish()
    pipe.send_bytes(encode([fault for reader in readers for fault in reader.faults]))
