"""What a person decides about an instance: try it again, skip a step, or turn the whole back.

Pure. The decision is recorded with the instance, done or refused, and carried out once: whoever
drives it holds the instance's row locked, so a decision and an event never cross.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from tidelog.engine.reacting import DecisionRecord, Instance, Reacted, Reactor, Turn
from tidelog.message import State
from tidelog.saga import ENDS, current_step

DECISIONS = ("retry", "skip", "compensate")
"""What may be decided about an instance of a saga."""

TURN_BACK = "turn-back"
"""The name of the step that a wish to undo the whole asks for."""


def decide(
    reactor: Reactor, instance: Instance[State], decided: DecisionRecord, parked: str = ""
) -> Reacted:
    """Carry the decision out, or record why it is refused; a repetition changes nothing.

    `parked` says why no event of the instance can be heard, where that is so.
    """
    if any(each.target == decided.target for each in instance.decisions):
        return Reacted(instance, ())
    if parked:
        return _refused(reactor, instance, decided, parked)
    turn = Turn(reactor, instance, decided.at, decided.target)
    turn.note(decided)
    try:
        refusal = _RULES[decided.decision](reactor, turn, instance, decided)
    except Exception as error:  # a rule of the saga does not expect this: it is told, and stays
        refusal = f"it cannot go on from there: {type(error).__name__}: {error}"
    return _refused(reactor, instance, decided, refusal) if refusal else turn.settled()


def _refused(
    reactor: Reactor, instance: Instance[State], decided: DecisionRecord, why: str
) -> Reacted:
    """The instance as it was, with the decision that was not carried out."""
    turn = Turn(reactor, instance, decided.at, decided.target)
    turn.note(msgspec.structs.replace(decided, refused=why))
    return turn.settled()


def _retry(_: Reactor, turn: Turn, instance: Instance[State], decided: DecisionRecord) -> str:
    del instance, decided
    turn.start_afresh()
    return ""


def _skip(reactor: Reactor, turn: Turn, instance: Instance[State], decided: DecisionRecord) -> str:
    """Hear the answers that the step waits for, as the person gives them."""
    saga, step, skips = reactor.saga, decided.step, reactor.skips()
    if step not in skips:
        return f"{saga.name} has no step {step!r}; it has {', '.join(skips)}"
    if turn.phase in ENDS:
        return _has_ended(turn)
    give = skips[step]
    if give is None:
        return f"{step} cannot be skipped: only its own aggregate can answer it"
    undoes = step in {each.step for each in reactor.compensations}
    if undoes != (turn.phase == "undoing"):
        return f"{step} is not waited for: {_standing(turn)}"
    current = current_step(saga.order, turn.state)
    if current is not None and not undoes and current.name != step:
        return f"{step} is not waited for: {current.name} is"
    answers = give(turn.state, decided.at.date())
    if not answers:
        return "" if _was_skipped(instance, step) else f"{step} waits for no answer"
    turn.skip(step, type(answers[-1]).__name__, decided)
    for number, event in enumerate(answers):
        turn.hear(event, f"{decided.target}/{number}")
    return ""


def _compensate(
    reactor: Reactor, turn: Turn, instance: Instance[State], decided: DecisionRecord
) -> str:
    """Ask for the way back; what is on it already, and stuck, is tried again."""
    saga = reactor.saga
    if turn.phase in ENDS:
        return _has_ended(turn)
    if turn.phase == "undoing":
        if instance.stuck:
            turn.start_afresh()
        return ""
    commands = saga.turn_back(turn.state, decided.reason) if saga.turn_back else None
    if commands is None:
        return f"{saga.name} cannot be turned back any more"
    turn.ask_back(TURN_BACK, commands)
    return ""


def _has_ended(turn: Turn) -> str:
    return f"it has ended: {turn.phase}"


def _standing(turn: Turn) -> str:
    return "the whole is being undone" if turn.phase == "undoing" else "nothing is being undone"


def _was_skipped(instance: Instance[State], step: str) -> bool:
    """Whether a person has skipped this step before."""
    return any(
        each.decision == "skip" and each.step == step and not each.refused
        for each in instance.decisions
    )


Rule = Callable[[Reactor, Turn, Instance[State], DecisionRecord], str]

_RULES: Mapping[str, Rule] = {"retry": _retry, "skip": _skip, "compensate": _compensate}
