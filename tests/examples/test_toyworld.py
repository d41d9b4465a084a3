"""The toy world keeps its promises: pictures and sound follow the script, and so do the answers."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from functools import cache
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from examples.toyworld import Actor, GroundingQuestion, Scene, World, Written, build, write
from examples.toyworld.make import write_video
from examples.toyworld.world import ACTIONS, COLOURS, FPS, PLACES, TONES_HZ
from parsers.annotations import Anomalies, read_annotations
from pipeline.extract.config import load_config
from pipeline.media.decoding import decode
from pipeline.media.types import Audio, AudioRequest, DecodeRequest
from stores import Store
from tests._helpers.runs import extract
from tests.conftest import ROOT

SMALL = World(seed=3, train=3, val=1, test=1, test_ood=1, band=3)
COUNTS = ["zero", "one", "two", "three", "four"]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Written]:
    """A world of nine videos on disk."""
    out = tmp_path_factory.mktemp("toyworld")
    return out, write(SMALL, out)


@cache
def large() -> Written:
    """The scripts and questions of the default world."""
    return build(World(seed=0))


def scenes(written: Written) -> dict[str, Scene]:
    return {scene.key: scene for scene in written.scenes}


def frames(path: Path) -> NDArray[np.uint8]:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


# What is written


def test_equal_worlds_are_equal_bytes_whatever_the_workers(small: tuple[Path, Written], tmp_path: Path) -> None:
    folder, written = small
    code = (
        "import sys; from pathlib import Path; from examples.toyworld import World, write\n"
        "if __name__ == '__main__': write(World(3, 3, 1, 1, 1, 3), Path(sys.argv[1]), workers=2)\n"
    )
    (tmp_path / "other.py").write_text(code)
    environment = {"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "7"}
    subprocess.run([sys.executable, tmp_path / "other.py", tmp_path], check=True, env=environment)
    files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    assert len(files) == len(written.scenes) + 4 + 3 + 3 + 3
    assert all((folder / file).read_bytes() == (tmp_path / file).read_bytes() for file in files)


def test_a_larger_world_begins_with_the_smaller_and_another_seed_is_another_world() -> None:
    larger = scenes(build(replace(SMALL, train=5, band=6)))
    assert all(larger[key] == scene for key, scene in scenes(build(SMALL)).items())
    other = scenes(build(replace(SMALL, seed=4)))
    assert all(other[key].actors != scene.actors for key, scene in scenes(build(SMALL)).items())


def test_the_nextgqa_reader_accepts_the_grounding_files(small: tuple[Path, Written]) -> None:
    folder, written = small
    for split in ("train", "val", "test", "test_ood"):
        anomalies = Anomalies()
        rows = read_annotations("nextgqa", folder / "grounding", split, anomalies).to_pylist()
        assert not list(anomalies)
        questions = [question for question in written.grounding if question.split == split]
        assert [row["question_id"] for row in rows] == [f"{question.video_id}_{question.qid}" for question in questions]
        for row, question in zip(rows, questions, strict=True):
            assert (row["question"], row["type"]) == (question.question, question.type)
            assert (tuple(row["options"]), row["answer_index"]) == (question.options, question.answer_index)
            assert row["spans"] == ([] if split == "train" else [list(question.span)])
            assert (row["width"], row["height"]) == (96, 64)
    with (folder / "grounding" / "val.csv").open() as file:
        header = "video_id,frame_count,width,height,question,answer,qid,type,a0,a1,a2,a3,a4"
        assert ",".join(next(csv.reader(file))) == header


def test_the_table_reader_accepts_the_audio_visual_files(small: tuple[Path, Written]) -> None:
    folder, written = small
    for split in ("train", "val", "test"):
        anomalies = Anomalies()
        rows = read_annotations("table", folder / "avqa" / f"{split}.jsonl", split, anomalies).to_pylist()
        assert not anomalies.errors
        assert [(row["question_id"], row["question"], row["answer"], row["type"]) for row in rows] == [
            (question.question_id, question.question, question.answer, question.type)
            for question in written.avqa
            if question.split == split
        ]


def test_truth_holds_every_script(small: tuple[Path, Written]) -> None:
    folder, written = small
    truth = json.loads((folder / "truth.json").read_text())
    assert truth["world"]["language_bias"] == 0.8
    first = truth["scenes"][0]["actors"][0]
    assert first["kind"] == written.scenes[0].actors[0].kind
    assert first["acts"][0]["start_s"] == written.scenes[0].actors[0].acts[0].start_s
    assert len(truth["grounding"]) == len(written.grounding) and len(truth["avqa"]) == len(written.avqa)


# What is drawn and heard


def painted(picture: NDArray[np.uint8], colour: str) -> NDArray[np.bool_]:
    """Pixels near a colour of the palette."""
    return np.abs(picture.astype(int) - COLOURS[colour]).max(-1) < 45


def standing(actor: Actor, time_s: float) -> bool:
    return any(act.start_s <= time_s < act.end_s for act in actor.acts)


def test_a_shape_is_in_the_picture_during_its_span_and_no_other_time(small: tuple[Path, Written]) -> None:
    folder, written = small
    for scene in written.scenes[:6]:
        shown = frames(folder / "videos" / f"{scene.key}.mp4")
        assert len(shown) == scene.seconds * FPS
        for index, picture in enumerate(shown):
            present = {actor.colour for actor in scene.actors if standing(actor, index / FPS)}
            assert len(present) < 2
            assert {colour for colour in COLOURS if painted(picture, colour).sum() > 30} == present, (scene.key, index)


def test_every_action_looks_as_it_is_called(tmp_path: Path) -> None:
    seen = Counter[str]()
    for scene in large().scenes[:8]:
        write_video(scene, tmp_path / "clip.mp4")
        shown = frames(tmp_path / "clip.mp4")
        for actor in scene.actors:
            for act in actor.acts:
                first, last = round(act.start_s * FPS), round(act.end_s * FPS)
                rest, picture = painted(shown[first], actor.colour), shown[(first + last) // 2]
                mask = painted(picture, actor.colour)
                down = np.flatnonzero(mask.any(1)).mean() / 64
                empty_columns = np.diff(np.flatnonzero(mask.any(0))).max() - 1
                looks = {
                    "jump": down < 0.33,
                    "duck": down > 0.67,
                    "grow": mask.sum() > 2 * rest.sum(),
                    "split": empty_columns > 3,
                    "glow": (picture.min(-1) > 225).sum() > 40,
                }
                assert [action for action, does in looks.items() if does] == [act.action]
                seen[act.action] += 1
    assert set(seen) == set(ACTIONS) and sum(seen.values()) == 48


def test_tones_sound_at_the_scripted_seconds(small: tuple[Path, Written]) -> None:
    folder, written = small
    for scene in (written.scenes[0], *written.scenes[-3:]):
        path = folder / "videos" / f"{scene.key}.mp4"
        request = DecodeRequest(str(path), ({"policy": "uniform", "n": 1},), audio=AudioRequest(rates=(8000,)))
        [sound] = [event for event in decode(request) if isinstance(event, Audio)]
        assert sound.state == "present"
        block = 800
        for colour, hertz in TONES_HZ.items():
            wave = np.exp(-2j * np.pi * hertz * np.arange(block) / 8000)
            loud = np.abs(sound.samples[: scene.seconds * 8000].reshape(-1, block) @ wave) / block * 2
            beeps = [beep for actor in scene.actors if actor.colour == colour for beep in actor.beeps]
            scripted = [any(start <= index / 10 < end for start, end in beeps) for index in range(len(loud))]
            assert np.array_equal(loud > 0.1, scripted), (scene.key, colour)


# What the questions are


def answer_of(question: GroundingQuestion, scene: Scene) -> tuple[str, tuple[float, float]]:
    """Answer and span worked out from the words of the question and the script alone."""
    acts = [(actor.name, act) for actor in scene.actors for act in actor.acts]
    base = {third: action for action, third in ACTIONS.items()}
    if which := re.fullmatch(r"which shape (\w+)", question.question):
        [(name, act)] = [(name, act) for name, act in acts if act.action == base[which[1]]]
        return name, (act.start_s, act.end_s)
    what = re.fullmatch(r"what does the (\w+ \w+) do(?: (after|before) the (\w+ \w+) (\w+))?", question.question)
    assert what
    own = [act for name, act in acts if name == what[1]]
    if what[2]:
        [mark] = [act for name, act in acts if name == what[3] and act.action == base[what[4]]]
        own = [act for act in own if (act.start_s > mark.start_s) == (what[2] == "after")]
    [act] = own
    return act.action, (act.start_s, act.end_s)


def test_every_grounding_answer_follows_from_the_script() -> None:
    scene_of = scenes(large())
    for question in large().grounding:
        assert answer_of(question, scene_of[question.video_id]) == (question.answer, question.span)
        assert len(set(question.options)) == 5 and question.options.count(question.answer) == 1
    assert Counter(question.type for question in large().grounding).keys() == {"TC", "TN", "TP", "DO"}
    positions = Counter(question.answer_index for question in large().grounding)
    assert min(positions.values()) > 0.8 * len(large().grounding) / 5


def test_neither_colour_nor_kind_alone_identifies_the_entrance() -> None:
    scene_of = scenes(large())
    for question in large().grounding:
        if question.type != "TC" or question.bias == "none":
            continue
        actors = scene_of[question.video_id].actors
        [subject] = [actor for actor in actors if actor.name in question.question]
        assert sum(actor.colour == subject.colour for actor in actors) > 1
        assert sum(actor.kind == subject.kind for actor in actors) > 1


def favoured(written: Written, split: str, bias: str) -> tuple[float, int]:
    """Return how often the favoured answer is right, and of how many questions."""
    questions = [question for question in written.grounding if (question.split, question.bias) == (split, bias)]
    return sum(question.answer == question.favoured for question in questions) / len(questions), len(questions)


@pytest.mark.parametrize("bias", ["language", "visual"])
def test_biases_are_as_strong_as_set_and_absent_out_of_distribution(bias: str) -> None:
    for split, strength in (("train", 0.8), ("val", 0.8), ("test", 0.8), ("test_ood", 0.2)):
        share, count = favoured(large(), split, bias)
        assert count > 70
        assert abs(share - strength) < 3 * (strength * (1 - strength) / count) ** 0.5, split
    extremes = build(World(train=20, test_ood=20, val=0, test=0, band=0, language_bias=1, visual_bias=1, ood_bias=0))
    assert favoured(extremes, "train", bias)[0] == 1
    assert favoured(extremes, "test_ood", bias)[0] == 0


def test_distractors_carry_no_bias() -> None:
    biased = {(question.video_id, question.span) for question in large().grounding if question.bias != "none"}
    others = [
        (actor.kind, act.action)
        for scene in large().scenes
        if scene.key.startswith("train")
        for actor in scene.actors
        for act in actor.acts
        if (scene.key, (act.start_s, act.end_s)) not in biased
    ]
    jumps = [action == "jump" for kind, action in others if kind == "disc"]
    assert len(jumps) > 80 and np.mean(jumps) < 0.35


def av_answer(text: str, scene: Scene) -> str:
    """The answer to an audio-visual question, worked out from its words and the script alone."""
    stage = [actor for actor in scene.actors if actor.resident]
    beeping = sorted((actor for actor in stage if actor.beeps), key=lambda actor: actor.beeps[0])
    beep = {actor.colour: actor.beeps[0] for actor in scene.actors if actor.beeps}
    place = {("left", "middle", "right")[round((actor.x - 0.23) / 0.27)]: actor for actor in stage}
    words = text.split()
    colours = [word for word in words if word in COLOURS]
    places = [place[word] for word in words if word in PLACES]
    length = {colour: end - start for colour, (start, end) in beep.items()}
    yes = {True: "yes", False: "no"}
    match words:
        case ["how", "many", "different", *_]:
            return COUNTS[len(beep)]
        case ["how", "many", "shapes", "jump"]:
            return COUNTS[sum(bool(actor.acts) for actor in stage)]
        case ["how", "many", "of", *_]:
            return COUNTS[len(beeping)]
        case ["is", "the", *_]:
            return yes[length.get(colours[0], 0) > length.get(colours[1], 0)]
        case ["what", "colour", *_, "first" | "last" as which]:
            return beeping[0 if which == "first" else -1].colour
        case ["what", "colour", *_]:
            return places[0].colour
        case ["which", "colour", *_]:
            [missing] = COLOURS.keys() - {actor.colour for actor in stage}
            return missing
        case ["where", *_, which]:
            subject = beeping[0 if which == "first" else -1]
            return next(name for name, actor in place.items() if actor is subject)
        case [*_, "while", "it", "beeps"]:
            beeps = [(act, beep) for act in places[0].acts for beep in places[0].beeps]
            return yes[any(act.start_s < end_s and act.end_s > start_s for act, (start_s, end_s) in beeps)]
        case [*_, "longer", "than", "the", "shape", "on" | "in", "the", _]:
            return yes[length.get(places[0].colour, 0) > length.get(places[1].colour, 0)]
        case _:
            return yes[bool(places[0].beeps)]


def test_every_audio_visual_answer_follows_from_the_script() -> None:
    scene_of = scenes(large())
    for question in large().avqa:
        assert av_answer(question.question, scene_of[question.video_id]) == question.answer, question


def test_every_band_video_has_the_same_questions_and_no_answer_can_be_guessed_from_the_words() -> None:
    templates_of: dict[str, list[str]] = {}
    answers: dict[str, Counter[str]] = {}
    named = "|".join((*COLOURS, *(f"(?:on the|in the) {place}" for place in PLACES), "first", "last"))
    for question in large().avqa:
        template = re.sub(rf"\b({named})\b", "_", question.question)
        templates_of.setdefault(question.video_id, []).append(template)
        answers.setdefault(question.question, Counter())[question.answer] += 1
    templates = sorted(templates_of[large().avqa[0].video_id])
    assert len(templates) == len(set(templates)) == 11
    assert all(sorted(others) == templates for others in templates_of.values())
    right = sum(counter.most_common(1)[0][1] for counter in answers.values())
    assert right / len(large().avqa) < 0.5


def test_jumps_do_not_reveal_what_beeps() -> None:
    """Whether, when and how long a shape jumps does not depend on whether, when and how long its tone sounds."""
    worlds = [build(World(seed, train=0, val=0, test=0, test_ood=0, band=1000)) for seed in (1, 2)]
    shapes = [actor for world in worlds for scene in world.scenes for actor in scene.actors if actor.resident]
    beeping: dict[bool, list[bool]] = {True: [], False: []}
    for actor in shapes:
        beeping[bool(actor.acts)].append(bool(actor.beeps))
    assert abs(np.mean(beeping[True]) - np.mean(beeping[False])) < 0.04
    both = [(actor.acts[0], actor.beeps[0]) for actor in shapes if actor.acts and actor.beeps]
    jumps = np.array([(act.start_s, act.end_s - act.start_s) for act, _ in both])
    beeps = np.array([(start, end - start) for _, (start, end) in both])
    between = np.corrcoef(jumps.T, beeps.T)[:2, 2:]
    assert len(both) > 2000 and np.abs(between).max() < 0.12, between


def test_audio_visual_questions_are_split_by_question_over_shared_videos() -> None:
    rows = large().avqa
    share = Counter(question.split for question in rows)
    assert [round(share[split] / len(rows), 1) for split in ("train", "val", "test")] == [0.7, 0.1, 0.2]
    videos = {split: {row.video_id for row in rows if row.split == split} for split in share}
    assert len(videos["train"]) == World().band and videos["test"] < videos["train"]
    assert len({question.question_id for question in rows}) == len(rows)
    assert {question.type.rsplit(" ", 1)[0] for question in rows} == {"Audio", "Visual", "Audio-Visual"}
    assert all(question.type.startswith(f"{question.modality} ") for question in rows)
    assert len({question.type for question in rows}) == 9


def test_starts_and_lengths_of_beeps_differ_by_more_than_a_second() -> None:
    for scene in large().scenes:
        if scene.key.startswith("band"):
            beeps = [actor.beeps[0] for actor in scene.actors if actor.beeps]
            assert all(start >= 0 and end <= scene.seconds for start, end in beeps)
            for numbers in ([start for start, _ in beeps], [end - start for start, end in beeps]):
                assert np.diff(sorted(numbers)).min(initial=9.0) > 1.5


def test_impossible_worlds_are_refused() -> None:
    with pytest.raises(ValueError, match=r"visual_bias: 1\.5 is not a probability"):
        World(visual_bias=1.5)
    with pytest.raises(ValueError, match="train: -1 is negative"):
        World(train=-1)


# What a store makes of it


def test_the_command_and_the_preset(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "examples.toyworld", "--seed", "5", "--videos", "5", "--workers", "1", "--out"]
    done = subprocess.run([*command, tmp_path], check=True, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.startswith("8 videos, ")
    result = extract(tmp_path / "videos", tmp_path / "store", load_config("toyworld"))
    assert result.exit_code == 0
    truth = json.loads((tmp_path / "truth.json").read_text())
    with Store.open(tmp_path / "store") as store:
        for scene in truth["scenes"]:
            assert store.row("frames", scene["key"]).shape == (32, 182)
            assert store.row("map", scene["key"]).shape == (16, 3, 3, 13)
            assert store.row("scene", scene["key"]).tobytes() == store.row("map", scene["key"]).tobytes()
            assert store.row("sound", scene["key"]).shape == (16, 16)
            valid = np.arange(16) < scene["seconds"]
            assert store.valid("map", scene["key"]).tolist() == valid.tolist()
            assert store.valid("sound", scene["key"]).tolist() == valid.tolist()


def test_every_sentence_has_a_correct_parse_and_its_triples() -> None:
    """The parsers' own code reads the parses and extracts the triples."""
    from examples.toyworld.grammar import conllu
    from parsers.conllu import from_conllu
    from parsers.graphs import triples

    texts = ["what does the red bar do after the blue ring jumps", "which shape glows", "grow", "green disc"]
    parses = from_conllu(conllu([*texts, texts[0]]))
    assert [parse.text for parse in parses] == texts
    graphs = [[(triple.subject, triple.predicate, triple.object) for triple in triples(parse)] for parse in parses]
    assert ("red bar", "do", "what") in graphs[0] and ("blue ring", "jump", None) in graphs[0]
    assert graphs[1] == [("which shape", "glow", None)] or graphs[1] == [("shape", "glow", None)]
    assert graphs[3] == []
    with pytest.raises(ValueError, match="'who are you' is not a sentence of the toy world"):
        conllu(["who are you"])
