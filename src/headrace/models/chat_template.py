"""ChatTemplate: messages to the text that the model was trained to continue."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, NoReturn

from headrace.nouns.errors import InvalidRequest, TemplateError

if TYPE_CHECKING:
    from jinja2 import Template
    from jinja2.sandbox import ImmutableSandboxedEnvironment

_MAX_DEPTH = 64  # of nested lists and objects in messages and tools


class ChatTemplate:
    """A model's own Jinja template, rendered in a sandbox.

    ``tool_source``, where the model has one, is the template used when tools are given.
    The environment is the one chat templates are written for (transformers' documentation of chat
    templates): trimmed blocks, loop controls, ``raise_exception``, ``strftime_now``, ``tojson``
    without HTML escapes, ``{% generation %}``. Templates come from the model only and are still
    not trusted: they see plain data and reach no attribute that begins with an underscore.
    """

    def __init__(
        self,
        source: str,
        bos_token: str = "",
        eos_token: str = "",
        tool_source: str | None = None,
    ) -> None:
        self.source = source
        self.tool_source = tool_source
        self._tokens = {"bos_token": bos_token, "eos_token": eos_token}

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        **extra: Any,
    ) -> str:
        """The prompt text. ``extra`` reaches the template as variables of these names.

        Raises TemplateError, naming the message at fault, when the template refuses the messages
        or fails on them; InvalidRequest when they are not plain JSON data.
        """
        plain = _plain(list(messages), "messages")
        variables = self._tokens | _plain(extra, "the template's variables")
        variables["add_generation_prompt"] = add_generation_prompt
        variables["tools"] = _plain(list(tools), "tools") if tools else None
        template = self._tool_template if tools and self.tool_source else self._template
        try:
            return template.render(messages=plain, **variables)
        # Templates are programs: they fail in any way a program can.
        except Exception as error:
            raise _refusal(template, plain, variables, error) from error

    @cached_property
    def supports_tools(self) -> bool:
        """True when the template looks at tool definitions at all."""
        from jinja2 import TemplateError as JinjaError
        from jinja2 import meta

        try:
            tree = _environment().parse(self.tool_source or self.source)
        except JinjaError:
            return False
        return "tools" in meta.find_undeclared_variables(tree)

    @cached_property
    def _template(self) -> Template:
        return _compile(self.source)

    @cached_property
    def _tool_template(self) -> Template:
        return _compile(self.tool_source or self.source)


def _compile(source: str) -> Template:
    from jinja2 import TemplateError as JinjaError

    try:
        return _environment().from_string(source)
    except (JinjaError, RecursionError) as error:
        raise TemplateError(
            f"the model's chat template cannot be used: {error}; use completions instead of chat",
            "messages",
        ) from error


def _environment() -> ImmutableSandboxedEnvironment:
    from jinja2 import nodes
    from jinja2.exceptions import SecurityError
    from jinja2.exceptions import TemplateError as JinjaError
    from jinja2.ext import Extension, LoopControlExtension
    from jinja2.parser import Parser
    from jinja2.sandbox import ImmutableSandboxedEnvironment
    from jinja2.utils import Namespace

    class Generation(Extension):
        """``{% generation %}`` marks the assistant's text for training; here it changes nothing."""

        tags = {"generation"}  # noqa: RUF012 (jinja2 reads it from the class)

        def parse(self, parser: Parser) -> nodes.Node:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body, lineno=line)

    class PlainNamespace(Namespace):
        """A namespace that keeps no name with an underscore, which would lead out of here."""

        def __init__(*args: Any, **values: Any) -> None:
            self, given = args[0], dict(*args[1:], **values)
            for name in given:
                PlainNamespace._check(name)
            Namespace.__init__(self, given)

        def __setitem__(self, name: str, value: Any) -> None:
            PlainNamespace._check(name)
            Namespace.__setitem__(self, name, value)

        @staticmethod
        def _check(name: object) -> None:
            if str(name).startswith("_"):
                raise SecurityError(f"namespace attribute {name!r} begins with an underscore")

    def new_dict(*args: Any, **values: Any) -> dict[Any, Any]:
        return dict(*args, **values)

    def raise_exception(message: object) -> NoReturn:
        raise JinjaError(str(message))

    def to_json(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
        known = {k: v for k, v in options.items() if k in ("indent", "separators", "sort_keys")}
        return json.dumps(value, ensure_ascii=ensure_ascii, **known)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[LoopControlExtension, Generation]
    )
    environment.filters["tojson"] = to_json
    environment.globals = {
        "range": environment.globals["range"],
        "dict": new_dict,
        "namespace": PlainNamespace,
        "raise_exception": raise_exception,
        "strftime_now": lambda form: datetime.now().astimezone().strftime(str(form)),
    }
    return environment


def _refusal(
    template: Template, messages: list[Any], variables: dict[str, Any], error: Exception
) -> TemplateError:
    """The error with the message at fault: the last of the shortest start that fails alike."""

    def fails_alike(count: int, **changed: Any) -> bool:
        try:
            template.render(messages=messages[:count], **(variables | changed))
        except Exception as other:  # whatever the template does
            return str(other) == str(error)
        return False

    reason = str(error) or type(error).__name__
    if variables["tools"] and not fails_alike(len(messages), tools=None):
        return TemplateError(f"the model's chat template refuses the tools: {reason}", "tools")
    low, high = 0, len(messages)
    while low + 1 < high:
        middle = (low + high) // 2
        low, high = (low, middle) if fails_alike(middle) else (middle, high)
    if not messages:
        return TemplateError(f"the model's chat template needs messages: {reason}", "messages")
    message = messages[high - 1]
    role = message.get("role") if isinstance(message, dict) else None
    return TemplateError(
        f"the model's chat template refuses messages[{high - 1}] (role {role!r}): {reason}",
        f"messages[{high - 1}]",
    )


def _plain(value: Any, where: str, depth: int = 0) -> Any:
    """A copy of plain JSON data, so that the template can neither change nor call anything."""
    if depth > _MAX_DEPTH:
        raise InvalidRequest(f"{where} is nested deeper than {_MAX_DEPTH} levels", "messages")
    if value is None or type(value) in (str, int, float, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, Mapping):
        return {str(k): _plain(v, f"{where}.{k}", depth + 1) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v, f"{where}[{i}]", depth + 1) for i, v in enumerate(value)]
    raise InvalidRequest(
        f"{where} is a {type(value).__name__}; use strings, numbers, booleans, null, lists and"
        " objects",
        "messages",
    )
