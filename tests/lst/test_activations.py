"""Activations from disk: a ladder computes with them what it computes beside its backbone."""

import json
from collections import Counter

import pytest
import torch
from petl_bench.methods.lst import attach_lst, cached_activations, joint_training
from safetensors import safe_open
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    Trainer,
    TrainingArguments,
)

from petl_bench.backbones import ports_of

from .conftest import VOCABULARY, tiny_t5

B, S, T, D = 3, 7, 5, 32
FP32 = 4


def tiny_bert():
    torch.manual_seed(0)
    sizes = {"hidden_size": D, "intermediate_size": 64, "max_position_embeddings": 16}
    layers = {"num_hidden_layers": 4, "num_attention_heads": 4, "num_labels": 3}
    return BertForSequenceClassification(BertConfig(vocab_size=VOCABULARY, **sizes, **layers))


def tiny_masked():
    torch.manual_seed(0)
    return BertForMaskedLM(tiny_bert().config)


def tiny_bart():
    torch.manual_seed(0)
    sizes = {"d_model": D, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64}
    layers = {"encoder_layers": 4, "decoder_layers": 4}
    heads = {"encoder_attention_heads": 4, "decoder_attention_heads": 4}
    tokens = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 2}
    config = BartConfig(vocab_size=VOCABULARY, max_position_embeddings=16, **sizes, **layers)
    config.update({**heads, **tokens})
    return BartForConditionalGeneration(config)


def tiny_llama():
    torch.manual_seed(0)
    sizes = {"hidden_size": D, "intermediate_size": 64, "num_key_value_heads": 2}
    layers = {"num_hidden_layers": 4, "num_attention_heads": 4}
    return LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, **sizes, **layers))


def some_batches(family, count):
    generator = torch.Generator().manual_seed(1)
    batches = []
    for _ in range(count):
        source = torch.randint(3, VOCABULARY, (B, S), generator=generator)
        mask = torch.ones_like(source)
        mask[1, -2:] = 0
        batch = {"input_ids": source, "attention_mask": mask}
        if family is tiny_bert:
            batch["labels"] = torch.randint(0, 3, (B,), generator=generator)
        elif family in {tiny_llama, tiny_masked}:
            batch["labels"] = source.masked_fill(mask == 0, -100)
        else:
            batch["labels"] = torch.randint(3, VOCABULARY, (B, T), generator=generator)
        batches.append(batch)
    return batches


def with_ladder(family=tiny_t5, seed=2, **options):
    """Far from its start, so that every part of it shows; its own dropout is on."""
    options = {"reduction": 2, "keep": "1,3", "backbone_dropout": False, **options}
    model = attach_lst(family(), **options).train()
    torch.manual_seed(seed)
    for parameter in model.ladders.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def an_epoch(model, batches, order=None):
    """Losses and gradients of each batch, and a step of the ladder after each."""
    seen = []
    trained = [p for p in model.parameters() if p.requires_grad]
    for index in order or range(len(batches)):
        torch.manual_seed(index)
        loss = model(**batches[index]).loss
        gradients = torch.autograd.grad(loss, trained, allow_unused=True)
        with torch.no_grad():
            for parameter, gradient in zip(trained, gradients, strict=True):
                if gradient is not None:
                    parameter.sub_(gradient, alpha=0.01)
        seen += [loss.detach(), *(g for g in gradients if g is not None)]
    return seen


def counted(model):
    """Calls of whatever is inside the backbone's stacks, by name."""
    calls = Counter()
    for stack in ports_of(model).stacks:
        for part in (stack.module, *stack.outside):
            for name, module in part.named_modules():
                if name:
                    module.register_forward_pre_hook(
                        lambda _module, _args, name=name: calls.update([name])
                    )
    return calls


def same(ours, theirs):
    return len(ours) == len(theirs) > 0 and all(map(torch.equal, ours, theirs))


CASES = {
    "t5": (tiny_t5, {}),
    "t5, lean": (tiny_t5, {"variant": "lean"}),
    "t5, merged": (tiny_t5, {"variant": "side-tuning"}),
    "t5, merged with rungs": (tiny_t5, {"merge": True}),
    "t5, no rungs": (tiny_t5, {"variant": "network-pruning"}),
    "t5, reading rungs": (tiny_t5, {"variant": "cross-attention"}),
    "t5, bottlenecks": (tiny_t5, {"variant": "adapter-blocks"}),
    "bart": (tiny_bart, {}),
    "bert": (tiny_bert, {}),
    "bert, masked": (tiny_masked, {}),
    "bert, merged": (tiny_bert, {"merge": True}),
    "bert, the blog's": (tiny_bert, {"variant": "blog", "width": 16, "heads": 2}),
    "llama": (tiny_llama, {}),
    "llama, merged": (tiny_llama, {"merge": True}),
}


@pytest.mark.parametrize("case", CASES)
def test_a_cached_epoch_is_bit_equal_and_runs_no_backbone(case, tmp_path):
    family, options = CASES[case]
    batches = some_batches(family, 2)
    beside, cached = (with_ladder(family, **options) for _ in range(2))
    calls = counted(cached)
    with cached_activations(cached, tmp_path) as use:
        assert same(an_epoch(cached, batches), an_epoch(beside, batches))
        assert (use.hits, use.misses) == (0, 2)
        assert calls.total() > 0
        calls.clear()
        for order in ([1, 0], [0, 1]):
            assert same(an_epoch(cached, batches, order), an_epoch(beside, batches, order))
        assert not calls
        assert (use.hits, use.misses) == (4, 2)
    # Outside, the model is its own again.
    assert same(an_epoch(cached, batches[:1]), an_epoch(beside, batches[:1]))
    assert calls.total() > 0


def test_a_file_holds_what_the_arithmetic_says(tmp_path):
    """States at two kept layers and the embeddings, and a boolean mask for each attention."""
    model = with_ladder()
    with cached_activations(model, tmp_path) as use:
        an_epoch(model, some_batches(tiny_t5, 1))
    states = 3 * B * (S + T) * D * FP32
    masks = B * S * S + B * T * S  # the encoder's and the decoder's of it; its own hides nothing
    assert bytes_on_disk(tmp_path) == (states + masks, use.written_bytes)


def test_rounded_files_are_half_as_large_and_make_all_epochs_alike(tmp_path):
    batches = some_batches(tiny_t5, 1)
    first, later, exact = (with_ladder(merge=True) for _ in range(3))
    with cached_activations(first, tmp_path, store="bf16"):
        seen = an_epoch(first, batches)
    with cached_activations(later, tmp_path, store="bf16") as use:
        assert same(an_epoch(later, batches), seen)
    assert use.hits == 1
    unrounded = an_epoch(exact, batches)
    assert not same(unrounded, seen)
    torch.testing.assert_close(unrounded[0], seen[0], rtol=2**-6, atol=0)
    states = (3 * B * (S + T) + B * T) * D * FP32 // 2
    assert bytes_on_disk(tmp_path)[0] == states + B * S * S + B * T * S


def bytes_on_disk(folder):
    """Of the one file's tensors, and of the whole file."""
    (path,) = folder.iterdir()
    header = 8 + int.from_bytes(path.read_bytes()[:8], "little")
    whole = path.stat().st_size
    return whole - header, whole


OTHERS = {
    "kept layers": {"keep": "2,3"},
    "side blocks": {"variant": "cross-attention", "keep": "1,3"},
    "the last states": {"merge": True},
}


@pytest.mark.parametrize("other", OTHERS)
def test_a_ladder_that_reads_something_else_has_files_of_its_own(other, tmp_path):
    assert hits_after(with_ladder(**OTHERS[other]), tmp_path) == 0


def test_ladders_that_read_the_same_share_files(tmp_path):
    assert hits_after(with_ladder(reduction=4, temperature=1.0), tmp_path) == 2


def test_another_backbone_has_files_of_its_own(tmp_path):
    """Even one that differs in one weight, its configuration, or the form of its masks."""
    changed = with_ladder()
    with torch.no_grad():
        changed.decoder.block[2].layer[2].DenseReluDense.wo.weight[0, 1] += 0.1
    others = [
        with_ladder(lambda: tiny_t5(seed=1)),
        changed,
        with_ladder(lambda: tiny_t5(layer_norm_epsilon=1e-3)),
        with_ladder(lambda: tiny_t5(attn_implementation="eager")),
        with_ladder().to(torch.bfloat16),
    ]
    (batch,) = some_batches(tiny_t5, 1)
    for files, model in enumerate([with_ladder(), *others], start=1):
        with cached_activations(model, tmp_path) as use:
            an_epoch(model, [batch])
            assert (use.hits, use.misses) == (0, 1)
        assert len(list(tmp_path.iterdir())) == files


def test_another_batch_has_a_file_of_its_own(tmp_path):
    model, (batch,) = with_ladder(), some_batches(tiny_t5, 1)
    others = [
        batch | {"attention_mask": torch.ones_like(batch["attention_mask"])},
        batch | {"labels": batch["labels"].flip(0)},
        {name: tensor[:2] for name, tensor in batch.items()},
    ]
    with cached_activations(model, tmp_path) as use:
        an_epoch(model, [batch, *others])
        assert (use.hits, use.misses) == (0, 4)
        model(batch["input_ids"], batch["attention_mask"], labels=batch["labels"])
        assert use.hits == 1  # by position or by name


def hits_after(model, folder):
    """Hits of an epoch after one that `with_ladder()` has written to the folder."""
    batches = some_batches(tiny_t5, 2)
    for each in (with_ladder(), model):
        with cached_activations(each, folder) as use:
            an_epoch(each, batches)
    return use.hits


def test_autocast_has_files_of_its_own(tmp_path):
    model, batches = with_ladder(), some_batches(tiny_t5, 1)
    with cached_activations(model, tmp_path) as use:
        an_epoch(model, batches)
        for _ in range(2):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = model(**batches[0]).loss
            loss.backward()
    assert (use.hits, use.misses) == (1, 2)


def flipped(content):
    return content[:-1] + bytes([content[-1] ^ 1])


def of_another_batch(content):
    at = content.index(b'key\\":\\"') + len(b'key\\":\\"')
    return content[:at] + (b"1" if content[at : at + 1] == b"0" else b"0") + content[at + 1 :]


HARMS = {
    "cut": lambda content: content[: len(content) // 2],
    "cut to a few bytes": lambda content: content[:5],
    "emptied": lambda _: b"",
    "one bit flipped": flipped,
    "without its description": lambda content: content.replace(b'"about"', b'"other"'),
    "of another batch": of_another_batch,
}


@pytest.mark.parametrize("harm", HARMS)
def test_a_file_that_is_not_whole_is_made_anew(harm, tmp_path):
    model, batches = with_ladder(), some_batches(tiny_t5, 1)
    with cached_activations(model, tmp_path):
        expected = an_epoch(model, batches)
    (path,) = tmp_path.iterdir()
    content = path.read_bytes()
    path.write_bytes(HARMS[harm](content))
    assert path.read_bytes() != content
    with cached_activations(again := with_ladder(), tmp_path) as use:
        assert same(an_epoch(again, batches), expected)
    assert (use.hits, use.misses, use.damaged) == (0, 1, 1)
    assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]


def test_evaluation_and_generation_are_left_alone(tmp_path):
    model, (batch,) = with_ladder(), some_batches(tiny_t5, 1)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}

    def looked_at():
        with torch.no_grad():
            model.eval()
            tokens = model.generate(**inputs, max_new_tokens=4, num_beams=2)
            logits = model(**batch).logits
            model.train()
            torch.manual_seed(0)
            asked = model(**batch, output_hidden_states=True)
            assert len(asked.encoder_hidden_states) == 5
            with model.ladders.disabled():
                plain = model.eval()(**batch).logits
            model.train()
        return [tokens, logits, asked.logits, plain]

    before = looked_at()
    with cached_activations(model, tmp_path) as use:
        assert same(looked_at(), before)
        assert list(tmp_path.iterdir()) == []
        an_epoch(model, [batch])
        an_epoch(model, [batch])
        model.load_state_dict(with_ladder().state_dict())
        assert same(looked_at(), before)
    assert (use.hits, use.misses) == (1, 1)


def test_generation_in_training_mode_is_left_alone(tmp_path):
    """It is no training for that, even where each step looks like one."""
    model, (batch,) = with_ladder(tiny_llama), some_batches(tiny_llama, 1)
    with cached_activations(model, tmp_path) as use:
        model.generate(
            batch["input_ids"],
            attention_mask=batch["attention_mask"],
            max_new_tokens=3,
            use_cache=False,
            pad_token_id=0,
        )
    assert (use.hits, use.misses) == (0, 0)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_pass_writes_nothing_and_harms_none(tmp_path):
    """Whether it fails beside the backbone or while the ladder is fed from a file."""
    model, (batch,) = with_ladder(), some_batches(tiny_t5, 1)

    def fail(module, args):
        raise RuntimeError(f"{type(module).__name__} on purpose, {len(args)}")

    with cached_activations(model, tmp_path) as use:
        for files in (0, 1):
            failing = model.lm_head.register_forward_pre_hook(fail)
            with pytest.raises(RuntimeError, match="on purpose"):
                model(**batch)
            failing.remove()
            assert len(list(tmp_path.iterdir())) == files
            if not files:
                an_epoch(model, [batch])
        an_epoch(model, [batch])
    assert (use.hits, use.misses, use.damaged) == (1, 1, 0)


def test_what_cannot_be_cached_is_refused(tmp_path):
    plain = tiny_t5()
    refused("attach one first", plain, tmp_path)
    refused("backbone_dropout=false", with_ladder(backbone_dropout=True), tmp_path)
    model = with_ladder()
    with joint_training(model):
        refused("the backbone trains", model, tmp_path)
    with pytest.raises(ValueError, match="store is full or bf16"):
        cached_activations(model, tmp_path, store="int8").__enter__()
    model.ladders.activate(None)
    refused("no ladder is active", model, tmp_path)
    assert list(tmp_path.iterdir()) == []


def refused(message, model, folder):
    with pytest.raises(ValueError, match=message) as caught, cached_activations(model, folder):
        pass
    assert "\n" not in str(caught.value)


def test_a_ladder_with_dropout_in_its_backbone_is_refused_when_it_turns_active(tmp_path):
    model, (batch,) = with_ladder(), some_batches(tiny_t5, 1)
    with cached_activations(model, tmp_path):
        attach_lst(model, "second", reduction=2)
        with pytest.raises(ValueError, match="backbone_dropout=false"):
            model(**batch)


def test_nothing_wide_but_states_is_kept_and_nothing_is_pickled(tmp_path):
    """A layer's own input, the encoder's states and relative positions are not in the file."""
    model = with_ladder()
    with cached_activations(model, tmp_path):
        an_epoch(model, some_batches(tiny_t5, 1))
    (path,) = tmp_path.iterdir()
    with safe_open(path, framework="pt") as file:
        names = set(file.keys())
        about = json.loads(file.metadata()["about"])
    states = {f"{stack}.{at}" for stack in ("encoder", "decoder") for at in ("embedding", 1, 3)}
    assert names == states | {"read.0", "read.1"}
    assert about["args"]["decoder.1"] == {"1": None, "4": "read.1"}


def test_trainer_trains_on_whole_batches(tmp_path):
    """Batches made beforehand, shuffled as wholes: an example of the data set is a batch."""
    batches = some_batches(tiny_t5, 4)
    arguments = TrainingArguments(
        output_dir=str(tmp_path / "run"),
        num_train_epochs=3,
        per_device_train_batch_size=1,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
    )
    models = [with_ladder(), with_ladder()]
    for model in models:
        trainer = Trainer(
            model, arguments, train_dataset=batches, data_collator=lambda rows: rows[0]
        )
        if model is models[0]:
            trainer.train()
        else:
            with cached_activations(model, tmp_path / "activations") as use:
                trainer.train()
    assert (use.hits, use.misses) == (8, 4)
    for ours, theirs in zip(*(m.ladders.parameters() for m in models), strict=True):
        assert torch.equal(ours, theirs)
