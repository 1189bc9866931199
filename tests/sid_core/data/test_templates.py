"""What of a text is a template: against the package's own parser, which is to see nothing of the rest."""

import random

import pytest
from dynamicprompts.parser.parse import parse
from pyparsing import ParseException

from sid_pack.sid_core.data.templates import LITERAL, LONGEST, TemplateError, is_template, plain, read_template


def seen(text: str):
    """What the package makes of a text, with its ordinary letters again."""
    shown = repr(parse(read_template(text).source))
    for letter, literal in LITERAL.items():
        shown = shown.replace(ascii(literal)[1:-1], repr(chr(letter))[1:-1])
    return shown


@pytest.mark.parametrize(
    "text",
    [
        "a {big|small} __things/fruit__, {2$$x|y|z} (art:1.2)",
        "{2-3$$ and $$a|b|c}",
        "{-2$$a|b}{1-$$a|b}",
        "{ a | b }{a||b}{|a}",
        "{@a|b} {~a|b} __~c__ __@c__",
        "{0.5::a|3::b}",
        "{2$$__c__}{__c__|b}",
        "{a {b|c} d|{e|{f|g}}}",
        "${x=a}${y:b} ${x} {a|b}",
        "${x=!{a|b}} ${x} {${x}|b}",
        "${x?={a|b}}",
        "%{a ... b$$c} {a|b}",
        "__c(x=1)__ __c-${x:d}__ __{a|b}__",
        "__my colours__",
        "{a|b\nc}\n{d|e}",
        "",
    ],
)
def test_the_packages_own_syntax_is_left_as_it_is(text):
    assert seen(text) == repr(parse(text))


ORDINARY = [
    *("50%", "100% {", "$5", "$$", "smile :}", "{cat}", "{{masterpiece}}", "#1", "https://a.b/c", "/* x */", "a_b"),
    *("__", "____", "a__b", "(x:1.2)", "[a|b]", "a|b", "${5}", "%{y}", "{} {", "\t", "a  b", "\\", "~!@", "{5$}", "é"),
]  # fmt: skip


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_text_beside_a_template_stays_as_it_is(text):
    assert not is_template(text)
    for template in (f"{text} {{x|x}}", f"{{x|x}}\n{text}"):
        assert is_template(template)
        tokens = parse(read_template(template).source).tokens
        assert plain("".join(getattr(token, "literal", "x") for token in tokens)) == template.replace("{x|x}", "x")


def test_any_text_of_these_letters_is_read_in_full_or_refused():
    """Letters at random, some of them a template by chance: drawn to the end, what is outside of it all is there."""
    draw = random.Random(0)
    read = 0
    for _ in range(1000):
        text = "".join(draw.choice("{}|$%#/_a :2\t") for _ in range(draw.randint(1, 12)))
        try:
            template = read_template(f"A{text}Z{{x|x}}")
            tokens = parse(template.source).tokens
        except (TemplateError, ParseException):
            assert "{" in text or "__" in text, text
            continue
        read += 1
        assert tokens[0].literal.startswith("A"), text
        if not read_template(f"A{text}Z").draws and not template.variables and "$$" not in text:
            assert plain("".join(getattr(token, "literal", "") for token in tokens)) == f"A{text}Z", text
    assert read > 600


@pytest.mark.parametrize(
    ("text", "template"),
    [
        ("{a|b}", True),
        ("__colour__", True),
        ("__my colours__", True),
        ("a__b__c", True),
        ("x {a {b} c|d", False),
        ("{cat} a|b", False),
        ("snake_case and __ and ____ and a__b", False),
        ("__ a __", False),
        ("__{a}__", False),
        ("__{a|b}__", True),
        ("{a|b", False),
        ("a|b}", False),
        ("{$$|}", True),
    ],
)
def test_a_template_has_choices_or_a_wildcard(text, template):
    assert is_template(text) == template


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{a|b} {c|d", "Close the {"),
        ("{a|b" + " x" * LONGEST + "}", "Shorten it to 20,000"),
        ("{" * 3000 + "a|b" + "}" * 3000, "Nest it less deeply"),
        ("{a|b} \ufdd0", "U\\+FDD0"),
    ],
)
def test_what_can_not_be_meant_is_refused(text, says):
    with pytest.raises(TemplateError, match=says):
        read_template(text)
