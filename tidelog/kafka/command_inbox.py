"""Commands that arrive through `<context>.commands`, on the same path as all others.

The offset of a command is given back only when its outcome is durable: its events in the log, or
its refusal in the outcome store. A refusal blocks nothing. Only what does not decode, or what we
fail at ourselves, is parked, with its original bytes.

Commands are offered in their order. Where one cannot be decided now, it and all behind it are
offered again, so that a later command of its key never overtakes it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

import msgspec
import structlog

from tidelog.canonical import command_hash
from tidelog.engine.batch import Request
from tidelog.engine.command import MUST_EXIST, Envelope, Outcome, Recorded, Refused
from tidelog.engine.ports import MessageCodec, StoredRecord
from tidelog.errors import (
    CodecError,
    CommandFault,
    Unavailable,
)
from tidelog.message import Command, Context
from tidelog.wire import CommandMetadata, read_command_headers

UNFINISHED_MAX = 1_000
UNFINISHED_BYTES_MAX = 32 * 1024 * 1024
RETRY_MIN_S = 0.1
RETRY_MAX_S = 5.0

log = structlog.get_logger(__name__)


class TopicCommand(msgspec.Struct, kw_only=True, eq=False):
    """A command record on its way to a durable outcome."""

    record: StoredRecord
    envelope: Envelope | None = None
    outcome: Outcome | None = None
    fault: str | None = None
    attempt: int = 0  # the one that counts; 0 while it is not offered
    attempts: int = 0


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
        self._unfinished_bytes = 0
        self._to_offer: deque[TopicCommand] = deque()
        self._retry: asyncio.TimerHandle | None = None
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
            self._unfinished_bytes += _bytes_of(record)
            self._to_offer.append(command)
        self._offer_in_order()
        if self._is_full(1) and not self._paused:
            self._paused = True
            self._flow(False)

    def stop(self) -> None:
        """Forget what is unfinished; whoever owns the partition next reads it again."""
        self._task.cancel()
        if self._retry is not None:
            self._retry.cancel()

    def _is_full(self, share: int) -> bool:
        """Whether the unfinished commands reach this share of what may be held."""
        return (
            len(self._unfinished) >= UNFINISHED_MAX // share
            or self._unfinished_bytes >= UNFINISHED_BYTES_MAX // share
        )

    def _offer_in_order(self) -> None:
        while self._to_offer and self._retry is None:
            command = self._to_offer[0]
            if not _is_done(command):
                self._offer(command)
            if command.attempt or _is_done(command):
                self._to_offer.popleft()
            else:
                self._offer_later()

    def _offer(self, command: TopicCommand) -> None:
        """Read and submit a command; its `attempt` stays 0 where that cannot be done now."""
        try:
            if command.envelope is None:
                command.envelope = self._read(command.record)
            number = command.attempt = command.attempts = command.attempts + 1
            self._submit(
                Request(
                    envelope=command.envelope,
                    reply=partial(self._answered, command, number),
                    is_abandoned=lambda: command.attempt != number,
                )
            )
        except Unavailable as error:  # of the partition or of the registry: try again
            command.attempt = 0
            log.warning("inbox.not_now", context=self._context.name, error=str(error))
        except CodecError as error:
            self._park(command, str(error))
        except Exception as error:  # a fault of ours stops this command and no other
            log.exception("inbox.fault", context=self._context.name, error=str(error))
            self._park(command, f"it could not be read or offered ({type(error).__name__})")

    def _park(self, command: TopicCommand, fault: str) -> None:
        command.fault = fault
        self._wake.set()

    def _answered(self, command: TopicCommand, attempt: int, outcome: Outcome) -> None:
        counts = command.attempt == attempt and not _is_done(command)
        if isinstance(outcome, Refused) and isinstance(outcome.error, Unavailable):
            if counts:
                self._offer_again_from(command)
            return
        # An attempt that was given up may have its events in the log; then they are the outcome.
        if not counts and (_is_done(command) or not isinstance(outcome, Recorded)):
            return
        if isinstance(outcome, Refused) and isinstance(outcome.error, CommandFault):
            command.fault = outcome.error.detail
        command.outcome = outcome
        self._wake.set()

    def _offer_again_from(self, first: TopicCommand) -> None:
        """Nothing is lost and nothing overtakes while the partition cannot serve."""
        self._to_offer = deque(
            command
            for command in self._unfinished
            if command.record.offset >= first.record.offset and not _is_done(command)
        )
        for command in self._to_offer:
            command.attempt = 0
        self._offer_later()

    def _offer_later(self) -> None:
        if self._retry is None:
            loop = asyncio.get_running_loop()
            self._retry = loop.call_later(RETRY_MIN_S, self._offer_now)

    def _offer_now(self) -> None:
        self._retry = None
        if not self._task.done():
            self._offer_in_order()

    async def _finish_in_order(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            done = self._take_done()
            if done:
                await self._keep(done)
                self._processed(done[-1].record.offset + 1)
            if self._paused and not self._is_full(2):
                self._paused = False
                self._flow(True)

    def _take_done(self) -> list[TopicCommand]:
        done = []
        while self._unfinished and _is_done(self._unfinished[0]):
            done.append(self._unfinished.popleft())
            self._unfinished_bytes -= _bytes_of(done[-1].record)
        return done

    async def _keep(self, done: Sequence[TopicCommand]) -> None:
        delay = RETRY_MIN_S
        while True:
            try:
                await self._outcomes.finish(self._context.name, self._partition, done)
                return
            except Unavailable as error:
                log.warning("inbox.outcome_store", context=self._context.name, error=str(error))
            except Exception as error:  # one outcome that cannot be kept stops no other
                log.exception("inbox.outcome_fault", context=self._context.name, error=str(error))
                if len(done) > 1:
                    for command in done:
                        await self._keep([command])
                    return
                done[0].outcome = None
                done[0].fault = f"its outcome could not be kept ({type(error).__name__})"
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


def _bytes_of(record: StoredRecord) -> int:
    return len(record.key or b"") + len(record.value or b"")


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
