"""Chat templates within limits: published ones write what transformers writes, hostile ones end in a sentence."""

from __future__ import annotations

import threading
from datetime import date

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from rkld.errors import UserError
from rkld.files import TEMPLATES
from rkld.records import rendering
from rkld.records.encoding import PLAIN_CHAT_TEMPLATE, Encoder
from rkld.records.reading import read_records
from rkld.records.rendering import ChatTemplate

IDIOMS = {
    "plain": PLAIN_CHAT_TEMPLATE,
    **{file.stem: file.read_text() for file in sorted(TEMPLATES.glob("*.jinja"))},
    "namespace and reversed": """
        {%- set ns = namespace(last=messages|length - 1, found=false) %}
        {%- for message in messages[::-1] %}
            {%- set index = (messages|length - 1) - loop.index0 %}
            {%- if not ns.found and message.role == "user" and message.content is string %}
                {%- set ns.found = true %}{%- set ns.last = index %}
            {%- endif %}
        {%- endfor %}
        {{- ns.last ~ ": " }}{{- messages[ns.last].content|trim }}""",
    "tools": """
        {%- if tools %}{%- for tool in tools %}{{- tool | tojson(indent=4) }}{%- endfor %}{%- endif %}
        {%- for message in messages if message.role != "system" %}
            {%- if message.tool_calls is defined and message.tool_calls %}
                {%- for call in message.tool_calls %}
                    {{- '{"name": "%s", ' % call.function.name }}
                    {%- for key, value in call.function.arguments.items() %}{{ key ~ "=" ~ value|string }}{% endfor %}
                {%- endfor %}
            {%- elif message.role == "assistant" %}{% generation %}{{ message.content }}{% endgeneration %}
            {%- else %}{{ message["content"].split("</think>")[-1].lstrip("\\n") + eos_token }}{% endif %}
        {%- endfor %}""",
    "macros and filters": """
        {%- macro turn(role, text) -%}<|{{ role|upper }}|>{{ text.replace("a", "aa")|indent(2) }}{%- endmacro -%}
        {%- for m in messages -%}
            {%- if loop.index0 > 3 %}{% break %}{% endif -%}
            {{ turn(m.role, m.content) }}{{ caller is defined }}
        {%- endfor -%}
        {{ messages|map(attribute="role")|unique|join(", ") }}
        {{ messages|selectattr("role", "equalto", "user")|list|length }}
        {{ "%05.1f|%s" % (1.25, "x") }}{{ "{:>5}{}".format("a", 2) }}{{ [1, 2] + [3] }}{{ {"a": none}|tojson }}
        {{ strftime_now("%d %b %Y") }}{{ date_string if date_string is defined }}{{ unknown }}{{ none }}
        {{ 7 // 2 ** 2 }}{{ tools is none }}
        {{ ("a,b"|replace(",", ";"))|first }}{{ [3, 1]|sort|tojson }}{{ dict(a=1).get("a", 2) }}""",
    "refusing": "{% if messages[0].role == 'system' %}{{ raise_exception('no system turn') }}{% endif %}{{ 'fine' }}",
}

CONVERSATIONS = [
    [{"role": "user", "content": " Hi there "}],
    [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "a\nb <b>&</b>"},
        {"role": "assistant", "content": "<think>\nhm\n</think>\n\nyes"},
        {"role": "user", "content": "and?"},
        {"role": "assistant", "content": "ééé 中文"},
    ],
    [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": {"x": 1}}}]},
        {"role": "tool", "content": "1"},
    ],
]

TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"x": ["a", 1.5, None, True]}}}]


@pytest.mark.parametrize("name", IDIOMS)
def test_templates_write_what_transformers_writes(name):
    """Would break if the limits, or this module's copy of what transformers adds to Jinja, changed a prompt."""
    today = date.today()

    def outcome(render):
        try:
            return render()
        except Exception as error:
            return type(error).__name__, str(error)

    for messages in CONVERSATIONS:
        for tools in (None, TOOLS):
            more = {"tools": tools, "add_generation_prompt": True, "eos_token": "</s>", "bos_token": "<s>"}
            expected = outcome(
                lambda m=messages, v=more: render_jinja_template([m], chat_template=IDIOMS[name], **v)[0][0]
            )
            found = outcome(
                lambda m=messages, v=more: ChatTemplate(IDIOMS[name]).render(m, strftime_now=today.strftime, **v)
            )
            assert found == expected


def test_a_long_conversation_stays_far_below_the_limits(monkeypatch):
    """Would break if an honest run were refused: 400 turns of 1000 characters."""
    messages = [{"role": ("user", "assistant")[i % 2], "content": "word " * 200} for i in range(400)]
    monkeypatch.setattr(rendering, "MOST_STEPS", rendering.MOST_STEPS // 10)
    monkeypatch.setattr(rendering, "MOST_CHARACTERS", rendering.MOST_CHARACTERS // 10)
    for name in ("plain", "tofu-llama2", "open-unlearning-llama3", "namespace and reversed"):
        ChatTemplate(IDIOMS[name]).render(messages, eos_token="</s>", bos_token="<s>", add_generation_prompt=False)


_GROW = "{%% set ns = namespace(x='ab', y='ab') %%}{%% for i in range(100) %%}%s{%% endfor %%}"
_BIG = "{% set s = 'a' * 1000000 %}"

HOSTILE = {
    "nested loops": "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}",
    "nested loops over nothing": "{% for a in range(999) %}{% for b in range(999) if b < 0 %}{% endfor %}{% endfor %}",
    "tree of macros": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "endless recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "endless recursion of a loop": "{% for a in [[1]] recursive %}{{ loop([[1]]) }}{% endfor %}",
    "endless recursion of a block": "{% block a %}{{ self.a() }}{% endblock %}",
    "giant string": "{{ 'a' * 10**10 }}",
    "giant list": "{{ [1] * 10**10 }}",
    "giant number": "{{ 10 ** (10 ** 10) }}",
    "squares": _GROW % "{% set ns.x = (ns.x|length + 2) ** 9 %}{% set ns.y = ns.x * ns.x * ns.x ** 9 * ns.x ** 99 %}",
    "doubled by ~": _GROW % "{% set ns.x = ns.x ~ ns.x %}",
    "doubled by +": _GROW % "{% set ns.x = ns.x + ns.x %}",
    "doubled by a block": _GROW % "{% set ns.x %}{{ ns.x }}{{ ns.x }}{% endset %}",
    "doubled by a list": _GROW % "{% set ns.x = [ns.x, ns.x] %}" + "{{ ns.x }}",
    "doubled by a dict": _GROW % "{% set ns.x = dict(a=ns.x, b=ns.x) %}" + "{{ ns.x|tojson }}",
    "doubled and compared": _GROW % "{% set ns.x = [ns.x, ns.x] %}{% set ns.y = [ns.y, ns.y] %}" + "{{ ns.x == ns.y }}",
    "one text many times": _BIG + "{{ [s] * 1000 }}",
    "one text many times in JSON": _BIG + "{{ ([s] * 1000)|tojson }}",
    "one text many times, joined": _BIG + "{{ ''.join([s] * 1000) }}",
    "one text many times, mapped": _BIG + "{{ ([1] * 1000)|map('replace', '1', s)|join }}",
    "replaced": _BIG + "{{ s.replace('a', s) }}",
    "replaced by the filter": _BIG + "{{ s|replace('a', s) }}",
    "joined by much": _BIG + "{{ s.join(['b'] * 1000) }}",
    "padded": "{{ 'a'.ljust(10 ** 9) }}",
    "padded by the filter": "{{ 'a'|center(1000000000) }}",
    "padded by a format": "{{ '%1000000000d' % 1 }}",
    "padded by an argument": "{{ '%*d' % (1000000000, 1) }}",
    "padded by format()": "{{ '{:>{}}'.format(1, 1000000000) }}",
    "much in a format": _BIG + "{{ ('{0}' * 1000).format(s) }}",
    "indented": "{{ 'a\n'|indent(1000000000) }}",
    "indented JSON": "{{ [[[1]]]|tojson(indent=1000000000) }}",
    "own text in a loop": "{% for a in range(99999) %}" + "x" * 100_000 + "{% endfor %}",
    "searched": _BIG + "{% for i in range(99999) %}{% set b = s.find('b') %}{% endfor %}",
    "compared": "{% set a = [1] * 99999 %}{% for i in range(99999) %}{% set b = 2 in a %}{% endfor %}",
    "sorted": "{% for i in range(99999) %}{% set b = range(99999)|sort %}{% endfor %}",
    "much ado": "{% for m in messages %}{{ m.content }}{% endfor %}{{ ' ' * 40000000 }}",
    "lorem ipsum": "{{ lipsum(1000000) }}",
    "include": "{% include '/etc/passwd' %}",
    "import": "{% import 'os' as os %}{{ os.system('true') }}",
    "extends": "{% extends 'base' %}",
    "division by zero": "{{ 1 / 0 }}",
    "attributes of Python": "{{ ''.__class__.__mro__ }}",
    "globals of a function": "{{ raise_exception.__globals__.os }}",
    "names of Python in a namespace": "{% set ns = namespace() %}{% set ns.__class__ = 1 %}",
    "broken": "{% if %}",
    "nested too deeply": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "blocks nested too deeply": "{% for a in [1] %}" * 300 + "{% endfor %}" * 300,
    "giant template": "x" * 2_000_000,
    "half a character": "{{ '\\ud800' }}{{ messages[0].content }}",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_templates_end_in_a_sentence(name, monkeypatch, tiny):
    """Would break if one of these ran without end, filled the memory, or came out as a traceback."""
    monkeypatch.setattr(rendering, "MOST_STEPS", 20_000)  # as with all, in a tenth of the time
    tiny.chat_template = HOSTILE[name]
    (record,) = read_records([{"question": "Who?", "answer": "Nobody."}], "forget")
    with pytest.raises(UserError, match="chat template") as caught:
        Encoder(tiny).encode(record)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600


@pytest.fixture
def tiny():
    from rkld.benching.worlds.tiny import tiny_tokenizer

    return tiny_tokenizer()


def test_limits_hold_in_any_thread_and_for_each_rendering():
    """Would break if limits needed the main thread, as signals do, or if one rendering used up another's."""
    template = ChatTemplate("{% for a in range(5000) %}{% endfor %}{{ messages[0].content }}")
    texts = []

    def work():
        texts.extend(template.render([{"role": "user", "content": "x"}]) for _ in range(5))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert texts == ["x"] * 10


@pytest.mark.parametrize("found", [5, {"default": 5}, ["a"]])
def test_a_template_that_is_no_text_is_refused(found, tiny):
    tiny.chat_template = found
    with pytest.raises(UserError, match="no text"):
        Encoder(tiny)


@pytest.mark.parametrize("template", [
    "{{ raise_exception(messages[0].content) }}", "{{ {}[messages[0].content].x }}", "{{ 1 / messages[0].content }}",
])  # fmt: skip
def test_what_a_template_says_of_the_record_is_not_printed(tiny, template):
    """Would break if a hostile template, or a careless one, put personal data into a message."""
    tiny.chat_template = template
    (record,) = read_records([{"question": "Who is Zoe Quellsecret?", "answer": "A painter."}], "forget")
    with pytest.raises(UserError, match="chat template") as refused:
        Encoder(tiny).encode(record)
    assert "Quellsecret" not in str(refused.value)
