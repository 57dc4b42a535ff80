"""providers.toml: what it may hold, what is said of a fault in it, and that it is read again."""

from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from services.inference.providers.openai import OpenAIProvider
from services.inference.routes.compiling import Wishes, compiled
from services.inference.routes.schema import File
from services.inference.routes.shelf import Shelf
from services.inference.routes.source import BYTES_MAX, SHIPPED, RoutesError, parse, read
from services.inference.routing import Book
from services.mesh.errors import ModelUnknown

WHOLE = """\
default = "smart"
fallback = ["extractive"]

[aliases]
quick = "local/llama"

[[provider]]
name = "local"
kind = "openai-compatible"
base_url = "http://127.0.0.1:11434/v1"
quirks = { stream_options = false, assistant_prefix = true, output_limit = "max_tokens" }
limits = { connect_s = 0.5, stall_s = 3 }

[[provider]]
name = "hosted"
kind = "anthropic"
keys = [
  { name = "first", env = "FIRST_KEY", weight = 3, requests_per_minute = 50, tokens_per_minute = 9000 },
  { env = "SECOND_KEY" },
]

[[route]]
name = "smart"
targets = [
  { model = "hosted/claude-x", order = 0, weight = 2, first_event_s = 4 },
  { model = "quick", order = 0 },
  { model = "extractive", order = 1 },
]
"""
VARIABLES = {"FIRST_KEY": "sk-first", "SECOND_KEY": "sk-second"}


def book_of(text: str, variables: dict[str, str] | None = None) -> Book:
    known = VARIABLES if variables is None else variables
    wishes = Wishes(variables=lambda name: known.get(name, ""), built_in={})
    return compiled(read(SHIPPED), parse(text, name="providers.toml"), wishes, {})


def shelf_at(path: Path) -> Shelf:
    return Shelf(path, Wishes(variables=lambda name: VARIABLES.get(name, ""), built_in={}))


def fault_of(text: str) -> str:
    with pytest.raises(RoutesError) as error:
        parse(text, name="providers.toml")
    return str(error.value)


def test_whole_file_becomes_a_book() -> None:
    book = book_of(WHOLE)

    assert book.sources.keys() == {"extractive", "local", "hosted"}
    first, second = book.sources["hosted"].keys
    assert (first.id, first.weight, first.requests_per_minute, first.tokens_per_minute) == (
        "hosted/first",
        3.0,
        50,
        9000,
    )
    assert (second.id, second.weight, second.requests_per_minute) == ("hosted/second_key", 1.0, None)
    assert book.sources["local"].keys[0].line.provider.profile.takes_prefix
    assert book.target("quick").limits.connect_s == 0.5
    assert [(one.model, one.order, one.weight) for one in book.routes["smart"]] == [
        ("hosted/claude-x", 0, 2.0),
        ("local/llama", 0, 1.0),
        ("extractive", 1, 1.0),
    ]
    assert (book.default, book.fallback) == ("smart", ("extractive",))
    book.check()


def test_provider_and_model_of_the_same_name_replace_the_shipped_ones() -> None:
    book = book_of('[[provider]]\nname = "openai"\nkind = "openai"\nkeys = [{ env = "FIRST_KEY" }]\n')

    assert [key.id for key in book.sources["openai"].keys] == ["openai/first_key"]


def test_secret_may_stand_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("sk-mounted\n")
    book = book_of(f'[[provider]]\nname = "openai"\nkind = "openai"\nkeys = [{{ file = "{tmp_path}/key" }}]\n')

    adapter = book.sources["openai"].keys[0].line.provider
    assert isinstance(adapter, OpenAIProvider)
    assert adapter.client.api_key == "sk-mounted"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("[[provider]\n", "providers.toml:1: Expected ']]' at the end of an array declaration"),
        ('default = "a"\ndefault = "b"\n', "providers.toml:2: Cannot overwrite a value"),
        (WHOLE.replace("weight = 3", "weight = -3"), "providers.toml:18: provider 'hosted': keys[0].weight: "),
        (
            WHOLE.replace('env = "SECOND_KEY"', 'key = "sk-secret"'),
            "providers.toml:19: provider 'hosted': keys[1].key: ",
        ),
        (WHOLE.replace('kind = "anthropic"', 'kind = "antropic"'), "providers.toml:16: provider 'hosted': kind: "),
        (WHOLE.replace("order = 1", "order = -1"), "providers.toml:27: route 'smart': targets[2].order: "),
        (WHOLE.replace('quick = "local/llama"', "quick = 7"), "providers.toml:5: aliases.quick: "),
        (WHOLE.replace('name = "smart"', 'name = "sm/art"'), "providers.toml:23: route 'sm/art': name: "),
        (WHOLE.replace('"hosted"', '"local"'), "providers.toml:7: provider: 'local' is listed twice"),
        ("unknown = 1\n", "providers.toml:1: unknown: Extra inputs are not permitted"),
        (
            '\n[[provider]]\nname = "x"\nkind = "openai-compatible"\n',
            "providers.toml:2: provider 'x': a compatible server needs its base_url",
        ),
        (
            '[[provider]]\nname = "x"\nkind = "anthropic"\n',
            "providers.toml:1: provider 'x': Anthropic's format needs at least one key",
        ),
        (
            '[[provider]]\nname = "x"\nkind = "extractive"\nbase_url = "http://x"\n',
            "providers.toml:1: provider 'x': the built-in model has neither keys nor a base_url",
        ),
        (
            '[[provider]]\nname = "x"\nkind = "openai"\nkeys = [{ env = "A", file = "b" }]\n',
            "providers.toml:4: provider 'x': keys[0]: needs either env",
        ),
    ],
)
def test_fault_is_told_with_line_and_reason(text: str, fault: str) -> None:
    assert fault_of(text).startswith(fault)


def test_secret_that_stands_in_the_file_is_not_repeated() -> None:
    assert "sk-secret" not in fault_of(WHOLE.replace('env = "SECOND_KEY"', 'key = "sk-secret"'))


MODEL = """\
[[model]]
name = "v/m"
display_name = "M"
context_tokens = 2000
output_tokens_max = 100
input_price = "2"
output_price = "10"
source = "somewhere"
date = 2026-01-02
"""


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (MODEL.replace('source = "somewhere"\n', ""), "providers.toml:1: model 'v/m': source: Field required"),
        (MODEL.replace('"2"', '"two"'), "providers.toml:6: model 'v/m': input_price: "),
        (MODEL.replace("2026-01-02", '"soon"'), "providers.toml:9: model 'v/m': date: "),
        (MODEL.replace("= 100", "= 2000"), "providers.toml:1: model 'v/m': the answer must leave room for a question"),
        (MODEL + "long_above_tokens = 500\n", "providers.toml:1: model 'v/m': long_above_tokens needs"),
        (MODEL + MODEL, "providers.toml:1: model: 'v/m' is listed twice"),
    ],
)
def test_fault_of_a_model_is_told_with_line_and_reason(text: str, fault: str) -> None:
    assert fault_of(text).startswith(fault)


def test_every_fault_of_a_file_is_told() -> None:
    text = WHOLE.replace("weight = 3", "weight = -3").replace("order = 1", "order = -1")

    assert len(fault_of(text).splitlines()) == 2


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (None, "cannot be read: No such file"),
        (b'default = "\xff"\n', "providers.toml:1: is not UTF-8"),
        (b"#" * (BYTES_MAX + 1), "is larger than"),
    ],
)
def test_file_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None, fault: str) -> None:
    path = tmp_path / "providers.toml"
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(RoutesError, match=fault):
        read(path)


@pytest.mark.parametrize("reference", ['env = "NOBODY_SET_THIS"', 'file = "/nonexistent/key"', 'env = "EMPTY"'])
def test_reference_that_leads_nowhere_is_an_error(reference: str) -> None:
    text = f'[[provider]]\nname = "x"\nkind = "openai"\nkeys = [{{ {reference} }}]\n'

    with pytest.raises(RoutesError, match="provider 'x'"):
        book_of(text)


def test_optional_reference_that_leads_nowhere_switches_the_provider_off() -> None:
    text = '[[provider]]\nname = "x"\nkind = "openai"\nkeys = [{ file = "/nonexistent/key", optional = true }]\n'

    assert "x" not in book_of(text).sources


@pytest.mark.parametrize("text", ['default = "nobody/x"', '[aliases]\na = "nobody/x"', 'fallback = ["nobody/x"]'])
def test_name_that_leads_nowhere_is_an_error(text: str) -> None:
    with pytest.raises(ModelUnknown):
        book_of(text).check()


def test_file_is_optional() -> None:
    assert compiled(read(SHIPPED), File(), Wishes(variables=lambda _name: "", built_in={}), {}).sources.keys() == {
        "extractive"
    }


async def test_changed_file_is_read_again_and_unchanged_adapters_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "providers.toml"
    path.write_text(WHOLE)
    shelf = shelf_at(path)
    before = shelf.router.book

    await shelf.refresh()
    assert shelf.router.book is before

    path.write_text(WHOLE.replace('quick = "local/llama"', 'quick = "hosted/claude-y"'))
    await shelf.refresh()

    assert shelf.router.target("quick").name == "hosted/claude-y"
    assert shelf.router.book.sources["local"].keys[0].line is before.sources["local"].keys[0].line
    await shelf.close()


async def test_broken_file_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "providers.toml"
    path.write_text(WHOLE)
    shelf = shelf_at(path)
    before = shelf.router.book

    for text in ("[[", 'default = "nobody/x"'):
        path.write_text(text)
        await shelf.refresh()

    assert shelf.router.book is before
    await shelf.close()


async def test_changed_secret_is_read_again(tmp_path: Path) -> None:
    secret, path = tmp_path / "key", tmp_path / "providers.toml"
    secret.write_text("sk-old")
    path.write_text(f'[[provider]]\nname = "x"\nkind = "openai"\nkeys = [{{ file = "{secret}" }}]\n')
    shelf = shelf_at(path)

    secret.write_text("sk-newer")
    await shelf.refresh()

    adapter = shelf.router.book.sources["x"].keys[0].line.provider
    assert isinstance(adapter, OpenAIProvider)
    assert adapter.client.api_key == "sk-newer"
    await shelf.close()


async def test_adapter_that_is_no_longer_named_stays_open_while_it_is_used(tmp_path: Path) -> None:
    path = tmp_path / "providers.toml"
    path.write_text(WHOLE)
    async with AsyncExitStack() as stack:
        shelf = shelf_at(path)
        stack.push_async_callback(shelf.close)
        line = shelf.router.book.sources["local"].keys[0].line
        assert isinstance(line.provider, OpenAIProvider)
        with line.used():
            path.write_text("")
            await shelf.refresh()
            assert not line.provider.client.is_closed()

        await shelf.refresh()

        assert line.provider.client.is_closed()


async def test_adapter_of_a_refused_file_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "providers.toml"
    path.write_text(WHOLE)
    shelf = shelf_at(path)
    path.write_text(WHOLE.replace("11434/v1", "11435/v1").replace('"smart"', '"gone"', 1))

    shelf._replace()
    (line,) = shelf._retired
    assert isinstance(line.provider, OpenAIProvider)
    await shelf.refresh()

    assert line.provider.client.is_closed()
    assert shelf.router.book.default == "smart"
    await shelf.close()


def test_models_without_a_price_pass_budgets_only_where_the_file_says_so() -> None:
    assert not book_of("").allows_unpriced
    assert not book_of('unpriced = "refuse"').allows_unpriced
    assert book_of('unpriced = "allow"').allows_unpriced
    assert "unpriced" in fault_of('unpriced = "perhaps"')


PREFIXES = """\
[[provider]]
name = "mixed"
kind = "openai-compatible"
base_url = "http://127.0.0.1:11434/v1"
quirks = { assistant_prefix = true }

[[model]]
name = "mixed/stubborn"
display_name = "Stubborn"
context_tokens = 1000
output_tokens_max = 100
input_price = "0"
output_price = "0"
source = "a test"
date = 2026-11-22
assistant_prefix = false

[[route]]
name = "both"
targets = [
  { model = "mixed/stubborn" },
  { model = "mixed/pliant" },
  { model = "mixed/other", assistant_prefix = false },
]

[[route]]
name = "forced"
targets = [{ model = "mixed/stubborn", assistant_prefix = true }]
"""


def test_a_target_goes_before_its_model_and_that_before_its_provider_on_taking_a_prefix() -> None:
    book = book_of(PREFIXES)

    def told(name: str) -> list[bool]:
        return [target.profile.takes_prefix for target in book.targets(name, lambda: 0.5)]

    assert told("both") == [False, True, False]
    assert told("forced") == [True]
    assert (told("mixed/stubborn"), told("mixed/other")) == ([False], [True])
