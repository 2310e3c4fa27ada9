"""The HTTP edge: the command API, problems, health and metrics, and how a service runs."""

from tidelog.http.command_api import CommandApi
from tidelog.http.errors import Forbidden, Unauthorized
from tidelog.http.ports import CallerOf, OperationStore, ReadinessCheck, named_caller
from tidelog.http.problems import exception_handlers, problem_of, problem_response
from tidelog.http.server import run
from tidelog.http.service import Service, build_service

__all__ = [
    "CallerOf",
    "CommandApi",
    "Forbidden",
    "OperationStore",
    "ReadinessCheck",
    "Service",
    "Unauthorized",
    "build_service",
    "exception_handlers",
    "named_caller",
    "problem_of",
    "problem_response",
    "run",
]
