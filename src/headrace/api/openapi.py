"""The OpenAPI document, and the page that shows it without fetching anything from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from headrace.api.schemas.body import Body
from headrace.api.schemas.chat import ChatBody
from headrace.api.schemas.completion import CompletionBody
from headrace.api.schemas.tokens import DetokenizeBody, TokenizeBody

BODIES: tuple[type[Body], ...] = (CompletionBody, ChatBody, TokenizeBody, DetokenizeBody)
REFERENCE = "#/components/schemas/{model}"
DESCRIPTION = (
    "An OpenAI-compatible API. Unknown and unsupported fields are refused with status 400."
)

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
  color: #1a1a1a; background: #fff }
code { font-size: 90% } h2 { margin-top: 2.5rem } h2 b { font-weight: 600; color: #06c }
table { border-collapse: collapse; width: 100% } th, td { text-align: left; vertical-align: top;
  padding: .3rem .6rem .3rem 0; border-bottom: 1px solid #ddd }
@media (prefers-color-scheme: dark) { body { color: #eee; background: #16181b }
  th, td { border-color: #444 } h2 b { color: #6bf } a { color: #6bf } }
"""


def takes(
    body: type[Body], headers: Mapping[str, tuple[dict[str, Any], str]] | None = None
) -> dict[str, Any]:
    """Route options that document its body; routes read it themselves, within a size limit.

    ``headers`` are the schema and the meaning of each header that it looks at.
    """
    schema = {"$ref": REFERENCE.format(model=body.__name__)}
    content = {"application/json": {"schema": schema}}
    extra: dict[str, Any] = {"requestBody": {"required": True, "content": content}}
    if headers:
        extra["parameters"] = [
            {"name": name, "in": "header", "schema": schema, "description": meaning}
            for name, (schema, meaning) in headers.items()
        ]
    return {"openapi_extra": extra}


def document(app: FastAPI, version: str) -> dict[str, Any]:
    """The OpenAPI document of the app's routes."""
    made = get_openapi(
        title="Headrace", version=version, description=DESCRIPTION, routes=app.routes
    )
    _, definitions = models_json_schema(
        [(body, "validation") for body in BODIES], ref_template=REFERENCE
    )
    components = made.setdefault("components", {})
    components["schemas"] = {**components.get("schemas", {}), **definitions["$defs"]}
    components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    made["security"] = [{"key": []}, {}]
    return made


def page(made: dict[str, Any]) -> str:
    """An HTML page of an OpenAPI document, complete in itself."""
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8>",
        "<meta name=viewport content='width=device-width'>",
        f"<title>Headrace API</title><style>{STYLE}</style><h1>Headrace API</h1>",
        f"<p>{escape(DESCRIPTION)} The same as a machine-readable document:",
        " <a href=/openapi.json>openapi.json</a>.</p>",
    ]
    schemas = made["components"]["schemas"]
    for path, methods in made["paths"].items():
        for method, route in methods.items():
            parts.append(f"<h2><b>{escape(method.upper())}</b> <code>{escape(path)}</code></h2>")
            parts.append(f"<p>{escape(route.get('summary', ''))}</p>")
            headers = [p for p in route.get("parameters", ()) if p["in"] == "header"]
            if headers:
                parts.append(_headers(headers))
            content = route.get("requestBody", {}).get("content", {})
            reference = content.get("application/json", {}).get("schema", {}).get("$ref")
            if reference is not None:
                parts.append(_fields(schemas[_name(reference)]))
    parts.append("<h1>Objects</h1>")
    bodies = {body.__name__ for body in BODIES}
    for name, schema in schemas.items():
        if name not in bodies and "properties" in schema:
            parts.append(f"<h2 id='{escape(name)}'>{escape(name)}</h2>{_fields(schema)}")
    return "".join(parts)


def _fields(schema: dict[str, Any]) -> str:
    required = schema.get("required", ())
    rows = [
        f"<tr><td><code>{escape(name)}</code><td>{_type(field)}"
        f"<td>{'required. ' if name in required else ''}{escape(field.get('description', ''))}"
        for name, field in schema.get("properties", {}).items()
    ]
    return f"<table><tr><th>Field<th>Type<th>Meaning{''.join(rows)}</table>"


def _headers(parameters: list[dict[str, Any]]) -> str:
    rows = [
        f"<tr><td><code>{escape(p['name'])}</code><td>{_type(p['schema'])}"
        f"<td>{escape(p['description'])}"
        for p in parameters
    ]
    return f"<table><tr><th>Header<th>Type<th>Meaning{''.join(rows)}</table>"


def _type(schema: dict[str, Any]) -> str:
    """A short name for a field's type, linked where it is an object."""
    if "$ref" in schema:
        name = escape(_name(schema["$ref"]))
        return f"<a href='#{name}'>{name}</a>"
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_type(choice) for choice in schema["anyOf"]))
    if "enum" in schema:
        return escape(", ".join(str(value) for value in schema["enum"]))
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    return escape(str(schema.get("type", schema.get("const", "any"))))


def _name(reference: str) -> str:
    return reference.rsplit("/", 1)[1]
