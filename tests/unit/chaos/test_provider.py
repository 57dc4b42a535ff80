import asyncio
from contextlib import AsyncExitStack, closing
from pathlib import Path

from services.inference.app import open_shelf
from services.inference.model import Finished, Generation, Prompt, Started
from services.inference.settings import Settings
from tests.chaos.history import History
from tests.chaos.provider import (
    PREFIXED,
    PROBE,
    PROVIDERS,
    answer,
    keys_of,
    question,
    running_provider,
)
from tests.support.inference import events_of, generator, user


def test_questions_of_a_prompt_are_recognized_in_their_order() -> None:
    assert keys_of(f"{question('alder.1.1.a')} {question('alder.1.2.b')}") == ["alder.1.1.a", "alder.1.2.b"]


def test_answer_names_the_questions_and_is_told_alike_each_time() -> None:
    said = answer(["alder.1.1.a", "alder.1.2.b"], 0)

    assert said == answer(["alder.1.1.a", "alder.1.2.b"], 0)
    assert "".join(said).startswith("You asked alder.1.1.a alder.1.2.b; ")
    assert said[-1] == "end."


def test_another_wording_begins_alike_and_ends_otherwise() -> None:
    texts = {"".join(answer(["alder.1.1.a"], wording)) for wording in range(5)}

    assert len(texts) > 1
    assert len({text[:20] for text in texts}) == 1


def test_answers_hold_characters_of_several_bytes() -> None:
    text = "".join(piece for number in range(20) for piece in answer([f"alder.1.{number}.a"], 0))

    assert len(text.encode()) > len(text)
    assert any(ord(character) > 0xFFFF for character in text)


def test_probes_are_answered_shortly_whatever_their_key() -> None:
    longest = max(len(answer([f"alder.{number}"], 0)) for number in range(100))

    assert max(len(answer([f"alder.{number}.{PROBE}"], 0)) for number in range(100)) < longest / 2


async def test_answer_is_gone_on_with_wherever_it_broke_off(tmp_path: Path) -> None:
    key = f"alder.1.{PROBE}"
    prompt = Prompt(messages=(user(question(key)),))
    async with AsyncExitStack() as stack:
        history = stack.enter_context(closing(History(tmp_path / "history")))
        provider = await stack.enter_async_context(running_provider(history))
        (tmp_path / "providers.toml").write_text(PROVIDERS.format(url=f"http://127.0.0.1:{provider.port}/v1"))
        settings = Settings(auth_target="127.0.0.1:1", providers_file=str(tmp_path / "providers.toml"))
        model = generator(open_shelf(settings, stack).router)

        async def told(standing: str) -> tuple[int, str]:
            wish = Generation(prompt=prompt, model=PREFIXED, continue_from=standing)
            events = await events_of(model, wish)
            started, finished = events[0], events[-1]
            assert isinstance(started, Started)
            assert isinstance(finished, Finished)
            return started.offset, finished.answer.text

        _, whole = await told("")

        lengths = (1, whole.index(";"), whole.index(";") + 2, len(whole) - 4, len(whole))
        found = await asyncio.gather(*(told(whole[:length]) for length in lengths))
        assert found == [(length, whole) for length in lengths]
