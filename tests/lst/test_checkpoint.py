"""A ladder on disk: bit-equal when it comes back, refused when something is amiss."""

import json

import pytest
import torch
from petl_bench.methods.lst import LadderError, attach_lst, from_pretrained, load_lst


def logits(model, batch):
    with torch.no_grad():
        return model.eval()(**batch).logits


@pytest.fixture
def saved(make_t5, stirred, tmp_path):
    model = stirred(attach_lst(make_t5(), reduction=2, keep="1,3"))
    model.save_pretrained(tmp_path / "ladder")
    return model, tmp_path / "ladder"


def test_a_round_trip_is_bit_equal(saved, make_t5, batch):
    model, folder = saved
    again = load_lst(make_t5(), folder)
    assert torch.equal(logits(again, batch), logits(model, batch))
    inputs = {key: batch[key] for key in ("input_ids", "attention_mask")} | {"max_new_tokens": 5}
    assert torch.equal(again.generate(**inputs), model.generate(**inputs))


def test_the_folder_holds_the_side_network_alone(saved):
    from safetensors.torch import load_file

    model, folder = saved
    tensors = load_file(folder / "model.safetensors")
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert tensors.keys() == trained.keys()
    assert sorted(path.name for path in folder.iterdir()) == [
        "ladder_config.json",
        "model.safetensors",
    ]


def test_the_backbone_comes_along_by_name(make_t5, stirred, tmp_path, batch):
    from transformers import T5ForConditionalGeneration

    make_t5().save_pretrained(tmp_path / "backbone")
    backbone = T5ForConditionalGeneration.from_pretrained(tmp_path / "backbone")
    model = stirred(attach_lst(backbone, reduction=2))
    model.save_pretrained(tmp_path / "ladder")
    again = from_pretrained(tmp_path / "ladder")
    assert type(again) is T5ForConditionalGeneration
    assert torch.equal(logits(again, batch), logits(model, batch))


def test_a_backbone_in_bf16_is_the_same_backbone(saved, make_t5):
    _, folder = saved
    model = load_lst(make_t5().to(torch.bfloat16), folder)
    assert next(model.ladders.parameters()).dtype is torch.bfloat16


def test_another_backbone_is_refused_by_its_values(saved, make_t5):
    _, folder = saved
    with pytest.raises(LadderError, match="this is another: its embeddings are others"):
        load_lst(make_t5(seed=1), folder)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda f: (f / "ladder_config.json").unlink(), "cannot read .*ladder_config.json"),
        (lambda f: (f / "model.safetensors").unlink(), "cannot read .*model.safetensors"),
        (lambda f: cut(f / "model.safetensors", 100), "cut or changed"),
        (lambda f: flip(f / "model.safetensors", -1), "cut or changed"),
        (lambda f: (f / "ladder_config.json").write_text("{"), "ladder_config.json: .*JSON"),
        (lambda f: edit(f, format=2), "format 2; this version reads 1"),
        (lambda f: edit(f, options={"width": "wide"}), "options: width"),
        (lambda f: edit(f, more=1), "more: Extra inputs"),
        (lambda f: edit(f, options={"reduction": 4}), "its tensors are not those of its options"),
    ],
)
def test_what_is_amiss_is_said(harm, message, saved, make_t5):
    _, folder = saved
    harm(folder)
    model = make_t5()
    with pytest.raises(LadderError, match=message):
        load_lst(model, folder)
    assert len(getattr(model, "ladders", ())) == 0


def cut(path, count):
    path.write_bytes(path.read_bytes()[:-count])


def flip(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(bytes(content))


def edit(folder, **changes):
    path = folder / "ladder_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_ladder_under_another_name(saved, make_t5, batch):
    model, folder = saved
    again = load_lst(make_t5(), folder, "second")
    assert list(again.ladders) == ["second"]
    assert torch.equal(logits(again, batch), logits(model, batch))
