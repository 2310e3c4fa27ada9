"""`GET /docs`: the OpenAPI document as one page that needs nothing from elsewhere."""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape
from typing import Any

_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
body{{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}}
code,pre{{background:#8882;padding:.1em .3em}} pre{{overflow:auto;padding:.6em}}
summary{{cursor:pointer}} .method{{font-weight:700}}
</style>
<h1>{title}</h1>
<p>{version}. The same as a document: <a href="/openapi.json">/openapi.json</a>.
What a problem means: <a href="/problems">/problems</a>.</p>
{operations}
</html>
"""


def docs_page(document: Mapping[str, Any]) -> str:
    """The page of an OpenAPI document."""
    operations = [
        _operation(path, method, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    info = document["info"]
    return _PAGE.format(
        title=escape(info["title"]),
        version=escape(info["version"]),
        operations="\n".join(operations),
    )


def _operation(path: str, method: str, operation: Mapping[str, Any]) -> str:
    parts = [
        f'<details><summary><span class="method">{escape(method.upper())}</span>',
        f"<code>{escape(path)}</code> {escape(operation.get('summary') or '')}</summary>",
        f"<p>{escape(operation.get('description') or '')}</p>",
        *_body(operation),
        "<ul>",
        *(
            f"<li>{escape(status)} {_described(answer)}</li>"
            for status, answer in sorted(operation.get("responses", {}).items())
        ),
        "</ul></details>",
    ]
    return "\n".join(parts)


def _body(operation: Mapping[str, Any]) -> list[str]:
    content = operation.get("requestBody", {}).get("content", {})
    lines = []
    for media_type, body in content.items():
        example = body.get("example", {})
        text = example if isinstance(example, str) else json.dumps(example, indent=2)
        schema = json.dumps(body.get("schema", {}), indent=2)
        lines.append(
            f"<p>{escape(media_type)}</p><pre>{escape(text)}</pre>"
            f"<details><summary>Schema</summary><pre>{escape(schema)}</pre></details>"
        )
    return lines


def _described(answer: Mapping[str, Any]) -> str:
    reference = answer.get("$ref", "")
    if reference:
        return escape(reference.rsplit("/", 1)[1])
    content = answer.get("content", {}).get("application/problem+json", {})
    rules = ", ".join(
        f'<a href="/problems/{escape(slug)}">{escape(slug)}</a>'
        for slug in content.get("examples", {})
    )
    return f"{escape(answer.get('description', ''))} {rules}"
