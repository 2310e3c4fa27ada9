"""The gRPC services of an instance: commands from clients, and commands from other instances."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, NoReturn

import grpc
import grpc.aio
import msgspec

from tidelog.engine.command import Envelope, Outcome, Refused
from tidelog.engine.ports import MessageCodec
from tidelog.errors import CommandFault, Invalid, TidelogError
from tidelog.grpc import commands_pb2, peers_pb2
from tidelog.grpc.errors import PROBLEM_KEY, code_of, problem_message
from tidelog.grpc.messages import envelope_of, outcome_message
from tidelog.http.command_api import CommandApi, Exchange, check_id
from tidelog.http.errors import InternalError
from tidelog.http.headers import (
    continued_trace,
    correlation_id,
    expected_version,
    idempotency_key,
)
from tidelog.http.ndjson import LINES_IN_FLIGHT_MAX, LINES_MAX
from tidelog.ids import uuid7
from tidelog.logging import get_logger

COMMAND_SERVICE: Final = "tidelog.commands.v1.CommandService"
PEER_SERVICE: Final = "tidelog.peers.v1.PeerService"

Submit = Callable[[str, Envelope], Awaitable[Outcome]]
Headers = dict[bytes, bytes]
_log = get_logger("tidelog.grpc")


class CommandHandlers:
    """`CommandService`: it translates, as the HTTP side does; the door decides."""

    def __init__(self, api: CommandApi) -> None:
        self._api = api

    def handlers(self) -> grpc.GenericRpcHandler:
        """The service, to be added to a server."""
        return grpc.method_handlers_generic_handler(
            COMMAND_SERVICE,
            {
                "Execute": grpc.unary_unary_rpc_method_handler(
                    self.execute,
                    request_deserializer=commands_pb2.Command.FromString,
                    response_serializer=commands_pb2.Result.SerializeToString,
                ),
                "ExecuteBatch": grpc.unary_unary_rpc_method_handler(
                    self.execute_batch,
                    request_deserializer=commands_pb2.Batch.FromString,
                    response_serializer=commands_pb2.Answers.SerializeToString,
                ),
            },
        )

    async def execute(self, command: commands_pb2.Command, call: Any) -> commands_pb2.Result:
        """One command; a refusal is a status, with its problem beside it."""
        exchange = _exchange(command)
        try:
            return await self._carry_out(command, exchange, _headers(call))
        except TidelogError as error:
            await _abort(call, error, exchange)
        except Exception as error:
            _log.error("a call failed", exc_info=error)
            await _abort(call, InternalError(), exchange)

    async def execute_batch(self, batch: commands_pb2.Batch, call: Any) -> commands_pb2.Answers:
        """Many commands, each alone; those of one aggregate in their order."""
        if len(batch.commands) > LINES_MAX:
            error = Invalid(f"A batch may have at most {LINES_MAX} commands.", "/commands")
            await _abort(call, error, Exchange("/commands"))
        headers = _headers(call)
        answers: dict[int, commands_pb2.Answer] = {}
        slots = asyncio.Semaphore(LINES_IN_FLIGHT_MAX)

        async def run(lane: Sequence[int]) -> None:
            async with slots:
                for index in lane:
                    answers[index] = await self._answer(batch.commands[index], headers)

        async with asyncio.TaskGroup() as group:
            for lane in _lanes(batch.commands):
                group.create_task(run(lane))
        return commands_pb2.Answers(answers=[answers[i] for i in range(len(batch.commands))])

    async def _answer(self, command: commands_pb2.Command, headers: Headers) -> commands_pb2.Answer:
        exchange = _exchange(command)
        try:
            result = await self._carry_out(command, exchange, headers)
        except TidelogError as error:
            return commands_pb2.Answer(problem=_problem(error, exchange))
        except Exception as error:
            _log.error("a command of a batch failed", exc_info=error)
            return commands_pb2.Answer(problem=_problem(InternalError(), exchange))
        return commands_pb2.Answer(result=result)

    async def _carry_out(
        self, command: commands_pb2.Command, exchange: Exchange, headers: Headers
    ) -> commands_pb2.Result:
        given = headers.get(b"x-correlation-id")
        exchange.correlation_id = None if given is None else correlation_id(given)
        exchange.trace = continued_trace(headers.get(b"traceparent"))
        api = self._api
        route = api.named(command.command)
        check_id(command.id, "id")
        version = None
        if command.HasField("if_match"):
            version = expected_version(command.if_match.encode())
        api.check_precondition(version)
        key = uuid7()
        if command.HasField("idempotency_key"):
            key = idempotency_key(command.idempotency_key.encode())
        caller = api.caller(route, headers)
        message = route.reader.read(command.data, command.id)
        envelope = api.envelope(route, message, caller, command.id, key, version, exchange)
        answer = await api.submit(route, envelope)
        return _result(answer.body, key)


class PeerHandlers:
    """`PeerService`: commands that other instances have found to be ours. None is passed on."""

    def __init__(self, submit: Submit, codec: MessageCodec) -> None:
        self._submit = submit
        self._codec = codec

    def handlers(self) -> grpc.GenericRpcHandler:
        """The service, to be added to a server."""
        return grpc.method_handlers_generic_handler(
            PEER_SERVICE,
            {
                "Submit": grpc.unary_unary_rpc_method_handler(
                    self.submit,
                    request_deserializer=peers_pb2.ForwardedCommand.FromString,
                    response_serializer=peers_pb2.Outcome.SerializeToString,
                )
            },
        )

    async def submit(self, request: peers_pb2.ForwardedCommand, _: Any) -> peers_pb2.Outcome:
        """The outcome here; the caller's deadline cancels the wait, as a client's would."""
        try:
            envelope = envelope_of(request, self._codec)
            outcome = await self._submit(request.context, envelope)
        except TidelogError as error:
            outcome = Refused(error)
        except Exception as error:
            _log.error("a forwarded command failed", exc_info=error)
            outcome = Refused(CommandFault("The command could not be decided: a fault of ours."))
        return outcome_message(outcome)


def _exchange(command: commands_pb2.Command) -> Exchange:
    context, _, name = command.command.partition("/")
    return Exchange(f"/{context}/{command.id}/{name}")


def _headers(call: Any) -> Headers:
    return {
        key.encode(): value if isinstance(value, bytes) else value.encode()
        for key, value in call.invocation_metadata() or ()
    }


def _problem(error: TidelogError, exchange: Exchange) -> commands_pb2.Problem:
    if error.status == 500:
        _log.error("a command failed", trace_id=exchange.trace.trace_id, exc_info=error)
    return problem_message(error, exchange.path, exchange.trace.trace_id)


async def _abort(call: Any, error: TidelogError, exchange: Exchange) -> NoReturn:
    problem = _problem(error, exchange)
    metadata = ((PROBLEM_KEY, problem.SerializeToString()),)
    await call.abort(code_of(error), problem.detail, metadata)
    raise AssertionError("abort has raised")


def _lanes(commands: Sequence[commands_pb2.Command]) -> list[list[int]]:
    """The numbers of the commands, those of one aggregate together."""
    lanes: dict[tuple[str, str], list[int]] = {}
    for index, command in enumerate(commands):
        context = command.command.partition("/")[0]
        lanes.setdefault((context, command.id), []).append(index)
    return list(lanes.values())


def _result(body: bytes, key: str) -> commands_pb2.Result:
    found = msgspec.json.decode(body)
    return commands_pb2.Result(
        id=found["id"],
        version=found["version"],
        events=[commands_pb2.Event(**event) for event in found["events"]],
        token=found.get("token"),
        replayed=found["replayed"],
        idempotency_key=key,
    )
