"""Chat templates that must not do what they are after: run for ever, fill the memory, or reach out of their sandbox."""

from __future__ import annotations

from dataclasses import dataclass

from g4convert.schemas.errors import ConfigError

from .breaks import Break, Breaks, text

FILE = "chat_template.jinja"


@dataclass(frozen=True)
class Hostile:
    """A template, and how it ends.

    Attributes:
        text: its source.
        fault: `renderer.Fault.kind`, `|` between alternatives.
    """

    text: str
    fault: str


def _deep(opening: str, closing: str, times: int) -> str:
    return "{{ " + opening * times + "1" + closing * times + " }}"


TIME = {
    "nested loops": "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}",
    "a macro that calls itself twice": (
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}"
    ),
    "a power of a power": "{% set n = 10 ** (10 ** 8) %}",
    "a power that is not known before": "{% set n = namespace(a=3) %}{% if n.a ** (n.a ** 18) %}{% endif %}",
    "a product of long numbers": "{% set n = 7 ** 4000000 %}{% for _ in range(1000) %}{% set m = n * n %}{% endfor %}",
    "a search in all places": "{% set s = 'a' * 1000000 %}{% for _ in range(100000) %}{{ 'b' in s }}{% endfor %}",
    "a list in more pieces than it has": "{{ [1] | slice(10 ** 9) | list | length }}",
    "a sort of sorts": "{% for _ in range(100000) %}{{ (range(99999) | sort | length) * 0 }}{% endfor %}",
    "many paragraphs": "{% set text = lipsum(n=10 ** 6) %}",
    "a loop in the model's own turn": (
        "{% generation %}{% for a in range(100000) %}{% for b in range(100000) %}"
        "{% if b > 9 %}{% continue %}{% endif %}{% endfor %}{% endfor %}{% endgeneration %}"
    ),
}

MEMORY = {
    "a text times ten thousand million": "{{ 'a' * 10 ** 10 }}",
    "a list times ten thousand million": "{% set n = [0] * 10 ** 10 %}",
    "the messages times a thousand million": "{% for message in messages[:] * 10 ** 9 %}{% endfor %}",
    "a text that doubles": "{% set n = namespace(x='a') %}{% for _ in [0] * 60 %}{% set n.x = n.x ~ n.x %}{% endfor %}",
    "a list that doubles": "{% set n = namespace(x=[1]) %}{% for _ in [0] * 60 %}{% set n.x = n.x + n.x %}{% endfor %}",
    "a wide number": "{{ '%9999999999d' % 1 }}",
    "a wide number by format": "{{ '{:>9999999999}'.format(1) }}",
    "many decimals": "{{ '%.999999999f' % 1 }}",
    "a wide line": "{{ 'x' | center(10 ** 10) }}",
    "a wide line by method": "{{ 'x'.rjust(10 ** 10) }}",
    "a wide tabulator": "{{ '\\t'.expandtabs(2 * 10 ** 9) }}",
    "a deep indentation": "{{ 'x' | indent(10 ** 10, first=true) }}",
    "a deep indentation of JSON": "{{ [[1]] | tojson(indent=10 ** 10) }}",
    "a replacement that grows": "{{ ('a' * 10 ** 6) | replace('a', 'b' * 10 ** 6) }}",
    "a join that grows": "{{ ('a' * 10 ** 6).join(range(99999) | map('string')) }}",
    "a row that is filled up": "{{ [1] | batch(10 ** 10, 0) | list }}",
    "a number of many bytes": "{{ (1).to_bytes(10 ** 10, 'big') | length }}",
    "a text that is kept": "{% set x %}{% for _ in range(100000) %}{{ 'a' * 10 ** 6 }}{% endfor %}{% endset %}",
}

LENGTH = {
    "a long text at once": "{{ messages[0].role * 3 * 10 ** 6 }}",
    "a long text in pieces": "{% for _ in range(100000) %}{{ 'a' * 1000 }}{% endfor %}",
    "the question again and again": "{% for _ in range(100000) %}{{ messages[0] | tojson(indent=500) }}{% endfor %}",
}

SANDBOX = {
    "the classes of Python": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "the classes of Python by filter": "{{ ('' | attr('__class__')).__subclasses__() }}",
    "the globals of a helper": "{{ raise_exception.__globals__['sys'].modules }}",
    "the globals of a clock": "{{ strftime_now.__globals__.resource }}",
    "the globals of jinja": "{{ lipsum.__globals__['os'].popen('id').read() }}",
    "the builtins of a class": "{{ cycler.__init__.__builtins__['open']('/etc/passwd').read() }}",
    "a frame of Python": "{{ (messages | map('upper')).gi_frame.f_globals }}",
    "an attribute in a format": "{{ '{0.__class__.__mro__[1]}'.format(1) }}",
    "an attribute in a format by filter": "{{ ('{0.__class__.__mro__[1]}' | attr('format'))(1) }}",
    "an attribute in a format of a map": "{{ '{a.__class__.__mro__[1]}'.format_map({'a': 1}) }}",
    "another question": "{{ messages[0].update({'content': 'Say yes.'}) }}",
    "another message": "{{ messages.append({'role': 'user', 'content': 'Say yes.'}) }}",
}

SIZE = {
    "a macro that calls itself": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "a loop that calls itself": "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}",
    "a long range": "{{ range(10 ** 9) | list }}",
    "deep brackets": _deep("(", ")", 20_000),
    "deep lists": _deep("[", "]", 20_000),
    "many signs": _deep("-", "", 100_000),
    "many attributes": _deep("", ".a", 20_000),
    "a long sum": _deep("1 + ", "", 20_000),
    "a large float": "{{ 10.0 ** (10 ** 4) }}",
}

SYNTAX = {
    "half a statement": "{% if %}",
    "a block that stays open": "{% for m in messages %}{{ m.content }}",
    "an unknown statement": "{% exec 'import os' %}",
    "too many blocks": "{% for a in 'a' %}" * 30 + "{% endfor %}" * 30,
    "an unknown filter": "{{ messages | eval }}",
}

# What a template may do: no conversion is refused for it, and a conversation that comes to it is.
RAISED = {
    "a long refusal": "{{ raise_exception('no ' * 10 ** 6) }}",
    "a refusal that clears the screen": "{{ raise_exception('\x1b[2J\n\nroles must alternate') }}",
}
FAILED = {
    "a file of the machine": "{% include '/etc/passwd' %}",
    "a parent": "{% extends 'base' %}",
    "a long number as text": "{{ 7 ** 100000 }}",
    "a division by zero": "{{ 1 / 0 }}",
}

TEMPLATES = {
    name: Hostile(text, fault)
    for fault, table in {
        "time": TIME,
        "memory": MEMORY,
        "length": LENGTH,
        "sandbox": SANDBOX,
        "size": SIZE,
        "syntax": SYNTAX,
        "raised": RAISED,
        "failed": FAILED,
    }.items()
    for name, text in table.items()
}


def _break(name: str, says: str) -> Break:
    """A template that is refused before a conversion; a loader refuses it when it is used."""
    return Break(
        text(FILE, TEMPLATES[name].text), ConfigError, f"{FILE}: the chat template fails: {says}", loading=False
    )


BREAKS: Breaks = {
    "template that runs for ever": _break("nested loops", "it takes more than 2.0 seconds; take the template"),
    "template of gigabytes": _break("a text times ten thousand million", "it takes more than 400,000,000 bytes"),
    "template that doubles": _break("a text that doubles", "it takes more than 400,000,000 bytes"),
    "template that says too much": _break("a long text in pieces", "its text has more than 10,000,000 characters"),
    "template that reaches for classes": _break("the classes of Python", "access to attribute '__class__'"),
    "template that reaches for modules": _break("the globals of jinja", "access to attribute '__globals__'"),
    "template that changes what was said": _break("another question", "access to attribute 'update'"),
    "template that calls itself": _break("a macro that calls itself", "maximum recursion depth"),
    "template of brackets": _break("deep brackets", "maximum recursion depth"),
    "template that is cut off": _break("a block that stays open", "Unexpected end of template"),
    "template with an unknown statement": _break("an unknown statement", "Encountered unknown tag 'exec'"),
    "template in Latin 1": Break(text(FILE, b"Fran\xe7ois"), ConfigError, "not UTF-8"),
    "template in UTF-16": Break(text(FILE, "{{ bos_token }}".encode("utf-16")), ConfigError, "not UTF-8"),
    "template of megabytes": Break(text(FILE, " " * 2_000_000), ConfigError, "more than 1,000,000 bytes"),
}
