"""Columns and groups against the lists that they stand for; questions against a loader that makes every object."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stores import Store
from stores.commit import create_store
from stores.loading import CollectiveSampler, QuestionDataset, VideoDataset, columns, load_questions
from stores.loading.columns import Column, Groups, Rows
from stores.loading.questions import load_nodes, load_vectors
from tests._helpers.building import commit_rows
from tests._helpers.question_worlds import MAPS, maps, put_questions, put_table

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
spans = st.lists(st.lists(st.floats(0, 9), min_size=2, max_size=2), max_size=2)
KINDS: dict[str, tuple[pa.DataType, st.SearchStrategy[Any]]] = {
    "string": (pa.string(), texts),
    "large_string": (pa.large_string(), texts),
    "list<string>": (pa.list_(pa.string()), st.lists(st.none() | texts, max_size=3)),
    "large_list<string>": (pa.large_list(pa.string()), st.lists(texts, max_size=3)),
    "list<list<double>>": (pa.list_(pa.list_(pa.float64())), spans),
    "double": (pa.float64(), st.floats(allow_nan=False)),
    "int32": (pa.int32(), st.integers(-5, 5)),
    "dictionary": (pa.dictionary(pa.int32(), pa.string()), texts),
    "null": (pa.null(), st.none()),
}


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_column_is_the_list_of_its_values(kind: str, data: st.DataObject) -> None:
    """In one array or in several, sliced or not, and with nulls."""
    dtype, strategy = KINDS[kind]
    values = data.draw(st.lists(st.none() | strategy, max_size=12))
    first, last = sorted(data.draw(st.tuples(st.integers(0, len(values)), st.integers(0, len(values)))))
    array = pa.array(values, dtype)
    held = pa.chunked_array([array[first:last], array[:first]], dtype) if data.draw(st.booleans()) else array[first:]
    null: Callable[[], Any] = data.draw(st.sampled_from([columns._none, str]))
    expected = [null() if value is None else value for value in held.to_pylist()]
    column: Column[Any] = Column(held, null)
    assert list(column) == expected and column == expected and expected == column and len(column) == len(expected)
    assert [column[place] for place in range(-len(expected), len(expected))] == expected * 2
    assert column[1:7:2] == expected[1:7:2] and column[::-1] == expected[::-1]
    wanted = data.draw(st.lists(st.integers(0, max(len(expected) - 1, 0)), max_size=6)) if expected else []
    assert column.take(wanted) == [expected[place] for place in wanted]
    assert pickle.loads(pickle.dumps(column)) == expected
    assert column != [*expected, "more"] and pa.array(column).to_pylist() == held.to_pylist()
    for outside in (len(expected), -len(expected) - 1):
        with pytest.raises(IndexError):
            column[outside]


@pytest.mark.parametrize("kept", [0, 3, 100])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches=st.lists(st.lists(st.integers(0, 9), max_size=6), max_size=6))
def test_rows_are_those_of_their_columns(kept: int, batches: list[list[int]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever was kept before, and however few rows are kept."""
    monkeypatch.setattr(columns, "_KEPT", kept)
    first = Column[str](pa.array([f"text {number}" for number in range(10)]))
    second = Column[list[int]](pa.array([[number] for number in range(10)]))
    rows = Rows(first, second)
    for batch in batches:
        assert rows.take(batch) == [first.take(batch), second.take(batch)]
        assert len(rows._made) <= max(kept, *map(len, batches))
    assert pickle.loads(pickle.dumps(rows)).take([1]) == [["text 1"], [[1]]]


@given(st.lists(st.integers(0, 5), max_size=20))
def test_groups_are_the_positions_of_each_group(group: list[int]) -> None:
    groups = Groups(np.array(group, np.int32), 7)
    assert list(groups) == [[place for place, own in enumerate(group) if own == number] for number in range(7)]
    assert groups[-7:2] == [groups[0], groups[1]] and len(groups) == 7


records = st.lists(
    st.fixed_dictionaries(
        {
            "video_id": st.sampled_from("abc"),
            "question": st.text("xyz ?", max_size=6),
            "options": st.none() | st.lists(st.text("mn", max_size=3), max_size=3),
            "answer": st.none() | st.text("mn", max_size=3),
            "answer_index": st.none() | st.integers(0, 3),
            "type": st.none() | st.sampled_from(["CW", "DO"]),
            "modality": st.none() | st.sampled_from(["Audio", "Visual"]),
            "spans": st.none() | spans,
            "duration": st.none() | st.floats(0, 9),
        }
    ),
    min_size=1,
    max_size=10,
)

PLACE = {"dataset": "made", "split": "train"}
quotas = st.dictionaries(st.sampled_from(["Audio", "Visual"]), st.integers(0, 2))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    train=records,
    other=records,
    quotas=st.none() | st.dictionaries(st.sampled_from(["Audio", "Visual"]), st.integers(0, 2)),
)
def test_questions_are_as_a_loader_of_plain_lists_gives_them(
    tmp_path_factory: pytest.TempPathFactory,
    train: list[dict[str, Any]],
    other: list[dict[str, Any]],
    quotas: dict[str, int] | None,
) -> None:
    root = create_store(tmp_path_factory.mktemp("store") / "store")
    commit_rows(root, map(maps, "abc"), feature="maps", spec=MAPS)
    for split, rows in (("train", train), ("val", other)):
        put_questions(root, "made", split, [{"question_id": f"{split}{at}", **row} for at, row in enumerate(rows)])
    graphs = [
        {
            "question_id": f"train{at}",
            "dataset": "made",
            "split": "train",
            "nodes": [f"{at} {node}" for node in range(8)],
        }
        for at in reversed(range(len(train)))
    ]
    put_table(root, "graphs", pa.Table.from_pylist(graphs), "made/train")
    words = sorted({row["question"] for row in train} | {node for graph in graphs for node in graph["nodes"]})
    vectors = pa.array([[float(at), 1.0] for at in range(len(words))], pa.list_(pa.float32(), 2))
    put_table(root, "embeddings", pa.table({"text": words[::-1], "vector": vectors[::-1]}), "encoder")
    with Store.open(root) as store:
        questions = load_questions(store, "train")
        assert questions.ids == [f"train{at}" for at in range(len(train))]
        assert questions.texts == [row["question"] for row in train]
        assert questions.options == [row["options"] or [] for row in train]
        assert questions.answers == [row["answer"] for row in train]
        assert questions.types == [row["type"] or "" for row in train]
        assert questions.modalities == [row["modality"] for row in train]
        assert questions.spans == [[tuple(span) for span in row["spans"] or []] for row in train]
        assert questions.answer_index.tolist() == [
            -1 if row["answer_index"] is None else row["answer_index"] for row in train
        ]
        lengths = [np.nan if row["duration"] is None else row["duration"] for row in train]
        np.testing.assert_array_equal(questions.duration.numpy(), lengths)
        nodes = load_nodes(store, questions)
        assert nodes == [[f"{at} {node}" for node in range(8)] for at in range(len(train))]
        for given_texts, rows in ((questions.texts, list(questions.texts)), (nodes, list(nodes))):
            stored = load_vectors(store, given_texts, None)
            expected = torch.tensor(
                [[words.index(text) for text in ([row] if isinstance(row, str) else row)] for row in rows]
            )
            assert torch.equal(stored.vectors[stored.at][..., 0].reshape(len(rows), -1), expected.float())
            assert torch.equal(load_vectors(store, rows, None).at, stored.at)
        videos = VideoDataset(store, "train", ["maps"])
        assert videos.videos == list(dict.fromkeys(row["video_id"] for row in train))
        assert list(videos.questions_of) == [
            [at for at, row in enumerate(train) if row["video_id"] == video] for video in videos.videos
        ]
        allowed = set(train[0]) if quotas is None else {name for name, quota in quotas.items() if quota}
        eligible = [
            video
            for video, own in enumerate(videos.questions_of)
            if quotas is None or any(train[at]["modality"] in allowed for at in own)
        ]
        train_set = QuestionDataset(store, "train", ["maps"], graphs=True, embeddings=["question", "nodes"])
        last = train_set[-1]
        assert (last.question_ids, last.nodes, last.spans) == (questions.ids[-1:], nodes[-1:], questions.spans[-1:])
        assert videos[-1].video_ids == videos.videos[-1:] and videos[-1].question_ids[0] == questions.ids.take(
            videos.questions_of[-1]
        )
        if eligible:
            sampler = CollectiveSampler(videos, 2, quotas=quotas, shuffle=False)
            assert [video for batch in sampler for video, _ in batch] == eligible
