"""Decisions about parked events: made once, for one target, in a form that can be folded."""

from __future__ import annotations

import msgspec
import pytest

from command_service.operations import (
    DecisionAlreadyMade,
    DecisionNamesAnotherTarget,
    DecisionNamesNoInstance,
    ReplacementDoesNotFit,
    RetryNamesNoInstance,
    SkipNamesNoStep,
    operations,
)
from schemas.operations import DecideParked, OperatorDecided
from schemas.shipping import ShipmentArranged
from tidelog import replace
from tidelog.parking import read_replacement
from tidelog.testing import given

TARGET = "shipments~2~shipping~3~1042"
REPLACEMENT = '{"order_id":"o-1","carrier":"Swift","tracking":"T-1","late":false}'

discard = DecideParked(
    target=TARGET,
    kind="projection",
    projection="shipments",
    version=2,
    position="shipping:3:1042",
    decision="discard",
    reason="sent twice",
    operator="ada",
)
edit = replace(discard, decision="edit", event_type="ShipmentArranged", replacement=REPLACEMENT)


def made(command: DecideParked) -> OperatorDecided:
    return OperatorDecided(**msgspec.structs.asdict(command))


@pytest.mark.parametrize("command", [discard, edit])
def test_a_decision_is_recorded_with_its_reason_and_operator(command: DecideParked) -> None:
    given(operations).when(command).then(made(command))


@pytest.mark.parametrize("command", [discard, edit])
def test_deciding_the_same_again_changes_nothing_whoever_does_and_why(
    command: DecideParked,
) -> None:
    given(operations, made(command)).when(command).then()
    other = replace(command, operator="grace", reason="as Ada said")
    given(operations, made(command)).when(other).then()


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (discard, edit),
        (edit, discard),
        (edit, replace(edit, replacement=REPLACEMENT.replace("T-1", "T-2"))),
    ],
)
def test_a_decision_once_made_stands(first: DecideParked, second: DecideParked) -> None:
    given(operations, made(first)).when(second).rejected(DecisionAlreadyMade)


@pytest.mark.parametrize(
    "other",
    [
        replace(discard, projection="parcels"),
        replace(discard, version=1),
        replace(discard, position="shipping:3:1043"),
        replace(discard, position="orders:3:1042"),
    ],
)
def test_the_target_of_a_projection_is_the_event_that_is_named(other: DecideParked) -> None:
    given(operations).when(other).rejected(DecisionNamesAnotherTarget)


@pytest.mark.parametrize(
    "command",
    [
        replace(discard, replacement=REPLACEMENT),
        replace(edit, replacement=None),
        replace(edit, event_type=None),
        replace(edit, event_type="OrderPlaced"),
        replace(edit, replacement="{}"),
        replace(edit, replacement="not JSON"),
        replace(edit, replacement=REPLACEMENT.replace('"T-1"', "7")),
        replace(edit, replacement=REPLACEMENT.replace("T-1", "\\u0000")),
        replace(edit, replacement=REPLACEMENT[:-1] + ',"weight":1}'),
    ],
)
def test_an_edit_gives_a_whole_event_of_its_type_and_a_discard_gives_none(
    command: DecideParked,
) -> None:
    given(operations).when(command).rejected(ReplacementDoesNotFit)


def test_a_saga_may_be_decided_on_under_an_id_of_its_own() -> None:
    command = replace(discard, target="fulfilment~o-1", kind="saga", projection="fulfilment")
    given(operations).when(command).then(made(command))


def test_a_retry_is_of_an_instance_of_a_saga() -> None:
    retry = replace(
        discard,
        target="saga~fulfilment~1",
        kind="saga",
        projection="fulfilment",
        decision="retry",
        key="o-1",
    )
    given(operations).when(retry).then(made(retry))
    given(operations, made(retry)).when(retry).then()
    given(operations).when(replace(retry, key=None)).rejected(RetryNamesNoInstance)
    given(operations).when(replace(discard, decision="retry", key="o-1")).rejected(
        RetryNamesNoInstance
    )


def test_work_of_an_effect_may_be_retried() -> None:
    retry = replace(
        discard,
        target="effect~pay-back~1",
        kind="effect",
        projection="pay-back",
        decision="retry",
        key="o-1",
    )
    given(operations).when(retry).then(made(retry))
    given(operations).when(replace(retry, key=None)).rejected(RetryNamesNoInstance)


def test_a_skip_names_an_instance_and_its_step_and_a_compensate_an_instance() -> None:
    compensate = replace(
        discard,
        target="saga~fulfilment~2",
        kind="saga",
        projection="fulfilment",
        decision="compensate",
        key="o-1",
    )
    skip = replace(compensate, decision="skip", step="void-payment")
    for command in (skip, compensate):
        given(operations).when(command).then(made(command))
        given(operations, made(command)).when(command).then()
        given(operations).when(replace(command, key=None)).rejected(DecisionNamesNoInstance)
        given(operations).when(replace(command, kind="effect")).rejected(DecisionNamesNoInstance)
    given(operations).when(replace(skip, step=None)).rejected(SkipNamesNoStep)
    given(operations).when(replace(compensate, step="void-payment")).rejected(SkipNamesNoStep)
    given(operations, made(skip)).when(replace(skip, step="undone")).rejected(DecisionAlreadyMade)


def test_the_replacement_is_read_back_as_the_event_that_it_is() -> None:
    event = read_replacement(REPLACEMENT, ShipmentArranged)
    assert event == ShipmentArranged(order_id="o-1", carrier="Swift", tracking="T-1", late=False)
