"""The places of keys and values in a TOML text, and edits at those places."""

import random
import tomllib

import pytest

from harness.errors import UsageError
from harness.spans import DEEPEST, Index, TooDeep, apply_override, index, insert_value, replace_value

BOM = "\ufeff"

TRICKY = [
    "",
    "# only a comment",
    "a = 1",
    "a=1#x\nb='#'",
    "a.b.c = 1\na.b.d = 2\na.e = { f = 3, g.h = [4, { i = 5 }] }",
    '"quoted key" = 1\n\'literal.key\'.x = "y"\n"esc\\"aped\\u00e9" = 2\n"" = 3',
    "[ a . b ]\nc = 1\n[a]\nd = 2",
    "[[v]]\nname = 'x'\n[v.sub]\ny = 1\n[[v.more]]\nz = 1\n[[v.more]]\nz = 2\n[[v]]\nname = 'b'\n[[v.more]]\nz = 3",
    'a = """\nline one "" two\n"""\nb = """x"""""\nc = \'\'\'it\'s\'\'\'\'\nd = """\\"""\\\\"""\ne = 1',
    "a = [\n  1, # one, ]\n  [2, 3],\n  'x # y ]',\n]\nb = []\nc = {}\nd = [[], [[]]]",
    "a = 1979-05-27 07:32:00\nb = 1979-05-27T07:32:00.5-07:00\nc = 07:32:00\nd = [1979-05-27, 1979-05-28]",
    "a = 0xdead_beef\nb = -1.5e-3\nc = inf\nd = +1\ne = true\nf = [true,false]",
    "\"größe\" = 1 # ü\n\tb = \"ä\"\t# tab\n",
    "[fixed]\r\nlr = 0.1\r\n\r\nlist = [1,\r\n 2]\r\ns = '''a\r\nb'''\r\n",
    BOM + "a = 1\n[b]\nc = [2]\n",
    "[tune]\nlr = { low = 1e-4, high = 1e-1, log = true }\n[tune.when.optimizer.sgd]\nmomentum.low = 0.8\nmomentum.high = 0.9",
]


def leaves(value: object, path: tuple = ()):
    """Every value of a document with its path, containers included."""
    if path:
        yield path, value
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from leaves(inner, (*path, key))


def check_places(text: str) -> Index:
    """The text at each value's span, parsed alone, is the value; the text at each key's span is the key; nothing is left out."""
    found = index(text)
    document = dict(leaves(tomllib.loads(text.removeprefix(BOM))))
    lines = text.removeprefix(BOM).split("\n")
    for path, span in found.values.items():
        piece = text[span.start:span.stop]
        assert tomllib.loads(f"v = {piece}")["v"] == document[path]
        assert lines[span.line - 1][span.column - 1:span.end_column - 1] == piece.split("\n")[0].removesuffix("\r")
    for path, span in found.keys.items():
        assert path in document
        if isinstance(path[-1], str):
            assert list(tomllib.loads(f"{text[span.start:span.stop]} = 1")) == [path[-1]]
            assert lines[span.line - 1][span.column - 1:span.end_column - 1] == text[span.start:span.stop]
    for path, value in document.items():
        assert path in found.values or path in found.keys
        if not isinstance(value, (dict, list)):
            assert path in found.values
    assert found.repeated == []
    return found


@pytest.mark.parametrize("text", TRICKY)
def test_every_value_of_a_tricky_document_is_found(text):
    check_places(text)


class Writer:
    """Writes random TOML: random keys, values, layouts and comments."""

    def __init__(self, seed: int):
        self.random = random.Random(seed)
        self.number = 0

    def key(self) -> str:
        self.number += 1
        return self.random.choice(["k{}", "-{}-", '"q {}"', "'l.{}'", '"é\\u00e9{}"', '"#{}"', "{}"]).format(self.number)

    def gap(self) -> str:
        return self.random.choice(["", " ", "\t", "  "])

    def blank(self) -> str:
        return self.random.choice(["", " ", "\n", " # c ] } \" '\n", "\r\n", "\n\n\t"])

    def value(self, depth: int = 0, inline: bool = False) -> str:
        kinds = ["1", "-2.5", "true", '"a # \\" b"', "'c:\\d'", "2024-01-02 03:04:05", "inf", '"日本"', '""', "0x1F"]
        if not inline:
            kinds += ['"""x\n"y" ""z\\"""""', "'''\n'a' ''b'''''"]
        if depth > 2 or self.random.random() < 0.6:
            return self.random.choice(kinds)
        if self.random.random() < 0.6:
            blank = self.gap if inline else self.blank
            items = [blank() + self.value(depth + 1, inline) + blank() for _ in range(self.random.randrange(4))]
            return "[" + ",".join(items) + (("," + blank()) if items and self.random.random() < 0.3 else "") + "]"
        pairs = [self.statement(depth + 1, inline=True) for _ in range(self.random.randrange(4))]
        return "{" + self.gap() + ", ".join(pairs) + self.gap() + "}"

    def statement(self, depth: int = 0, inline: bool = False) -> str:
        name = (self.gap() + "." + self.gap()).join(self.key() for _ in range(self.random.choice([1, 1, 1, 2, 3])))
        return f"{name}{self.gap()}={self.gap()}{self.value(depth, inline)}{self.gap()}"

    def document(self) -> str:
        parts, arrays = [], []
        for _ in range(self.random.randrange(1, 8)):
            parts.append(self.gap() + self.statement() + self.random.choice(["", "# t", "#é = ["]))
            if self.random.random() < 0.5:
                parts.append(self.random.choice(["", "  # alone", "\t"]))
            if self.random.random() < 0.4:
                parts.append(f"[{self.key()}{self.gap()}.{self.gap()}{self.key()}]" + self.gap())
            elif self.random.random() < 0.4:
                if not arrays or self.random.random() < 0.5:
                    arrays.append(self.key())
                parts.append(f"[[ {self.random.choice(arrays)} ]]# x")
        newline = self.random.choice(["\n", "\r\n"])
        return self.random.choice(["", BOM]) + newline.join(parts) + self.random.choice(["", newline])


def test_every_value_of_random_documents_is_found():
    for seed in range(400):
        check_places(Writer(seed).document())


def test_a_value_over_several_lines_gives_its_first_line():
    span = index("a = [1,\n  2]\n").values[("a",)]
    assert (span.line, span.column, span.end_column) == (1, 5, 8)
    assert index("a = [1,\r\n  2]\n").values[("a",)].end_column == 8


def test_places_of_headers_and_elements():
    found = index("[[variant]]\nname = 'x'\n[[ variant ]]\nlr = 1\n[compare]\nlr = [ 1, 22 ]\n")
    assert (found.keys["variant",].line, found.keys["variant", 1].line, found.keys["variant", 1].column) == (1, 3, 1)
    assert (found.keys["variant", 1, "lr"].line, found.keys["compare",].column) == (4, 2)
    assert (found.values["compare", "lr", 1].column, found.values["compare", "lr", 1].end_column) == (11, 13)


def test_what_is_given_twice_is_noted_with_both_places():
    found = index("[a]\nx = 1\ny = 2\nx = 3\n[b]\n[a]\n")
    assert [(path, first.line, second.line) for path, first, second in found.repeated] == [(("a", "x"), 2, 4), (("a",), 1, 6)]


@pytest.mark.parametrize("text", ["a = " + "[" * 200 + "]" * 200, ".".join("a" * 200) + " = 1", "[" + ".".join("a" * 200) + "]"])
def test_deep_nesting_is_refused_with_its_place(text):
    with pytest.raises(TooDeep, match=str(DEEPEST)) as caught:
        index(text)
    assert caught.value.span.line == 1


GRID = """# kept
[study]
name = "x"  # kept too
seeds = [0,
  1]

[fixed]
lr = 0.1 # rate

[[variant]]
name = "a"
"""


def test_a_value_is_replaced_where_it_stands():
    assert replace_value(GRID, ("study", "seeds"), "[7]") == GRID.replace("[0,\n  1]", "[7]")
    with pytest.raises(KeyError):
        replace_value(GRID, ("study",), "1")
    assert insert_value(GRID, ("fixed", "a b"), "1") == GRID.replace("# rate\n", '# rate\n"a b" = 1\n')


@pytest.mark.parametrize(("override", "expected"), [
    ("lr=0.5", GRID.replace("0.1", "0.5")),
    (" lr = 0.5 # mine ", GRID.replace("0.1", "0.5")),
    ("epochs=2", GRID.replace("# rate\n", "# rate\nepochs = 2\n")),
    ("study.seeds=[0, 1, 2]", GRID.replace("[0,\n  1]", "[0, 1, 2]")),
    ("study.metric=val_loss", GRID.replace("  1]\n", '  1]\nmetric = "val_loss"\n')),
    ("model=alexnet", GRID.replace("# rate\n", '# rate\nmodel = "alexnet"\n')),
    ("classes=0-4", GRID.replace("# rate\n", '# rate\nclasses = "0-4"\n')),
    ("weights=study:digits", GRID.replace("# rate\n", '# rate\nweights = "study:digits"\n')),
    ('model="a\\"b"', GRID.replace("# rate\n", '# rate\nmodel = "a\\"b"\n')),
    ("slurm.time_min=5", GRID + "\n[slurm]\ntime_min = 5\n"),
    ("tune.lr.low=1e-3", GRID + "\n[tune.lr]\nlow = 1e-3\n"),
    ("batch_norm=false", GRID.replace("# rate\n", "# rate\nbatch_norm = false\n")),
    ("model=x\n[slurm]", GRID.replace("# rate\n", '# rate\nmodel = "x\\n[slurm]"\n')),
    ("model=a=b", GRID.replace("# rate\n", '# rate\nmodel = "a=b"\n')),
])
def test_an_override_is_an_edit_of_the_text(override, expected):
    assert apply_override(GRID, override) == expected


@pytest.mark.parametrize(("text", "override", "expected"), [
    ("", "lr=1", "\n[fixed]\nlr = 1\n"),
    ("[fixed]", "lr=1", "[fixed]\nlr = 1\n"),
    ("[fixed]\r\na = 1\r\n[study]\r\n", "lr=1", "[fixed]\r\na = 1\r\nlr = 1\r\n[study]\r\n"),
    ("fixed = { a = 1 }", "lr=1", "fixed = { a = 1, lr = 1 }"),
    ("fixed = {}", "lr=1", "fixed = { lr = 1 }"),
    ("fixed.a = 1\n[study]\n", "lr=1", "fixed.a = 1\nfixed.lr = 1\n[study]\n"),
    ("[tune]\nlr.low = 1\n", "tune.lr.high=2", "[tune]\nlr.low = 1\nlr.high = 2\n"),
    (BOM + "[fixed]\nlr = 2\n", "lr=1", BOM + "[fixed]\nlr = 1\n"),
])
def test_an_override_goes_where_its_table_is(text, override, expected):
    assert apply_override(text, override) == expected


@pytest.mark.parametrize(("override", "reason"), [
    ("lr", "key=value"), ("=1", "key=value"), ("lr=", "key=value"), ("lr=  ", "key=value"), ("", "key=value"),
    ("a b=1", "no key"), ("a..b=1", "no key"), ("a.=1", "no key"), ('"a=1', "no key"), ("a\nb=1", "no key"),
    ("variant.name=b", "list of tables"), ("variant.0.name=b", "list of tables"), ("fixed.lr.x=1", "no place"),
    ("lr=[1", "single quotes"), ("lr={", "single quotes"), ('lr="x', "single quotes"), ("lr=[1]\nx = 2", "single quotes"),
    ("lr=\udcff", "UTF-8"), ("lr=" + "[" * 5000, "nest"), (".".join("a" * 5000) + "=1", "no key"),
])
def test_an_override_that_cannot_be_meant_says_why(override, reason):
    with pytest.raises(UsageError, match=reason) as caught:
        apply_override(GRID, override)
    assert str(caught.value).startswith("--set")
    assert caught.value.exit_code == 2


def test_an_override_does_not_replace_a_whole_table():
    with pytest.raises(UsageError, match="`search.halving` is a table"):
        apply_override("[search.halving]\nfirst = 1\n", "search.halving=3")


def test_an_override_of_a_broken_grid_says_so():
    with pytest.raises(UsageError, match="no TOML: Invalid value"):
        apply_override("a = \n", "lr=1")
