"""`GET /problems/<name>`: what a problem means, and what to do about it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from html import escape
from http import HTTPStatus

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from tidelog.errors import Rejected, TidelogError, Unknown
from tidelog.http.problems import title_of

_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>body{{font:16px/1.5 system-ui,sans-serif;max-width:42rem;margin:3rem auto;padding:0 1rem}}
code{{background:#8882;padding:.1em .3em}}</style>
<h1>{title}</h1>
{body}
</html>
"""


def problem_pages(problems: Mapping[str, type[TidelogError]]) -> list[Route]:
    """The routes that explain the problems."""
    pages = {slug: _page(slug, error) for slug, error in problems.items()}
    index = _index(problems)

    async def read_index(_: Request) -> Response:
        return HTMLResponse(index)

    async def read_page(request: Request) -> Response:
        page = pages.get(request.path_params["name"])
        if page is None:
            raise Unknown("There is no problem of that name; /problems lists them.")
        return HTMLResponse(page)

    return [Route("/problems", read_index), Route("/problems/{name}", read_page)]


def _page(slug: str, error: type[TidelogError]) -> str:
    paragraphs = inspect.cleandoc(error.__doc__ or slug).split("\n\n")
    facts = [
        (
            f"<p><code>/problems/{escape(slug)}</code>, "
            f"HTTP {error.status} {HTTPStatus(error.status).phrase}</p>"
        ),
        *(f"<p>{escape(' '.join(paragraph.split()))}</p>" for paragraph in paragraphs),
        f"<p>{_advice(error)}</p>",
        '<p><a href="/problems">All problems</a></p>',
    ]
    return _PAGE.format(title=escape(title_of(error)), body="\n".join(facts))


def _advice(error: type[TidelogError]) -> str:
    if error.retry:
        return (
            "The same request may succeed later: wait as long as <code>Retry-After</code> "
            "says and send it again with the same <code>Idempotency-Key</code>."
        )
    if issubclass(error, Rejected):
        return (
            "This is a rule of the domain. The same command is refused again as long as "
            "the aggregate is as it is. Nothing was recorded."
        )
    if error.status == 500:
        return "This is a fault on our side; the trace id of the answer finds it in the log."
    return "The same request is refused again: change it first. Nothing was recorded."


def _index(problems: Mapping[str, type[TidelogError]]) -> str:
    lines = [
        f'<li><a href="/problems/{escape(slug)}">{escape(title_of(error))}</a> '
        f"({error.status})</li>"
        for slug, error in sorted(problems.items())
    ]
    return _PAGE.format(title="Problems", body="<ul>\n" + "\n".join(lines) + "\n</ul>")
