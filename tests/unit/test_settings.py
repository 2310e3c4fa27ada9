"""Settings: what is unknown or malformed is refused and named, and secrets stay secret."""

from __future__ import annotations

from pathlib import Path

import pytest

from tidelog.errors import ConfigurationError
from tidelog.http.server import serve
from tidelog.settings import PREFIX, Settings, load_settings, redacted

PAGE = Path(__file__).parent.parent.parent / "docs" / "reference" / "settings.md"


def test_the_page_names_every_setting_and_its_default() -> None:
    rows = {
        cells[1].strip("` "): cells[2].strip()
        for line in PAGE.read_text().splitlines()
        if line.startswith(f"| `{PREFIX}") and (cells := line.split("|"))
    }
    defaults = {
        PREFIX + name.upper(): str(field.default) or "empty"
        for name, field in Settings.model_fields.items()
    }
    assert rows == defaults


def test_an_unknown_key_is_refused_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDELOG_PARTITONS", "4")
    with pytest.raises(ConfigurationError, match="TIDELOG_PARTITONS is not a setting"):
        load_settings()


def test_a_service_that_cannot_start_says_why_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TIDELOG_PARTITONS", "4")
    assert serve("shop", lambda _: pytest.fail("it is put together all the same")) == 1
    told = capsys.readouterr().err
    assert told.startswith("shop: TIDELOG_PARTITONS is not a setting")
    assert told.count("\n") == 1


def test_a_value_of_the_wrong_type_is_refused_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDELOG_PARTITIONS", "many")
    with pytest.raises(ConfigurationError, match="TIDELOG_PARTITIONS"):
        load_settings()


def test_a_refused_value_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDELOG_POSTGRES_SCHEMA", "s3cret; drop")
    with pytest.raises(ConfigurationError) as refused:
        load_settings()
    assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize("url", ["postgresql://me:s3cret@host/db", "http://me:s3cret@host:80/"])
def test_a_logged_url_holds_no_password(url: str) -> None:
    assert "s3cret" not in redacted(url)
    assert "me:***@host" in redacted(url)
