"""Envelopes and outcomes on the wire between instances, both ways."""

from __future__ import annotations

from collections.abc import Mapping

from tidelog.engine.command import Envelope, Outcome, Recorded, Refused, Unchanged
from tidelog.engine.ports import MessageCodec
from tidelog.errors import CodecError, CommandFault, TidelogError
from tidelog.grpc import peers_pb2
from tidelog.grpc.errors import error_of, refusal_of
from tidelog.message import Command


def forwarded_command(
    context: str, envelope: Envelope, codec: MessageCodec
) -> peers_pb2.ForwardedCommand:
    """The command with all that travels beside it; its content as in the topic of commands."""
    return peers_pb2.ForwardedCommand(
        context=context,
        key=envelope.key,
        command_id=envelope.command_id,
        command_hash=envelope.command_hash,
        command=codec.encode(envelope.command),
        correlation_id=envelope.correlation_id,
        traceparent=envelope.traceparent,
        expected_version=envelope.expected_version,
    )


def envelope_of(request: peers_pb2.ForwardedCommand, codec: MessageCodec) -> Envelope:
    """The command that was forwarded. Raises CodecError where its content is no command."""
    command = codec.decode(request.command)
    if not isinstance(command, Command):
        raise CodecError(f"{type(command).__name__} is no command")
    asks = request.HasField("expected_version")
    return Envelope(
        command_id=request.command_id,
        command_hash=request.command_hash,
        key=request.key,
        command=command,
        correlation_id=request.correlation_id,
        traceparent=request.traceparent,
        expected_version=request.expected_version if asks else None,
    )


def outcome_message(outcome: Outcome) -> peers_pb2.Outcome:
    """What became of a command."""
    match outcome:
        case Recorded(version=version, events=events, replayed=replayed):
            recorded = peers_pb2.Recorded(
                version=version,
                events=[
                    peers_pb2.RecordedEvent(type=type_, sequence=sequence)
                    for type_, sequence in events
                ],
                replayed=replayed,
            )
            return peers_pb2.Outcome(recorded=recorded)
        case Unchanged(version=version, sequence=sequence):
            unchanged = peers_pb2.Unchanged(version=version, sequence=sequence)
            return peers_pb2.Outcome(unchanged=unchanged)
        case Refused(error):
            return peers_pb2.Outcome(refusal=refusal_of(error))


def outcome_of(message: peers_pb2.Outcome, known: Mapping[str, type[TidelogError]]) -> Outcome:
    """What the owner says became of it."""
    match message.WhichOneof("outcome"):
        case "recorded":
            recorded = message.recorded
            return Recorded(
                version=recorded.version,
                events=tuple((event.type, event.sequence) for event in recorded.events),
                replayed=recorded.replayed,
            )
        case "unchanged":
            unchanged = message.unchanged
            return Unchanged(version=unchanged.version, sequence=unchanged.sequence)
        case "refusal":
            return Refused(error_of(message.refusal, known))
        case _:
            return Refused(CommandFault("The owner's answer says nothing that is known here."))
