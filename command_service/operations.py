"""Decisions of people about events that are parked: one event, one decision, for good.

Every fold of the log folds the decisions with it. So a decision that was made stands: whoever
would decide otherwise mends the projection and declares a new version, which no decision names.
"""

from __future__ import annotations

import msgspec

from schemas import CONTEXTS
from schemas.operations import OPERATIONS, DecideParked, OperatorDecided
from tidelog import Aggregate, Context, Rejected, State, replace
from tidelog.errors import Invalid
from tidelog.parking import event_type, read_replacement, target_of
from tidelog.position import parse_position

DECIDED_CONTEXTS: tuple[Context, ...] = tuple(each for each in CONTEXTS if each is not OPERATIONS)
"""The contexts whose events may be decided on: all but that of the decisions themselves."""


class ParkedTarget(State):
    """What the rule needs: the decision, once it is made."""

    decided: OperatorDecided | None = None


class DecisionAlreadyMade(Rejected):
    """It was decided otherwise before, and a decision that was made stands."""


class DecisionNamesAnotherTarget(Rejected):
    """The target of a decision reads projection~version~context~partition~sequence."""


class ReplacementDoesNotFit(Rejected):
    """An edit gives the data of a whole event of the type that it names; a discard gives none."""


class RetryNamesNoInstance(Rejected):
    """A retry is of the instance of a saga, or of an effect's work, which its key names."""


class DecisionNamesNoInstance(Rejected):
    """A skip or a compensate is of the instance of a saga, which its key names."""


class SkipNamesNoStep(Rejected):
    """A skip names the step that is taken as done, and no other decision names one."""


def decide(command: DecideParked, state: ParkedTarget) -> list[OperatorDecided]:
    """The events that the command causes."""
    decided = OperatorDecided(**msgspec.structs.asdict(command))
    if state.decided is not None:
        if _same(state.decided, decided):
            return []
        raise DecisionAlreadyMade(command.target)
    if command.kind == "projection":
        _check_target(command)
    _check_instance(command)
    _check_replacement(command)
    return [decided]


def evolve(state: ParkedTarget, event: OperatorDecided) -> ParkedTarget:
    """The target after the event."""
    return replace(state, decided=event)


operations = Aggregate(
    name="parked_target", context=OPERATIONS, initial=ParkedTarget(), decide=decide, evolve=evolve
)


def _same(made: OperatorDecided, again: OperatorDecided) -> bool:
    """Whether both make the same of the event, whoever decided and why."""
    return made == replace(again, reason=made.reason, operator=made.operator)


def _check_target(command: DecideParked) -> None:
    position = parse_position(command.position)
    if command.target != target_of(command.projection, command.version, position):
        raise DecisionNamesAnotherTarget(command.target)


def _check_instance(command: DecideParked) -> None:
    """Raise where the decision is about an instance, and does not name it or its step."""
    decision, named = command.decision, command.key is not None
    if decision == "retry" and not (named and command.kind in ("saga", "effect")):
        raise RetryNamesNoInstance(command.target)
    if decision in ("skip", "compensate") and not (named and command.kind == "saga"):
        raise DecisionNamesNoInstance(command.target)
    if (decision == "skip") != (command.step is not None):
        raise SkipNamesNoStep(command.target)


def _check_replacement(command: DecideParked) -> None:
    """Raise ReplacementDoesNotFit unless the replacement is what the decision needs."""
    text, name = command.replacement, command.event_type
    if (text is not None) != (command.decision == "edit"):
        raise ReplacementDoesNotFit(command.target)
    if text is None or command.kind != "projection":
        return
    context = parse_position(command.position).context
    kind = event_type(DECIDED_CONTEXTS, context, name or "")
    if kind is None:
        raise ReplacementDoesNotFit(command.target)
    try:
        read_replacement(text, kind)
    except Invalid as error:
        raise ReplacementDoesNotFit(command.target) from error
