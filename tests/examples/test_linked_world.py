"""Worlds of the kinds ``linked`` and ``free`` have the statistics that docs/toyworld.md argues from."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

import av
import numpy as np
import pytest

from examples.toyworld import KINDS, AvQuestion, GroundingQuestion, Scene, World, Written, build, write
from examples.toyworld.linked import Shots, Voiced
from examples.toyworld.linked.band import TONES
from examples.toyworld.wording import WORDINGS
from examples.toyworld.world import ACTIONS, BACKGROUNDS, COLOURS, FPS, PLACES
from parsers.annotations import Anomalies, read_annotations
from parsers.components import components
from parsers.conllu import from_conllu

SPLITS = ("train", "val", "test", "test_ood", "test_wording", "test_backdrop")
CHANCE = 1 / 5
WORDING_ANSWER = dict(zip((noun for noun, _ in WORDINGS), ACTIONS, strict=True))
BACKDROP_ANSWER = dict(zip(BACKGROUNDS, ACTIONS, strict=True))


@cache
def large() -> Written:
    return build(KINDS["linked"].world(0), "linked")


@cache
def scenes() -> dict[str, Scene]:
    return {scene.key: scene for scene in large().scenes}


def entrance(question: GroundingQuestion) -> tuple[str, float, float]:
    """The answer and the span, from the words of the question and the script alone."""
    asked = re.fullmatch(r"what \w+ does the (\w+ \w+) \w+", question.question)
    assert asked
    [act] = [act for actor in scenes()[question.video_id].actors if actor.name == asked[1] for act in actor.acts]
    return act.action, act.start_s, act.end_s


def by_wording(question: GroundingQuestion) -> str:
    return WORDING_ANSWER[question.question.split()[1]]


def by_backdrop(question: GroundingQuestion) -> str:
    return BACKDROP_ANSWER[scenes()[question.video_id].background_at(entrance(question)[1])]


def share(split: str, rule: Callable[[GroundingQuestion], str]) -> float:
    questions = [question for question in large().grounding if question.split == split]
    return float(np.mean([rule(question) == question.answer for question in questions]))


def information(pairs: Iterable[tuple[str, str]]) -> float:
    """Mutual information in bits of the joint distribution that pairs show."""
    joint = Counter(pairs)
    total = sum(joint.values())
    left, right = Counter[str](), Counter[str]()
    for (one, other), count in joint.items():
        left[one] += count
        right[other] += count
    return sum(n / total * np.log2(n * total / (left[a] * right[b])) for (a, b), n in joint.items())


def test_what_the_named_shape_does_is_always_the_answer() -> None:
    for question in large().grounding:
        assert entrance(question) == (question.answer, *question.span)
        assert sorted(question.options) == sorted(ACTIONS)
    assert Counter(question.split for question in large().grounding) == {
        split: 5 * (360 if split == "train" else 40) for split in SPLITS
    }


@pytest.mark.parametrize(
    ("rule", "strength", "broken"), [(by_wording, 0.6, "test_wording"), (by_backdrop, 0.8, "test_backdrop")]
)
def test_a_confounder_goes_with_the_answer_except_where_its_link_is_broken(
    rule: Callable[[GroundingQuestion], str], strength: float, broken: str
) -> None:
    for split in SPLITS:
        expected = CHANCE if split in (broken, "test_ood") else strength
        assert abs(share(split, rule) - expected) < 0.09, split
    train = [question for question in large().grounding if question.split == "train"]
    ood = [question for question in large().grounding if question.split in (broken, "test_ood")]
    assert information((rule(question), question.answer) for question in train) > 0.5
    assert information((rule(question), question.answer) for question in ood) < 0.06


def test_the_confounders_are_independent_of_one_another_given_the_answer() -> None:
    """Both agree with the answer as often as two independent links do."""
    train = [question for question in large().grounding if question.split == "train"]
    both = np.mean([by_wording(question) == by_backdrop(question) == question.answer for question in train])
    assert abs(both - 0.6 * 0.8) < 0.03


def test_other_entrances_carry_the_links_too_so_that_shots_must_be_told_apart() -> None:
    """A backdrop of a wrong shot tells nothing: the answer is independent of it."""
    pairs = []
    for question in large().grounding:
        for start_s, backdrop in getattr(scenes()[question.video_id], "shots", ()):
            if question.split == "train" and not start_s <= question.span[0] < start_s + 1.4:
                pairs.append((backdrop, question.answer))
    assert len(pairs) > 4000 and information(pairs) < 0.02


# Band videos


def band_scene(question: AvQuestion) -> dict[str, Voiced]:
    """The shapes on stage by place."""
    actors = [actor for actor in scenes()[question.video_id].actors if isinstance(actor, Voiced) and actor.resident]
    return dict(zip(PLACES, sorted(actors, key=lambda actor: actor.x), strict=True))


def seen_while_heard(question: AvQuestion, tone: str) -> str:
    """The place of the shape that jumps while a tone sounds, by time alone."""
    actors = [actor for actor in scenes()[question.video_id].actors if isinstance(actor, Voiced)]
    [(start, end)] = [beep for actor in actors if actor.tone == tone for beep in actor.beeps]
    overlapping = [
        place
        for place, actor in band_scene(question).items()
        if any(act.start_s < end and start < act.end_s for act in actor.acts)
    ]
    [place] = overlapping
    return place


def closest(stage: dict[str, Voiced], place: str) -> str:
    ordered = list(PLACES)
    if place != "middle":
        return "middle"
    left, middle, right = (stage[name].x for name in ordered)
    return "left" if middle - left < right - middle else "right"


def jumps_most(question: AvQuestion, _tone: str) -> str:
    """The place of a shape that jumps more often than the others: the best guess of who only sees."""
    stage = band_scene(question)
    return max(stage, key=lambda place: len(stage[place].acts))


def av_answer(question: AvQuestion, maker: Callable[[AvQuestion, str], str] = seen_while_heard) -> str:
    """The answer, worked out from the words, the script and a rule for which shape makes a tone."""
    stage, words = band_scene(question), question.question.split()
    place_of = {actor.colour: place for place, actor in stage.items()}
    beeps = sorted(
        (beep, actor.tone)
        for actor in scenes()[question.video_id].actors
        if isinstance(actor, Voiced)
        for beep in actor.beeps
    )
    counts = ("zero", "one", "two", "three", "four")
    match words:
        case ["how", "many", "different", *_]:
            return counts[len({tone for _, tone in beeps})]
        case ["which", "tone", *_, which]:
            return beeps[0 if which == "first" else -1][1]
        case ["how", "many", *_, "twice"]:
            return counts[sum(len(actor.acts) > 1 for actor in stage.values())]
        case ["does", "the", colour, *_, tone, "tone"]:
            return "yes" if stage[maker(question, tone)].colour == colour else "no"
        case ["where", *_, tone, "tone"]:
            return maker(question, tone)
        case ["what", "colour", *_, "left" | "right" as side, "of", "the", colour, "shape"]:
            step = -1 if side == "left" else 1
            return stage[list(PLACES)[list(PLACES).index(place_of[colour]) + step]].colour
        case [*_, "nearest", "to", "the", "one", "that", "makes", "the", tone, "tone"]:
            return stage[closest(stage, maker(question, tone))].colour
        case [*_, "nearest", "to", "the", colour, "shape"]:
            return stage[closest(stage, place_of[colour])].colour
        case [*_, tone, "tone"]:
            return stage[maker(question, tone)].colour
    raise AssertionError(question.question)


def test_every_audio_visual_answer_follows_from_what_is_seen_while_it_is_heard() -> None:
    assert len(large().avqa) == 9 * 400
    for question in large().avqa:
        assert av_answer(question) == question.answer, question


def owned() -> list[tuple[AvQuestion, str]]:
    """Questions for the colour of the shape that makes a tone, with the tone."""
    pattern = re.compile(r"what colour is the shape that makes the (\w+) tone")
    return [(q, found[1]) for q in large().avqa if (found := pattern.fullmatch(q.question))]


def test_a_tone_tells_nothing_about_colour_or_place() -> None:
    """In the kind ``shapes`` each colour has one tone; here the best fixed colour of each tone is near chance."""
    pairs = [(tone, question.answer) for question, tone in owned()]
    assert information(pairs) < 0.05
    best = sum(max(Counter(colour for tone, colour in pairs if tone == name).values()) for name in TONES)
    assert best / len(pairs) < 0.36
    where = [
        (q.question.split()[-2], q.answer) for q in large().avqa if q.question.startswith("where is the shape that")
    ]
    assert information(where) < 0.05


def test_what_jumps_does_not_tell_which_tone_it_makes() -> None:
    """Of the shapes that jump, one at random makes the tone: who only sees guesses among two or three."""
    guess = [1 / sum(bool(actor.acts) for actor in band_scene(question).values()) for question, _ in owned()]
    assert 0.3 < np.mean(guess) < 0.42


def test_words_alone_do_not_give_the_answer() -> None:
    """Who answers each question by the most frequent answer to the same words is right in less than half."""
    answers: dict[str, Counter[str]] = {}
    for question in large().avqa:
        answers.setdefault(question.question, Counter())[question.answer] += 1
    right = sum(counter.most_common(1)[0][1] for counter in answers.values())
    assert right / len(large().avqa) < 0.5


def test_who_only_sees_has_half_of_the_audio_visual_answers() -> None:
    questions = [question for question in large().avqa if question.modality == "Audio-Visual"]
    right = np.mean([av_answer(question, jumps_most) == question.answer for question in questions])
    assert 0.4 < right < 0.55, right


def test_the_middle_shape_is_clearly_closer_to_one_side() -> None:
    for scene in large().scenes:
        if scene.key.startswith("band"):
            left, middle, right = sorted(actor.x for actor in scene.actors if actor.resident)
            assert abs((middle - left) - (right - middle)) > 0.07
            assert min(middle - left, right - middle) > 0.12


# Files and films


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Written]:
    """A world of eight videos on disk."""
    out = tmp_path_factory.mktemp("linked")
    return out, write(World(seed=3, train=1, val=1, test=1, test_ood=1, band=2), out, kind="linked")


def test_the_files_are_of_all_splits_and_name_the_kind(small: tuple[Path, Written], tmp_path: Path) -> None:
    folder, written = small
    assert json.loads((folder / "truth.json").read_text())["kind"] == "linked"
    for split in SPLITS:
        anomalies = Anomalies()
        rows = read_annotations("nextgqa", folder / "grounding", split, anomalies).to_pylist()
        assert not list(anomalies)
        assert [row["question"] for row in rows] == [q.question for q in written.grounding if q.split == split]
    listed = json.loads((folder / "dataset.yaml").read_text())["annotations"]
    assert [entry["split"] for entry in listed] == [*SPLITS, "train", "val", "test"]
    write(World(seed=3, train=1, val=1, test=1, test_ood=1, band=2), tmp_path, kind="linked")
    files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    assert len(files) == len(written.scenes) + 6 + 5 + 3 + 3
    assert all((folder / file).read_bytes() == (tmp_path / file).read_bytes() for file in files)


def test_each_shot_shows_its_backdrop(small: tuple[Path, Written]) -> None:
    folder, written = small
    scene = written.scenes[0]
    assert isinstance(scene, Shots) and len(scene.shots) == 5
    with av.open(str(folder / "videos" / f"{scene.key}.mp4")) as container:
        shown = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    for index, picture in enumerate(shown):
        corners = picture[[0, 1, -2, -1]][:, [0, 1, -2, -1]]  # no shape reaches them
        wanted = np.array(BACKGROUNDS[scene.background_at(index / FPS)])
        assert np.abs(corners.reshape(-1, 3).mean(0) - wanted).max() < 12, index


def test_free_questions_mean_the_same_in_other_words_and_are_parsed() -> None:
    sizes = {"train": 40, "val": 0, "test": 0, "test_ood": 4, "band": 0}
    plain, free = build(World(5, **sizes)), build(World(5, **sizes), "free")
    assert free.scenes == plain.scenes and not free.avqa
    from examples.toyworld.grammar import conllu

    texts = list(dict.fromkeys(question.question for question in free.grounding))
    parses = {parse.text: parse for parse in from_conllu(conllu([*texts, *ACTIONS]))}
    used = Counter[str]()
    for one, other in zip(plain.grounding, free.grounding, strict=True):
        assert (one.answer, one.options, one.span) == (other.answer, other.options, other.span)
        colours = [[word for word in q.question.split() if word in COLOURS] for q in (one, other)]
        assert colours[0] == colours[1]
        found = components(parses[other.question], parses["jump"])
        used[str(found["question_type"]) + " " + str(found["verbs"])] += 1
        if wording := re.fullmatch(r"what (\w+) does the \w+ (\w+) (\w+)(.*)", other.question):
            assert (wording[1], wording[3]) in WORDINGS
            assert found["subject"] == wording[2] and found["verbs"][0] == wording[3]
        else:
            assert other.question.startswith(("what does the ", "which ", "what shape ", "what figure "))
    changed = {question.question for question in free.grounding} - {question.question for question in plain.grounding}
    assert len(changed) > 99
