from tests.chaos.provider import PROBE, answer, keys_of, question


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
