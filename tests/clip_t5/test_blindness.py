"""What a ladder's backbone sees of an image: nothing, unless it is asked to."""

from pathlib import Path

import pytest
import torch

from petl_bench import registry

SIDE = "lst[reduction=2,keep=all]"
BOTH = "lst[reduction=2,keep=all,extra_input=both]"


def activations(model, batch):
    """What every module of the two frozen stacks returns, by name; and the logits."""
    seen, handles = {}, []
    for name, module in model.named_modules():
        outside = name.startswith("ladders") or "visual_embedding" in name or name == "lm_head"
        if name.startswith(("encoder.block", "decoder.block", "encoder.final", "decoder.final")):
            assert not outside

            def keep(_module, _args, output, name=name):
                seen[name] = output[0] if isinstance(output, tuple) else output

            handles.append(module.register_forward_hook(keep))
    logits = model(**batch).logits
    for handle in handles:
        handle.remove()
    return seen, logits


def other_image(batch):
    return {**batch, "image_features": batch["image_features"] * -1.5 + 0.3}


def test_another_image_changes_no_bit_of_the_backbone_and_every_answer(built, stirred):
    model, batch = built(SIDE)
    stirred(model)
    seen, logits = activations(model, batch)
    seen_other, logits_other = activations(model, other_image(batch))
    assert len(seen) > 100
    for name, value in seen.items():
        assert torch.equal(value, seen_other[name]), name
        assert not value.requires_grad, name
    assert (logits - logits_other).abs().amax(dim=(1, 2)).min() > 1e-4


@pytest.mark.parametrize("spec", ["full", BOTH])
def test_a_backbone_that_is_to_see_it_does(spec, built, stirred):
    model, batch = built(spec)
    stirred(model)
    seen, _ = activations(model, batch)
    seen_other, _ = activations(model, other_image(batch))
    for name, value in seen.items():
        if name.startswith("encoder.block") and name.count(".") == 2:
            assert not torch.equal(value, seen_other[name]), name
            assert value.requires_grad == (spec == "full"), name


@pytest.mark.parametrize("spec", [SIDE, BOTH])
def test_the_visual_embedding_learns_through_the_ladder_alone(spec, built):
    model, batch = built(spec)
    model.train()
    model(**batch).loss.backward()
    embedding = model.encoder.visual_embedding
    assert embedding.features.weight.grad.abs().sum() > 0
    frozen = [*model.encoder.block.parameters(), model.shared.weight]
    assert all(p.grad is None and not p.requires_grad for p in frozen)


def test_with_the_ladder_off_the_backbone_sees_again(built):
    model, batch = built(SIDE)
    model.eval()
    with model.ladders.disabled():
        seen, _ = activations(model, batch)
    assert seen["encoder.block.0"].shape[1] == batch["input_ids"].shape[1] + 4
    seen, _ = activations(model, batch)
    assert seen["encoder.block.0"].shape[1] == batch["input_ids"].shape[1]


def test_a_ladder_is_saved_with_the_visual_embedding_it_learned(built, stirred, tmp_path):
    from petl_bench.methods.lst import load_lst

    model, batch = built(SIDE)
    stirred(model).save_pretrained(tmp_path)
    again, _ = built("full")
    load_lst(again, tmp_path)
    torch.testing.assert_close(again.eval()(**batch).logits, model(**batch).logits)


def test_two_ladders_share_the_visual_embedding_and_it_trains_with_either(built):
    from petl_bench.methods.lst import attach_lst

    model, batch = built(SIDE)
    attach_lst(model, "other", reduction=4)
    for name in ("default", "other"):
        model.ladders.activate(name)
        assert model.encoder.visual_embedding.features.weight.requires_grad
        model.zero_grad()
        model(**batch).loss.backward()
        assert model.encoder.visual_embedding.features.weight.grad is not None


def test_blocks_that_take_text_alone_say_so(tiny):
    from petl_bench.assembly import unsupported
    from petl_bench.case import Case, Workload
    from petl_bench.method_spec import resolve

    choice = resolve("lst", {"variant": "adapter-blocks", "reduction": 2})
    case = Case(backbone=tiny(), method=choice, workload=Workload())
    assert unsupported(case) == "blocks=adapter take no tokens but text"


@pytest.mark.parametrize("spec", ["full", SIDE, BOTH])
def test_generation_with_a_cache_sees_what_training_sees(spec, built, stirred):
    """Greedy tokens are those that one pass over them all would choose."""
    model, batch = built(spec)
    stirred(model)
    given = {key: value for key, value in batch.items() if key != "labels"}
    said = model.generate(**given, max_new_tokens=6, do_sample=False, eos_token_id=None)
    labels = said[:, 1:].contiguous()
    torch.testing.assert_close(model(**given, labels=labels).logits.argmax(dim=-1), labels)


def test_a_pass_that_no_ladder_listened_to_leaves_nothing_behind(built):
    model, batch = built(SIDE)
    text = {key: value for key, value in batch.items() if key != "image_features"}
    before = model.eval()(**text).logits
    with model.ladders.disabled():
        model(**batch)
    assert not [v for v in vars(model.encoder.visual_embedding).values() if torch.is_tensor(v)]
    torch.testing.assert_close(model(**text).logits, before)


def test_a_ladder_is_cut_from_the_backbone_by_what_text_says_of_it(built):
    from petl_bench.methods.lst import cut_from_backbone, fisher_information

    model, batch = built(SIDE)
    text = {key: value for key, value in batch.items() if key != "image_features"}
    embedding = model.encoder.visual_embedding.features.weight.clone()
    cut_from_backbone(model, fisher_information(model, [text]))
    thin = model.ladders["default"].stacks["encoder"].design.thin.position_table.weight
    whole = model.encoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight
    assert torch.equal(thin, whole)
    assert torch.equal(model.encoder.visual_embedding.features.weight, embedding)
    assert model.encoder.visual_embedding.features.weight.requires_grad


@pytest.mark.parametrize("name", registry.names())
def test_every_method_trains_the_visual_embedding_and_leaves_a_frozen_backbone(name, built):
    model, batch = built(name)
    model.train()
    loss = model(**batch)["loss"]
    assert torch.isfinite(loss)
    loss.backward()
    (embedding,) = {m for m in model.modules() if type(m).__name__ == "VisualEmbedding"}
    for key, parameter in embedding.named_parameters():
        assert parameter.requires_grad, key
    assert embedding.features.weight.grad.abs().sum() > 0


def test_the_ladder_names_no_family():
    from petl_bench.methods import lst

    sources = sorted(Path(lst.__file__).parent.glob("*.py"))
    assert len(sources) > 5
    assert [path.name for path in sources if "clip" in path.read_text("utf-8").lower()] == []


def test_activations_beside_images_are_refused(built, tmp_path):
    from petl_bench.methods.lst import cached_activations

    model, _ = built("lst[backbone_dropout=false]")
    folder = tmp_path / "activations"
    with (
        pytest.raises(ValueError, match="the embedding of an extra input trains"),
        cached_activations(model, folder),
    ):
        pass
    assert not folder.exists()
