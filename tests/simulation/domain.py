"""The aggregate of the simulation: an account whose refusals say which state they judged by."""

from __future__ import annotations

from typing import Literal, assert_never

from tidelog.aggregate import Aggregate
from tidelog.errors import CodecError, Rejected
from tidelog.memory.codec import MemoryCodec
from tidelog.message import Command, Context, Event, Id, Message, State, replace

RECORD_BYTES_MAX = 2_048

Harm = Literal["decide", "encode", "size", "broker"]


class Add(Command):
    account_id: Id
    amount: int
    parts: int


class Take(Command):
    account_id: Id
    amount: int


class Settle(Command):
    account_id: Id
    balance: int


class Poison(Command):
    account_id: Id
    harm: Harm


class Added(Event):
    account_id: Id
    amount: int


class Taken(Event):
    account_id: Id
    amount: int


class Settled(Event):
    account_id: Id
    balance: int


class Poisoned(Event):
    account_id: Id
    harm: Harm
    filler: str


AccountCommand = Add | Take | Settle | Poison
AccountEvent = Added | Taken | Settled | Poisoned


class Account(State):
    version: int = 0
    balance: int = 0


class Overdrawn(Rejected):
    """An account holds what was added to it and no more."""


def decide(command: AccountCommand, state: Account) -> list[AccountEvent]:
    match command:
        case Add(account_id=account_id, amount=amount, parts=parts):
            return [Added(account_id=account_id, amount=amount) for _ in range(parts)]
        case Take(account_id=account_id, amount=amount):
            if amount > state.balance:
                raise Overdrawn(str(state.version))
            return [Taken(account_id=account_id, amount=amount)]
        case Settle(account_id=account_id, balance=balance):
            if balance == state.balance:
                return []
            return [Settled(account_id=account_id, balance=balance)]
        case Poison(account_id=account_id, harm=harm):
            if harm == "decide":
                raise ZeroDivisionError("a fault in the definition")
            filler = "x" * (RECORD_BYTES_MAX if harm == "size" else 1)
            return [Poisoned(account_id=account_id, harm=harm, filler=filler)]
    assert_never(command)


def evolve(state: Account, event: AccountEvent) -> Account:
    version = state.version + 1
    match event:
        case Added(amount=amount):
            return replace(state, version=version, balance=state.balance + amount)
        case Taken(amount=amount):
            return replace(state, version=version, balance=state.balance - amount)
        case Settled(balance=balance):
            return replace(state, version=version, balance=balance)
        case Poisoned():
            return replace(state, version=version)
    assert_never(event)


accounts = Context(name="accounts", key="account_id", commands=AccountCommand, events=AccountEvent)
account = Aggregate(
    name="account", context=accounts, initial=Account(), decide=decide, evolve=evolve
)


class AccountCodec(MemoryCodec):
    """Refuses the event that cannot be encoded."""

    def encode(self, message: Message) -> bytes:
        """The stored form; CodecError for the poison."""
        if isinstance(message, Poisoned) and message.harm == "encode":
            raise CodecError("this event does not fit its type")
        return super().encode(message)


codec = AccountCodec(accounts.event_types)


def refused_by_broker(value: bytes) -> bool:
    """Whether the broker refuses any batch that holds this record."""
    return b'"harm":"broker"' in value
