"""Chat templates: rendered as transformers does, in a sandbox, with errors that name a message."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from headrace.models.chat_template import ChatTemplate
from headrace.models.loader import ModelFiles
from headrace.nouns.errors import InvalidRequest, TemplateError

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content']"
    " + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

ALTERNATING = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate user/assistant/user/...') }}{% endif %}"
    "{{ message['content'] + eos_token }}{% endfor %}"
)

# The turns of newer templates: tools as JSON, namespaces, loop controls, macros, trimmed blocks.
TOOLS = """\
{%- macro show(tool) %}{{ tool | tojson(indent=2) }}{% endmacro %}
{%- if tools %}
    {{- 'Tools:\\n' }}
    {%- for tool in tools %}
        {{- show(tool) + '\\n' }}
    {%- endfor %}
{%- endif %}
{%- set ns = namespace(count=0) %}
{%- for message in messages %}
    {%- if message.role == 'skip' %}{% continue %}{% endif %}
    {%- set ns.count = ns.count + 1 %}
    {%- if message.tool_calls %}
        {{- message.tool_calls | tojson }}
    {%- endif %}
    {% generation %}{{ message.content | trim }}{% endgeneration %}

{% endfor %}
{{ ns.count }} {{ mood | default('plain') }} {{ 'é<&>' | tojson }}
"""

TOOL = {"type": "function", "function": {"name": "look_up", "parameters": {"é": "<&>"}}}
MESSAGES: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "  Héllo <b>&amp;</b> {{ 7 * 7 }}  "},
    {"role": "skip", "content": "no"},
    {"role": "assistant", "content": "", "tool_calls": [{"id": 1, "function": {"name": "f"}}]},
]


def in_transformers(template: str, messages: list[dict[str, Any]], **options: Any) -> str:
    from tokenizers import Tokenizer, models

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.BPE()), bos_token="<s>", eos_token="</s>"
    )
    text = tokenizer.apply_chat_template(
        messages, chat_template=template, tokenize=False, **options
    )
    assert isinstance(text, str)
    return text


@pytest.mark.parametrize("template", [CHATML, TOOLS])
@pytest.mark.parametrize("tools", [None, [TOOL, TOOL]])
@pytest.mark.parametrize("prompt", [True, False])
def test_text_is_that_of_transformers(
    template: str, tools: list[dict[str, Any]] | None, prompt: bool
) -> None:
    expected = in_transformers(
        template, MESSAGES, tools=tools, add_generation_prompt=prompt, mood="glad"
    )
    ours = ChatTemplate(template, "<s>", "</s>")
    assert ours.render(MESSAGES, tools, prompt, mood="glad") == expected


def test_special_tokens_reach_the_template() -> None:
    pair = MESSAGES[1], {"role": "assistant", "content": "y"}
    ours = ChatTemplate(ALTERNATING, "<s>", "</s>")
    assert ours.render(pair) == in_transformers(ALTERNATING, list(pair))


def test_default_model(default_model: ModelFiles) -> None:
    template = default_model.chat_template
    assert template is not None
    text = template.render([{"role": "user", "content": "Hi"}])
    assert text == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
        "<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
    assert not template.supports_tools


def test_text_of_messages_is_never_a_template() -> None:
    assert "49" not in ChatTemplate(CHATML).render(MESSAGES)


def test_tool_template() -> None:
    ours = ChatTemplate("plain", tool_source="with {{ tools[0].function.name }}")
    assert ours.render(MESSAGES) == "plain"
    assert ours.render(MESSAGES, []) == "plain"
    assert ours.render(MESSAGES, [TOOL]) == "with look_up"
    assert ours.supports_tools
    assert ChatTemplate(TOOLS).supports_tools
    assert not ChatTemplate(CHATML).supports_tools
    assert not ChatTemplate("{% if %}").supports_tools


@pytest.mark.parametrize("at", range(5))
def test_refusal_names_the_message(at: int) -> None:
    roles = ["user", "assistant", "user", "assistant", "user"]
    roles[at] = "user" if at % 2 else "assistant"
    messages = [{"role": role, "content": "x"} for role in roles]
    with pytest.raises(TemplateError, match="roles must alternate") as caught:
        ChatTemplate(ALTERNATING).render(messages)
    assert f"messages[{at}] (role '{roles[at]}')" in str(caught.value)
    assert caught.value.param == f"messages[{at}]"


def test_failure_names_the_message() -> None:
    messages = [{"role": "user", "content": "x"}, {"role": "user", "content": None}]
    with pytest.raises(TemplateError, match=r"messages\[1\] \(role 'user'\)"):
        ChatTemplate(CHATML).render(messages)
    with pytest.raises(TemplateError, match=r"messages\[0\] \(role None\)"):
        ChatTemplate(CHATML).render([{}, {"role": "user", "content": "x"}])


def test_failure_on_tools_and_without_messages() -> None:
    picky = "{% if tools %}{{ raise_exception('no tools') }}{% endif %}{{ messages[0].role }}"
    with pytest.raises(TemplateError, match="refuses the tools: no tools"):
        ChatTemplate(picky).render(MESSAGES, [TOOL])
    with pytest.raises(TemplateError, match="needs messages"):
        ChatTemplate("{{ messages[0].role.x.y }}").render([])


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.__class__ }}",
        "{{ messages[0]['content'].__init__.__globals__ }}",
        "{{ (messages | attr('__class__')) }}",
        "{{ ['__class__'] | map('attr', messages) | list }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{{ lipsum.__globals__ }}",
        "{{ namespace.__init__.__globals__ }}",
        "{{ namespace(__class__=1) }}",
        "{% set ns = namespace() %}{% set ns.__x__ = 1 %}{{ ns.__x__ }}",
        "{{ raise_exception.__globals__ }}",
        "{{ strftime_now.__globals__['os'] }}",
        "{{ dict.__subclasses__() }}",
        "{{ '{0.__class__}'.format(1) }}",
        "{{ ('{0.__cla' ~ 'ss__}').format(1) }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update(role='x') }}",
        "{{ messages.clear() }}",
        "{{ range(10000000) | list }}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}{{ os }}",
        "{{ self.__init__ }}",
        "{{ joiner.__init__ }}",
        "{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}",
    ],
)
def test_sandbox_lets_nothing_out(source: str) -> None:
    messages = [{"role": "user", "content": "x"}]
    try:
        text = ChatTemplate(source).render(messages)
    except TemplateError:
        text = ""
    assert not any(word in text for word in ("class", "module", "root:", "builtin", "function"))
    assert messages == [{"role": "user", "content": "x"}]


def test_template_that_does_not_parse() -> None:
    broken = ChatTemplate("{% for %}")
    with pytest.raises(TemplateError, match="cannot be used"):
        broken.render(MESSAGES)


def test_messages_are_plain_data() -> None:
    class Dangerous:
        def __str__(self) -> str:
            return "called"

    with pytest.raises(InvalidRequest, match=r"messages\[0\]\.content is a Dangerous"):
        ChatTemplate(CHATML).render([{"role": "user", "content": Dangerous()}])
    deep: Any = "x"
    for _ in range(100):
        deep = [deep]
    with pytest.raises(InvalidRequest, match="nested deeper"):
        ChatTemplate(CHATML).render([{"role": "user", "content": deep}])


def test_time_of_day_is_there() -> None:
    assert ChatTemplate("{{ strftime_now('%Y') }}").render(MESSAGES).isdigit()
