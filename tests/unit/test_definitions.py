"""Given the name of a list of projections, when it is loaded, then these projections or why not."""

from __future__ import annotations

import pytest

from projectors import PROJECTIONS
from tidelog.definitions import load_projections, projection_named
from tidelog.errors import ConfigurationError, Unknown


def test_the_list_is_found_by_its_name() -> None:
    assert load_projections("projectors:PROJECTIONS") is PROJECTIONS


@pytest.mark.parametrize(
    "spec",
    ["", "projectors", "projectors:NOTHING", "no_such_module:X", "projectors:__doc__"],
)
def test_what_names_no_list_is_refused_and_says_the_form(spec: str) -> None:
    with pytest.raises(ConfigurationError, match="module:NAME"):
        load_projections(spec)


def test_an_unknown_name_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(Unknown, match="order_summary"):
        projection_named(PROJECTIONS, "nothing")
