"""AVST's and HCRN's parts against their formulas."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests._helpers.coqo_building import inputs, settings, sizes
from trainers.coqo.avst import SpatialGrounding
from trainers.coqo.config import HcrnConfig
from trainers.coqo.decoder import AudioAttention, Decoder
from trainers.coqo.hcrn import HCRN, Aggregation, Hierarchy, RelationUnit
from trainers.coqo.task import build_model


def test_spatial_grounding_is_the_published_formula() -> None:
    """``docs/facts/coqo.md`` section 4.2: s = softmax(V^ . a^), g = s V^, v = Lin(tanh[avgpool(V); g])."""
    torch.manual_seed(0)
    module, audio, frame = SpatialGrounding(8), torch.randn(8), torch.randn(3, 2, 8)
    cells = frame.reshape(6, 8)
    unit = cells / cells.norm(dim=1, keepdim=True)
    s = torch.softmax(unit @ (audio / audio.norm()), 0)
    expected = module.out(torch.tanh(torch.cat([cells.mean(0), s @ unit])))
    torch.testing.assert_close(module(audio, frame), expected)
    pooled = module(audio, frame[0, 0])
    torch.testing.assert_close(pooled, module(audio, frame[:1, :1]))


def test_avst_refuses_several_questions() -> None:
    network = build_model(settings(data={"collective": False}, method="avst"), sizes())
    given = inputs(questions=2)
    with pytest.raises(ValueError, match="one question"):
        network(given.words, given.q_mask, given.audio, given.visual, given.videos)


def test_audio_attention_is_the_formula() -> None:
    """``docs/facts/coqo.md`` section 3.6: alpha = softmax_t((W1 q_i)(W2 F_t)/sqrt(d)), F~ = alpha F + F."""
    torch.manual_seed(0)
    module, questions, audio = AudioAttention(8), torch.randn(2, 3, 8), torch.randn(2, 1, 5, 8)
    valid = torch.ones(2, 5, dtype=torch.bool)
    stressed, alpha = module(questions, audio, valid)
    for b in range(2):
        for i in range(3):
            scores = torch.stack([module.question(questions[b, i]) @ module.audio(f) for f in audio[b, 0]]) / 8**0.5
            expected = scores.softmax(0)
            torch.testing.assert_close(alpha[b, i], expected)
            torch.testing.assert_close(stressed[b, i], expected[:, None] * audio[b, 0] + audio[b, 0])


def test_features_of_each_question_are_read_by_that_question() -> None:
    torch.manual_seed(0)
    config = settings().model
    attention, decoder = AudioAttention(32), Decoder(32, config.qgt).eval()
    questions, memory = torch.randn(2, 3, 32), torch.randn(2, 1, 5, 32)
    valid = torch.tensor([[True] * 5, [True, True, True, False, False]])
    shared, repeated = [attention(questions, features, valid) for features in (memory, memory.expand(-1, 3, -1, -1))]
    torch.testing.assert_close(shared, repeated)
    one = decoder(questions, memory, valid)
    torch.testing.assert_close(decoder(questions, memory.expand(-1, 3, -1, -1).contiguous(), valid), one)
    alone = decoder(questions[:, 1:2], memory, valid)
    torch.testing.assert_close(alone[0][:, 0], one[0][:, 1])


def test_relations_are_of_every_size_under_a_condition() -> None:
    torch.manual_seed(0)
    unit = RelationUnit(4, 5, gated=True).eval()
    objects, condition = torch.randn(2, 5, 4), torch.randn(2, 4)
    out = unit(objects, condition)
    assert out.shape == (2, 3, 4)  # sizes 2, 3 and 4 of 5
    assert unit.gates is not None
    joined = torch.cat([objects[:, [0, 4]].mean(1), condition], -1)  # two evenly spaced objects
    torch.testing.assert_close(out[:, 0], F.elu(unit.fuse[0](joined)) * torch.sigmoid(unit.gates[0](joined)))


def test_subsets_are_drawn_in_training_only() -> None:
    unit, objects = RelationUnit(4, 6, gated=False), torch.randn(1, 6, 4)
    unit.eval()
    assert torch.equal(unit(objects, torch.zeros(1, 4)), unit(objects, torch.zeros(1, 4)))
    unit.train()
    drawn = {tuple(unit(objects, torch.zeros(1, 4)).flatten().tolist()) for _ in range(10)}
    assert len(drawn) > 1


def test_clips_are_evenly_spaced_valid_steps() -> None:
    hierarchy = Hierarchy(4, 3, HcrnConfig(clips=5, frames=6), 0.0)
    x = torch.arange(60.0)[None, :, None].expand(1, 60, 4)
    valid = torch.ones(1, 60, dtype=torch.bool)
    assert hierarchy.split(x, valid)[0, :, :, 0].flatten().tolist() == list(range(0, 60, 2))
    valid[0, 10:] = False
    picked = hierarchy.split(x, valid)[0, :, :, 0].flatten().tolist()
    assert picked == sorted(picked) and set(picked) == set(range(10))


def published_hcrn(network: HCRN, words: Tensor, video: Tensor) -> Tensor:
    """HCRN's open-ended network for one question, written clip by clip from the published description."""
    w, host = network.question, network.hierarchy["visual"]
    embedded = torch.tanh(w.embedding(words))[None]
    _, (h, _) = w.lstm(embedded)
    question = w.out(torch.cat([h[0, 0], h[1, 0]]))  # [d]
    condition = host.question(question)

    def relate(unit: RelationUnit, objects: list[Tensor], given: Tensor) -> list[Tensor]:
        found = []
        for number, size in enumerate(range(2, len(objects))):
            chosen = [objects[i * (len(objects) - 1) // (size - 1)] for i in range(size)]
            mean = torch.stack(chosen).mean(0)
            joined = torch.cat([mean, given.expand_as(mean)], -1)
            relation = F.elu(unit.fuse[number](joined))
            if unit.gates is not None:
                relation = relation * torch.sigmoid(unit.gates[number](joined))
            found.append(relation)
        return found

    count = host.clips * host.frames
    taken = video[torch.arange(count) * len(video) // count].view(host.clips, host.frames, -1)
    motion = torch.stack([(clip[1:] - clip[:-1]).abs().mean(0) for clip in taken])  # raw, as HCRN's motion is
    clips = []
    for clip, moved in zip(taken, motion, strict=True):
        frames = list(network.project["visual"](clip))
        by_motion = relate(host.clip_motion, frames, host.motion(moved))
        clips.append(torch.stack(relate(host.clip_question, by_motion, condition)))
    _, (last, _) = host.motion_sequence(motion[None])
    by_motion = relate(host.video_motion, clips, host.whole_motion(last[0, 0]))
    objects = torch.cat(relate(host.video_question, by_motion, condition))  # [n, d]
    part = host.aggregation
    seen = part.seen(objects)
    weights = part.score(F.elu(part.join(torch.cat([seen, part.asked(question) * seen], -1)))).softmax(0)
    read = (weights * objects).sum(0)
    logits: Tensor = network.classifier(torch.cat([read, network.asked(question)]))
    return logits


def test_hcrn_is_the_published_network() -> None:
    config = settings(data={"collective": False}, method="hcrn", inputs="visual", positions="none")
    torch.manual_seed(0)
    network = build_model(config, sizes(maps=False)).eval()
    assert isinstance(network, HCRN)
    given = inputs(questions=2, count=40, maps=False)
    assert given.visual is not None
    logits = network(given.words, given.q_mask, None, given.visual, given.videos).logits
    for row, number in ((1, 0), (2, 0), (1, 1) if given.q_mask[1, 1] else (1, 0)):
        words = given.words[row, number]
        expected = published_hcrn(network, words[words != 0], given.visual.features[row])
        torch.testing.assert_close(logits[row, number], expected, rtol=1e-4, atol=1e-5)


def test_hcrn_drops_out_and_starts_as_published() -> None:
    """.15 on words, objects and twice in the classifier, .18 on the question; Xavier maps without biases."""
    config = settings(data={"collective": False}, method="hcrn", inputs="visual", dropout=0.15)
    network = build_model(config, sizes(maps=False))
    rates = [module.p for module in network.modules() if isinstance(module, nn.Dropout)]
    assert sorted(rates) == [0.15] * 4 + [0.18]
    assert isinstance(network, HCRN)
    for module in network.modules():
        if isinstance(module, nn.Linear):
            bound = (6 / sum(module.weight.shape)) ** 0.5
            assert 0.7 * bound < module.weight.abs().max() <= bound
            assert module.bias is None or not module.bias.any()
    assert 0.8 < network.question.embedding.weight.abs().max() <= 1


def test_aggregation_is_the_published_formula() -> None:
    part, objects, question = Aggregation(4, 0.15).eval(), torch.randn(2, 5, 4), torch.randn(2, 4)
    assert part.seen.bias is None and part.asked.bias is None
    v, u = objects @ part.seen.weight.T, question @ part.asked.weight.T
    scores = part.score(F.elu(part.join(torch.cat([v, u[:, None] * v], -1))))
    torch.testing.assert_close(part(objects, question), (scores.softmax(1) * objects).sum(1))


def test_the_matching_loss_of_avst_is_the_published_one() -> None:
    """``docs/facts/coqo.md`` section 4.2: cross-entropy of a batch in which right and wrong pairs take turns."""
    torch.manual_seed(0)
    network = build_model(settings(data={"collective": False}, method="avst"), sizes()).train()
    right, wrong = torch.randn(6, 2), torch.randn(6, 2)
    logits = iter((right, wrong))
    network.match.forward = lambda *pair: next(logits)
    given = inputs(questions=1)
    loss = network(given.words, given.q_mask, given.audio, given.visual, given.videos).losses["match"]
    turns = torch.stack([right, wrong], 1).flatten(0, 1)
    expected = torch.nn.functional.cross_entropy(turns, torch.tensor([1, 0] * 6))
    torch.testing.assert_close(loss, expected)
