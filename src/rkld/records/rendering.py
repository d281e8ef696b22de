"""A chat template rendered within limits: it comes with a model, and may hold anything.

Templates are programs in Jinja. As in transformers they run in Jinja's sandbox, with the same additions, so that they
write the same text; here everything that they do is counted as well, so that none runs without end or fills the memory.
Counted are steps (rounds of loops, calls, operators, elements of lists) and characters: never time, so that a template
that is refused is refused on every machine.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

LONGEST_TEMPLATE = 1_000_000
"""Characters; the longest published ones have a tenth of it."""

MOST_STEPS = 200_000
"""Of one rendering, a second or so; published templates take about 50 a turn."""

MOST_CHARACTERS = 50_000_000
"""That one rendering may write, compare and search, intermediate results included."""

LARGEST_INTEGER = 4096
"""Bits."""

_LAVISH_METHODS = {"center", "ljust", "rjust", "zfill", "expandtabs", "translate", "format_map", "encode", "to_bytes"}
_LAVISH_FILTERS = {"center", "format", "wordwrap", "batch", "slice", "pprint", "urlize", "xmlattr", "sum"}
"""They make much of little, and no published template needs them."""

_GLANCING = {"length", "count", "first", "last", "default", "d", "attr"}
"""Filters that take as long for many elements as for one."""

_PASSING = {"list", "map", "reverse", "items", "select", "reject", "selectattr", "rejectattr"}
"""Filters that hand elements on. All others compare them or write them out."""

WIDEST = 1000
"""Columns that a number in a template may ask for."""

_WIDTHS = re.compile(r"\d{4,}|%[^a-zA-Z%]*\*|\{[^{}]*\{")
"""Of a format string: widths over 999, or taken from an argument."""


class ExceedsLimits(Exception):
    """A template does more than is allowed."""


class ChatTemplate:
    """A compiled template.

    Args:
        text: Jinja.

    Raises:
        Exception: it is no template (:class:`jinja2.TemplateSyntaxError`), too long, or nested too deeply for Python.
    """

    def __init__(self, text: str) -> None:
        if len(text) > LONGEST_TEMPLATE:
            raise ExceedsLimits(f"it has {len(text)} characters, more than {LONGEST_TEMPLATE}")
        environment = _Environment()
        with _budget():
            parsed = _Metering().visit(environment.parse(text))
            code = environment.compile(parsed)
        self._template = environment.template_class.from_code(environment, code, environment.make_globals(None))

    def render(self, messages: Sequence[Mapping[str, Any]], **variables: Any) -> str:
        """What ``tokenizer.apply_chat_template(messages, tokenize=False, **variables)`` gives.

        Raises:
            jinja2.TemplateError: the template refuses the messages.
            ExceedsLimits: it takes too many steps, or makes too much text.
            Exception: whatever else goes wrong in it.
        """
        given = [{key: value for key, value in message.items() if value is not None} for message in messages]
        with _budget():
            text = self._template.render({"tools": None, "documents": None} | variables | {"messages": given})
        asked = len(str(given))
        if len(text) > LONGEST_TEMPLATE + 10 * asked:  # tokenizers take a minute for what Jinja writes in a second
            raise ExceedsLimits(f"it writes {len(text)} characters for a conversation of {asked}")
        text.encode()  # half a character ("\\ud800") is no text
        return text


class _Spent:
    """What a rendering has used up."""

    def __init__(self) -> None:
        self.steps = self.characters = 0

    def add(self, steps: int, characters: int) -> None:
        self.steps += steps
        self.characters += characters
        if self.steps > MOST_STEPS:
            raise ExceedsLimits(f"it takes more than {MOST_STEPS} steps")
        if self.characters > MOST_CHARACTERS:
            raise ExceedsLimits(f"it makes more than {MOST_CHARACTERS} characters")


_SPENT: ContextVar[_Spent] = ContextVar("_SPENT")


class _budget:
    """A new budget for what is done within."""

    def __enter__(self) -> None:
        self._token = _SPENT.set(_Spent())

    def __exit__(self, *_: object) -> None:
        _SPENT.reset(self._token)


def _spend(steps: int, characters: int = 0) -> None:
    _SPENT.get().add(steps, characters)


def _charge(value: object) -> None:
    """Count a value that was made: its characters, or its elements, which may have been there before."""
    if isinstance(value, (str, bytes)):
        _spend(1, len(value))
    elif isinstance(value, int) and value.bit_length() > LARGEST_INTEGER:
        raise ExceedsLimits(f"it makes a number of {value.bit_length()} bits")
    else:
        _spend(1 + (len(value) if isinstance(value, Collection) and not isinstance(value, range) else 0))


def _charge_all(value: object) -> None:
    """Count a value that is compared or written out, with its elements at any depth."""
    waiting = [value]
    while waiting:
        found = waiting.pop()
        _charge(found)
        if isinstance(found, Mapping):
            waiting += [*found.keys(), *found.values()]
        elif isinstance(found, range):
            _spend(len(found))
        elif isinstance(found, Collection) and not isinstance(found, (str, bytes)):
            waiting += found


def _check_operands(operator: str, left: Any, right: Any) -> None:
    """Refuse what would be giant before it is there to be measured."""
    if operator == "*":
        for many, times in ((left, right), (right, left)):
            if isinstance(many, (str, bytes, list, tuple)) and isinstance(times, int):
                text = isinstance(many, (str, bytes))
                _spend(0 if text else len(many) * max(times, 0), len(many) * max(times, 0) if text else 0)
    if isinstance(left, int) and isinstance(right, int) and operator in ("*", "**"):
        bits = left.bit_length() * abs(right) if operator == "**" else left.bit_length() + right.bit_length()
        if bits > LARGEST_INTEGER + 1:
            raise ExceedsLimits(f"it makes a number of {bits} bits")
    if operator == "%" and isinstance(left, str):
        _check_format(left, right)


def _check_format(text: str, values: object) -> None:
    if _WIDTHS.search(text):
        raise ExceedsLimits(f"it fills text to more than {WIDEST} columns")
    # Every placeholder may write the same value.
    fields = 1 + text.count("%") + text.count("{")
    for _ in range(fields):
        _charge_all(values)
    _spend(1, fields * WIDEST)


def _check_method(method: str, text: str, args: Sequence[Any]) -> None:
    """Refuse calls of a string's methods whose result would be giant."""
    _spend(1, len(text))
    if method == "replace" and len(args) > 1 and isinstance(args[0], str) and isinstance(args[1], str):
        _spend(1, text.count(args[0]) * len(args[1]))
    if method == "join" and args:
        _charge_all(args[0])
        _spend(1, len(text) * len(args[0]) if isinstance(args[0], Collection) else 0)


class _Environment(ImmutableSandboxedEnvironment):
    """Jinja as transformers sets it up for chat templates, with everything counted."""

    intercepted_binops = frozenset(["+", "-", "*", "/", "//", "**", "%"])

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols], finalize=_written
        )
        self.globals.pop("lipsum")
        self.globals |= {"raise_exception": _raise, "namespace": _Namespace, "dict": _dict}
        self.filters["tojson"] = _tojson
        for name in _LAVISH_FILTERS:
            self.filters.pop(name)
        for name in self.filters.keys() - _GLANCING:
            self.filters[name] = _metered(name, self.filters[name])
        for name in self.tests:
            self.tests[name] = _metered("", self.tests[name])

    # What the compiled template calls, by names that _Metering puts into it

    def step(self, characters: int) -> bool:
        """A round of a loop, or a call of a macro, that writes so many characters of the template's own."""
        _spend(1, characters)
        return True

    def measured(self, value: Any) -> Any:
        _charge(value)
        return value

    def compared(self, value: Any) -> Any:
        _charge_all(value)
        return value

    def joined(self, *values: Any) -> str:
        """The operator ~."""
        for value in values:
            _charge_all(value)
        return "".join(map(str, values))

    # What Jinja calls

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        _spend(1)
        _check_operands(operator, left, right)
        return self.measured(super().call_binop(context, operator, left, right))

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # named as Jinja's
        text = getattr(__obj, "__self__", None)
        if isinstance(text, str):
            _check_method(__obj.__name__, text, args)
        _spend(1)
        return __self.measured(super().call(__context, __obj, *args, **kwargs))

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        return attr not in _LAVISH_METHODS and super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        formatted = super().wrap_str_format(value)
        if formatted is None:
            return None

        def checked(*args: Any, **kwargs: Any) -> str:
            _check_format(value.__self__, [*args, *kwargs.values()])
            return formatted(*args, **kwargs)

        return checked


class _Metering(NodeTransformer):
    """Puts the counting into a parsed template, wherever Jinja does not ask the environment by itself."""

    def visit_For(self, node: nodes.For) -> nodes.For:
        node.body.insert(0, _counted(node))
        if node.test is not None:
            node.test = nodes.And(_call("step", nodes.Const(0)), node.test)
        self.generic_visit(node)
        return node

    def visit_Macro(self, node: Any) -> Any:
        node.body.insert(0, _counted(node))
        self.generic_visit(node)
        return node

    visit_CallBlock = visit_Macro

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _call("joined", *node.nodes)

    def visit_List(self, node: Any) -> nodes.Node:
        self.generic_visit(node)
        return _call("measured", node)

    visit_Dict = visit_List

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:
        self.generic_visit(node)
        return _call("measured", node) if node.ctx == "load" else node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        return _call("measured", node) if isinstance(node.arg, nodes.Slice) else node

    def visit_Compare(self, node: nodes.Compare) -> nodes.Compare:
        self.generic_visit(node)
        node.expr = _call("compared", node.expr)
        for operand in node.ops:
            operand.expr = _call("compared", operand.expr)
        return node


def _call(name: str, *args: Any) -> nodes.Call:
    return nodes.Call(nodes.EnvironmentAttribute(name), list(args), [], None, None)


def _counted(node: nodes.Node) -> nodes.ExprStmt:
    own = sum(len(data.data) for data in node.find_all(nodes.TemplateData))
    return nodes.ExprStmt(_call("step", nodes.Const(own)))


def _metered(name: str, function: Any) -> Callable[..., Any]:
    """A filter or test whose values are counted. What it gives one by one is made at once.

    Args:
        name: of a filter; "" for a test.
    """
    charge = _charge if name in _PASSING else _charge_all

    @functools.wraps(function)  # with what Jinja is to pass it beside the value
    def metered(*args: Any, **kwargs: Any) -> Any:
        _spend(1)
        skip = 1 if hasattr(function, "jinja_pass_arg") else 0
        values = [arg if name in _PASSING or not isinstance(arg, Iterator) else list(arg) for arg in args[skip:]]
        if name or len(values) > 1:  # a test of one value looks at its kind
            for value in (*values, *kwargs.values()):
                charge(value)
        if name and values:
            _spend_growth(name, values[0], [*values[1:], *kwargs.values()])
        result = function(*args[:skip], *values, **kwargs)
        if isinstance(result, Iterator):
            result = list(result)
            _charge(result)
            return iter(result)
        _charge(result)
        return result

    return metered


def _spend_growth(name: str, value: Any, others: Sequence[Any]) -> None:
    """Count what a filter adds to the value that it is given, before it does."""
    widths = [other for other in others if isinstance(other, int)]
    if name in ("indent", "round", "tojson") and any(abs(width) > WIDEST for width in widths):
        raise ExceedsLimits(f"it fills text to more than {WIDEST} columns")
    longest = max([len(other) for other in others if isinstance(other, str)] + widths, default=0)
    if name == "replace" and isinstance(value, str) and len(others) > 1:
        _spend(1, value.count(str(others[0])) * len(str(others[1])))
    elif name == "indent" and isinstance(value, str):
        _spend(1, (value.count("\n") + 1) * longest)
    elif name == "join" and isinstance(value, Collection):
        _spend(1, len(value) * longest)
    elif name == "tojson" and longest:
        _charge_nested(value, longest)


def _charge_nested(value: object, width: int) -> None:
    """Each element stands on a line of its own, indented by its depth."""
    waiting = [(value, 1)]
    while waiting:
        found, depth = waiting.pop()
        _spend(1, depth * width)
        inner = found.values() if isinstance(found, Mapping) else found if isinstance(found, (list, tuple)) else ()
        waiting += [(element, depth + 1) for element in inner]


def _written(value: Any) -> Any:
    """What stands in {{ }} is written out."""
    _charge_all(value)
    return value


def _raise(message: str) -> None:
    raise TemplateError(message)


def _tojson(
    x: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """Jinja's own escapes what HTML needs escaped."""
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _dict(*args: Any, **kwargs: Any) -> dict[Any, Any]:
    """Not the type itself, which has attributes that lead further."""
    return dict(*args, **kwargs)


class _Namespace(Namespace):
    """Jinja's, that takes no names of Python's own and does not write its contents out."""

    def __init__(*args: Any, **kwargs: Any) -> None:  # as Jinja's, so that a name may be "self"
        values = dict(*args[1:], **kwargs)
        for name in values:
            _check_name(name)
        Namespace.__init__(args[0], values)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)

    def __repr__(self) -> str:
        return "<Namespace>"


def _check_name(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace has no place for {name!r}")


class _Generation(Extension):
    """``{% generation %}``: transformers marks by it what the model says. Here what stands in it is just written."""

    tags = {"generation"}  # noqa: RUF012 (Jinja's)

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_same"), [], [], body).set_lineno(line)

    def _same(self, caller: Callable[[], str]) -> str:
        return caller()
