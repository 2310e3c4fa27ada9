"""Commands that arrive through `<context>.commands`, on the same path as all others.

The offset of a command is given back only when its outcome is durable: its events in the log, or
its refusal in the outcome store. A refusal blocks nothing. Only what does not decode, or what we
fail at ourselves, is parked, with its original bytes.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec
import structlog

from tidelog.canonical import command_hash
from tidelog.engine.batch import Request
from tidelog.engine.command import MUST_EXIST, Envelope, Outcome, Refused
from tidelog.engine.ports import MessageCodec, StoredRecord
from tidelog.errors import (
    CodecError,
    CommandFault,
    Overloaded,
    TidelogError,
    Unavailable,
)
from tidelog.message import Command, Context
from tidelog.wire import CommandMetadata, read_command_headers

UNFINISHED_MAX = 1_000
RETRY_MIN_S = 0.1
RETRY_MAX_S = 5.0

log = structlog.get_logger(__name__)


class TopicCommand(msgspec.Struct, kw_only=True, eq=False):
    """A command record on its way to a durable outcome."""

    record: StoredRecord
    envelope: Envelope | None = None
    outcome: Outcome | None = None
    fault: str | None = None


class OutcomeStore(Protocol):
    """Where outcomes of commands from the topic are kept."""

    async def finish(self, context: str, partition: int, done: Sequence[TopicCommand]) -> None:
        """Keep outcomes and parked records, all or none; Unavailable if it cannot now."""
        ...


class CommandInbox:
    """The commands of one owned partition."""

    def __init__(
        self,
        *,
        context: Context,
        partition: int,
        codec: MessageCodec,
        submit: Callable[[Request], None],
        outcomes: OutcomeStore,
        processed: Callable[[int], None],
        flow: Callable[[bool], None],
    ) -> None:
        self._context = context
        self._partition = partition
        self._codec = codec
        self._submit = submit
        self._outcomes = outcomes
        self._processed = processed
        self._flow = flow
        self._unfinished: deque[TopicCommand] = deque()
        self._paused = False
        self._wake = asyncio.Event()
        self._task = asyncio.get_running_loop().create_task(self._finish_in_order())
        self._next_offset = -1

    @property
    def unfinished(self) -> int:
        """Commands without a durable outcome."""
        return len(self._unfinished)

    def receive(self, records: Sequence[StoredRecord]) -> None:
        """Take in records of the partition, in their order."""
        for record in records:
            if record.offset < self._next_offset:
                continue
            self._next_offset = record.offset + 1
            command = TopicCommand(record=record)
            self._unfinished.append(command)
            self._begin(command)
        if len(self._unfinished) >= UNFINISHED_MAX and not self._paused:
            self._paused = True
            self._flow(False)

    def stop(self) -> None:
        """Forget what is unfinished; whoever owns the partition next reads it again."""
        self._task.cancel()

    def _begin(self, command: TopicCommand) -> None:
        try:
            command.envelope = self._read(command.record)
        except CodecError as error:
            command.fault = str(error)
            self._wake.set()
            return
        self._offer(command)

    def _offer(self, command: TopicCommand) -> None:
        assert command.envelope is not None

        def reply(outcome: Outcome) -> None:
            self._answered(command, outcome)

        try:
            self._submit(Request(envelope=command.envelope, reply=reply))
        except Overloaded:
            self._again(command)
        except TidelogError as error:
            log.warning("inbox.refused", context=self._context.name, error=str(error))
            self._again(command)

    def _answered(self, command: TopicCommand, outcome: Outcome) -> None:
        if isinstance(outcome, Refused):
            if isinstance(outcome.error, Unavailable):
                self._again(command)
                return
            if isinstance(outcome.error, CommandFault):
                command.fault = outcome.error.detail
        command.outcome = outcome
        self._wake.set()

    def _again(self, command: TopicCommand) -> None:
        """Nothing is lost while the partition cannot serve: the command is offered again."""
        asyncio.get_running_loop().call_later(RETRY_MIN_S, self._offer_unless_stopped, command)

    def _offer_unless_stopped(self, command: TopicCommand) -> None:
        if not self._task.done():
            self._offer(command)

    async def _finish_in_order(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            done = self._take_done()
            if done:
                await self._keep(done)
                self._processed(done[-1].record.offset + 1)
            if self._paused and len(self._unfinished) < UNFINISHED_MAX // 2:
                self._paused = False
                self._flow(True)

    def _take_done(self) -> list[TopicCommand]:
        done = []
        while self._unfinished and _is_done(self._unfinished[0]):
            done.append(self._unfinished.popleft())
        return done

    async def _keep(self, done: Sequence[TopicCommand]) -> None:
        delay = RETRY_MIN_S
        while True:
            try:
                return await self._outcomes.finish(self._context.name, self._partition, done)
            except Unavailable as error:
                log.warning("inbox.outcome_store", context=self._context.name, error=str(error))
                await asyncio.sleep(delay)
                delay = min(delay * 2, RETRY_MAX_S)

    def _read(self, record: StoredRecord) -> Envelope:
        metadata = read_command_headers(record.headers)
        command = self._codec.decode(record.value or b"")
        if not isinstance(command, Command) or type(command) not in self._context.command_types:
            raise CodecError(f"{type(command).__name__} is no command of {self._context.name}")
        key = getattr(command, self._context.key)
        if (record.key or b"") != key.encode():
            raise CodecError(f"the record's key is not the command's {self._context.key}")
        full_name = self._context.full_name(type(command))
        return Envelope(
            command_id=metadata.command_id,
            command_hash=command_hash(full_name, command),
            key=key,
            command=command,
            correlation_id=metadata.correlation_id,
            traceparent=metadata.traceparent,
            expected_version=_expected_version(metadata),
        )


def _is_done(command: TopicCommand) -> bool:
    return command.outcome is not None or command.fault is not None


def _expected_version(metadata: CommandMetadata) -> int | None:
    if metadata.expected_version is None:
        return None
    if metadata.expected_version == "*":
        return MUST_EXIST
    digits = metadata.expected_version.strip('"')
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 18):
        raise CodecError("header tl_ifmatch is neither a version nor *")
    return int(digits)
