"""Without a network, a message names what works without one, and no command sends a user back to itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests._helpers.dictionaries import fill, questions
from tests._helpers.jobs import job
from trainers.cra.text import load_pretrained
from trainers.errors import TrainingError


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No host can be reached, through no proxy, and no hub cache holds anything."""

    def unreachable(*_: object, **__: object) -> None:
        raise OSError(101, "Network is unreachable")

    monkeypatch.setattr("settings.network.socket.create_connection", unreachable)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_, **__: None)


@pytest.mark.parametrize("proxy", [{}, {"https": "http://proxy.example:3128"}])
def test_fetch_says_where_to_run_it_and_not_to_run_it(
    proxy: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("settings.network.getproxies", lambda: proxy)
    done = job("weights", "fetch", "cra-nextgqa", "--dir", tmp_path / "w", check=2)
    assert done.stderr.startswith("error: features.clip: ViT-L-14 'openai' cannot be downloaded (")
    assert f"on a machine that has one, and copy {tmp_path / 'w'} from there" in done.stderr
    assert "weights.py" not in done.stderr and done.stderr.count("\n") == 1


def test_the_default_encoder_of_a_dictionary_has_one_that_needs_no_weights(tmp_path: Path) -> None:
    store = fill(tmp_path / "store", questions())
    refused = job("cluster", "--store", store, "--kind", "linguistic", "--k", 6, check=2)
    assert "encoder.name to hashed" in refused.stderr.splitlines()[-1] and "encoder.weights" in refused.stderr
    job("cluster", "--store", store, "--kind", "linguistic", "--k", 6, "--set", "encoder.name=hashed")


def test_a_missing_folder_of_stanza_is_named_in_the_command_that_fills_it(tmp_path: Path) -> None:
    annotations = tmp_path / "val.csv"
    header = "video_id,frame_count,width,height,question,answer,qid,type,a0,a1,a2,a3,a4"
    annotations.write_text(f"{header}\nv,240,96,64,who ran,dog,0,CW,dog,cat,man,boy,girl\n")
    words = ("--format", "nextgqa", "--split", "val", "--store", tmp_path / "store")
    done = job("parse", annotations, *words, "--stanza-dir", tmp_path / "models", check=2)
    assert f"{tmp_path / 'models' / 'resources.json'} cannot be read (no such file)" in done.stderr
    assert "model_dir='models', processors=" in done.stderr and f"to {tmp_path / 'models'}" in done.stderr
    dataset = tmp_path / "dataset.yaml"
    dataset.write_text(
        f"store: s\nannotations: [{{path: {annotations}, format: nextgqa, split: val}}]\n"
        "parse: {stanza: {dir: models}}\n"
    )
    done = job("refresh", dataset, "--plan", check=2)
    assert "model_dir='models'" in done.stderr and "--stanza-dir" not in done.stderr


def test_the_text_encoder_of_a_training_is_not_tried_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[bool] = []

    def load(*_: object, local_files_only: bool = False, **__: object) -> None:
        tried.append(local_files_only)
        raise OSError("no such files in the cache")

    monkeypatch.setattr("transformers.AutoModel.from_pretrained", load)
    with pytest.raises(TrainingError, match=r"text.weights 'roberta-base': could not be loaded from the model hub"):
        load_pretrained("roberta-base")
    assert tried == [True]
