"""Classes and their order."""

from __future__ import annotations

from parsers.annotations import music_avqa
from trainers.coqo.answers import AnswerVocabulary


def test_music_avqa_has_the_published_42_classes() -> None:
    """``docs/facts/coqo.md`` section 1.5, and the same list that the annotation reader indexes by."""
    answers = AnswerVocabulary.of("music_avqa", ["suona", "two"])
    assert answers.answers == music_avqa.ANSWERS
    assert (len(answers), answers.answers[0], answers.answers[20], answers.answers[41]) == (
        42,
        "two",
        "more than ten",
        "suona",
    )


def test_other_datasets_do_not_depend_on_the_order_of_rows() -> None:
    one, other = (AnswerVocabulary.of("toy", rows) for rows in (["b", "a", "b"], ["a", "b"]))
    assert one.answers == ("a", "b")
    assert one.digest == other.digest != AnswerVocabulary.of("toy", ["a"]).digest


def test_hidden_and_unseen_answers_have_no_class() -> None:
    answers = AnswerVocabulary(("no", "yes"))
    assert answers.encode([["yes", None, "maybe"], ["no"]], 3).tolist() == [[1, -1, -1], [0, -1, -1]]
