"""Words and sentence ends of many languages."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdgen.words import (
    ends_sentence,
    join_unspaced,
    split_sentences,
    split_spaced_words,
    split_words,
)

WORDS = {
    "English": ("Don't stop — it's 3.14!", ["Don't", "stop", "—", "it's", "3.14!"]),
    "Hindi": ("हिन्दी में लिखा।", ["हिन्दी", "में", "लिखा।"]),
    "Amharic": ("ሰላም ለዓለም።", ["ሰላም", "ለዓለም።"]),
    "Amharic with word spaces": ("ሰላም፡ለዓለም።", ["ሰላም፡", "ለዓለም።"]),
    "Arabic": ("مرحبا بالعالم؟", ["مرحبا", "بالعالم؟"]),
    "Korean": ("안녕 세상아.", ["안녕", "세상아."]),
    "Chinese": ("他说：「你好。」2024年", ["他", "说：「", "你", "好。」", "2024", "年"]),
    "Japanese": ("私はカタカナです。", ["私", "は", "カタカナ", "で", "す。"]),
    "Thai": ("น้ำใจ ดี", ["น้", "ำ", "ใ", "จ", "ดี"]),
    "Tibetan": ("བོད་སྐད་", ["བོད་", "སྐད་"]),
    "Chinese and English": ("用 Python写的", ["用", "Python", "写", "的"]),
}


@pytest.mark.parametrize("language", WORDS)
def test_words(language: str) -> None:
    text, expected = WORDS[language]
    assert split_words(text) == expected
    assert [word.strip() for word in split_spaced_words(text)] == expected


SENTENCES = {
    "English": ['He said "Hi." ', "3.14 is it! ", "No?yes "],
    "German": ["Er sagte: „Nein.“ ", "Ja!"],
    "Hindi": ["यह है। ", "वह था॥ ", "क्या? ", "हाँ।"],
    "Amharic": ["ሰላም ነው።", "አዲስ ቀን። ", "እሺ፧"],
    "Chinese": ["你好。", "他说：「好！」", "真的吗？", "真的。"],
    "Arabic": ["ما هذا؟ ", "لا أدري۔ ", "نعم."],
    "Burmese": ["မင်္ဂလာပါ။", "ကောင်းတယ်။"],
}


@pytest.mark.parametrize("language", SENTENCES)
def test_sentences(language: str) -> None:
    sentences = SENTENCES[language]
    assert split_sentences("".join(sentences)) == sentences
    assert all(ends_sentence(sentence) for sentence in sentences if sentence != "No?yes ")
    assert not ends_sentence(f"{sentences[0]}x")


SCRIPTS = st.sampled_from(
    "aé. !?\n\t\u3000你。「」ー々カかทำไ\u0e33ख़ि།་፡።🙂\u200d\u0301\u200b\u00a0"
)


@given(st.lists(SCRIPTS).map("".join))
def test_nothing_is_lost(text: str) -> None:
    assert "".join(split_words(text)) == "".join(text.split())
    assert "".join(split_spaced_words(text)) == text
    assert "".join(split_sentences(text)) == text
    assert len(split_words(text)) <= len(text)


def test_a_word_without_end_is_divided() -> None:
    assert [len(word) for word in split_spaced_words("x" * 2500)] == [1000, 1000, 500]
    assert [len(word) for word in split_spaced_words("é" * 1001 + "你")] == [1000, 1, 1]


def test_lines_are_joined_as_their_script_asks() -> None:
    assert join_unspaced("他说，\n你好。\n  再见\nthe end\n完") == "他说，你好。再见\nthe end\n完"
    assert join_unspaced("안녕\n세상") == "안녕\n세상"
