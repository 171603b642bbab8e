"""Where documents begin and end: on text made for the purpose, and that no word is lost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdgen.train.data.documents import TextAndEnd, clean_text, split_lines, split_long_text
from cdgen.words import split_words


def split(rule: str, text: str, ended: bool = False, words: int = 0) -> list[TextAndEnd]:
    return list(split_lines(rule, text.split("\n"), ended, words))


@pytest.mark.parametrize(
    ("rule", "text", "expected"),
    [
        ("rows", "a\nb", [("a\nb", False)]),
        ("rows", " \n", []),
        ("blank_lines", "\n\na\nb\n\n \nc", [("a\nb", True), ("c", False)]),
        ("blank_lines", "a\n\n", [("a", True)]),  # the blank line is the end that is known
        ("endoftext", "a\n\nb\n<|endoftext|>\nc", [("a\n\nb", True), ("c", False)]),
        ("endoftext", "a<|endoftext|>b<|endoftext|>", [("a", True), ("b", True)]),
        ("endoftext", "<|endoftext|><|endoftext|>", []),
        (
            "titles",
            "tail\n= = = A\nOne.\n= = = B\n\nTwo.",
            [("tail", True), ("A\nOne.", True), ("B\n\nTwo.", False)],
        ),
        (
            "titles",
            "= = = A = = =\nOne.\n= = = = See = = = =\nX.",
            [("A\nOne.\n= = = = See = = = =\nX.", False)],
        ),
        # As Simple Wikipedia came to us: the first line of an article is marked too.
        (
            "titles",
            "= = = Cat\n\n= = = A cat purrs.\n\n= = = Dog\n\n= = = Dogs bark.",
            [("Cat\n\nA cat purrs.", True), ("Dog\n\nDogs bark.", False)],
        ),
        # A title without an article does not make a title of every text after it.
        (
            "titles",
            "= = = Foreplay\n= = = Army\n= = = Armies fight.\n= = = Cow\n= = = Cows moo.",
            [("Foreplay", True), ("Army\nArmies fight.", True), ("Cow\nCows moo.", False)],
        ),
        ("chapters", "# I\none\n## II\n\ntwo", [("one", True), ("two", False)]),
    ],
)
def test_documents_are_parted_at_their_marks(
    rule: str, text: str, expected: list[TextAndEnd]
) -> None:
    assert split(rule, text) == expected
    assert split(rule, text, ended=True) == [(document, True) for document, _ in expected]


def test_long_text_is_cut_at_sentence_ends() -> None:
    text = 'One two three. "Four five!" Six\nseven eight. Nine ten.\nEleven'
    assert split("length", text, words=4) == [
        ('One two three. "Four five!"', False),
        ("Six\nseven eight. Nine ten.", False),
        ("Eleven", False),
    ]
    assert split("length", text, ended=True, words=4)[-1] == ("Eleven", True)


LANGUAGES = {
    "Hindi": "यह एक वाक्य है। ",
    "Amharic": "ይህ ዓረፍተ ነገር ነው። ",
    "Amharic, closely set": "ይህ ዓረፍተ ነገር ነው።",
    "Arabic": "هل هذا سؤال؟ ",
    "Chinese": "我们昨天去了北京。",
    "Japanese": "今日は「いい」天気です。",
    "Burmese": "ဒါဟာ ဝါကျ တစ်ခု ဖြစ်တယ်။",
}


@pytest.mark.parametrize("language", LANGUAGES)
def test_documents_end_at_the_sentence_ends_of_their_language(language: str) -> None:
    sentence = LANGUAGES[language]
    found = [text for text, _ in split("length", sentence * 200, words=60)]
    assert all(text.endswith(sentence.strip()) for text in found)
    words = len(split_words(f"{sentence} "))
    sizes = [words * text.count(sentence.strip()) for text in found]
    assert all(60 <= size <= 60 + words for size in sizes[:-1]) and sum(sizes) == 200 * words


def test_text_without_spaces_or_sentence_ends_is_cut_all_the_same() -> None:
    found = [text for text, _ in split("length", "字" * 1000, words=60)]
    assert "".join(found) == "字" * 1000 and {len(text) for text in found[:-1]} == {120}
    data = [text for text, _ in split("length", "x" * 90_000, words=10)]
    assert "".join(data) == "x" * 90_000 and max(map(len, data)) <= 20_000


TEXTS = st.lists(
    st.lists(st.sampled_from(["a", "Bo.", "c!\u201d", "d?'", ".", ""]), max_size=30).map(" ".join),
    max_size=8,
)


@given(TEXTS, st.integers(1, 9))
def test_pieces_have_the_length_asked_for_and_every_word(lines: list[str], words: int) -> None:
    found = list(split_lines("length", lines, False, words))
    assert [w for text, _ in found for w in text.split()] == "\n".join(lines).split()
    sizes = [len(text.split()) for text, _ in found]
    assert all(size <= 2 * words for size in sizes)
    assert all(size >= words for size in sizes[:-1])
    assert not any(ended for _, ended in found)


@given(TEXTS, st.sampled_from(["blank_lines", "endoftext", "titles"]), st.booleans())
def test_no_word_is_lost_and_at_most_the_last_document_is_cut_off(
    lines: list[str], rule: str, ended: bool
) -> None:
    found = list(split_lines(rule, lines, ended))
    assert [w for text, _ in found for w in text.split()] == "\n".join(lines).split()
    assert all(end for _, end in found[:-1])
    assert not ended or all(end for _, end in found)


def test_short_text_stays_whole() -> None:
    assert split_long_text("One. Two.", 3) == ["One. Two."]
    assert len(split_long_text("我们去了北京。" * 40, 100)) == 3
    assert split_long_text("One. Two. Three.\nFour.", 2) == ["One. Two.", "Three.\nFour."]


def test_cleaning_joins_lines_or_paragraphs() -> None:
    text = "There were\nfour _little_ rabbits\u2014\u201cfour\u201d.\n\n* * *\n\n[Illustration: a\nrabbit]They ran."  # noqa: E501
    assert clean_text(text, "paragraphs") == ('There were four little rabbits--"four".\nThey ran.')
    assert clean_text(text, "lines") == ('There were\nfour little rabbits--"four".\nThey ran.')


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("„Ja“, sagte er, ‚nein‘.", "\"Ja\", sagte er, 'nein'."),
        ("„Tak”, powiedział.", '"Tak", powiedział.'),
        ("“Yes,” he said. ‘No.’", "\"Yes,\" he said. 'No.'"),
        ("«Да», „нет“ 「好」", '«Да», "нет" 「好」'),
    ],
)
def test_quotes_keep_their_pair(text: str, cleaned: str) -> None:
    assert clean_text(text, "lines") == cleaned


def test_wrapped_lines_of_a_script_without_spaces_are_joined_without_one() -> None:
    assert clean_text("我们去了\n北京。\n\n第二\n段", "paragraphs") == "我们去了北京。\n第二段"
