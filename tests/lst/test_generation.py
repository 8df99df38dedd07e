"""Generation with the cache of backbone and side network, against generation without any."""

import pytest
import torch
from petl_bench.methods.lst import attach_lst
from transformers import DynamicCache, EncoderDecoderCache

SEARCHES = {
    "greedy": {"do_sample": False},
    "beam": {"num_beams": 3},
    "sampling": {"do_sample": True, "top_k": 0},
    "beam sampling": {"num_beams": 3, "do_sample": True},
    "several": {"do_sample": True, "num_return_sequences": 2},
}


def generated(model, batch, **options):
    torch.manual_seed(3)
    inputs = {key: batch[key] for key in ("input_ids", "attention_mask")}
    return model.generate(**inputs, max_new_tokens=10, min_new_tokens=10, **options)


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("variant", ["paper", "cross-attention", "adapter-blocks", "side-tuning"])
def test_the_cache_changes_no_token(variant, search, t5, batch, stirred):
    model = stirred(attach_lst(t5, variant=variant, reduction=2))
    kinds = {"use_cache": True}, {"cache_implementation": "static"}, {"use_cache": False}
    with_cache, static, without = (
        generated(model, batch, **kind, **SEARCHES[search]) for kind in kinds
    )
    assert torch.equal(with_cache, without)
    assert torch.equal(static, without)


def test_the_ladder_is_what_generates(t5, batch, stirred):
    plain = generated(t5, batch)
    model = stirred(attach_lst(t5, reduction=2))
    assert not torch.equal(generated(model, batch), plain)
    with model.ladders.disabled():
        assert torch.equal(generated(model, batch), plain)


def test_encoder_outputs_may_be_made_before(t5, batch, stirred):
    model = stirred(attach_lst(t5, reduction=2))
    inputs = {key: batch[key] for key in ("input_ids", "attention_mask")}
    expected = model(**batch).logits
    encoded = model.get_encoder()(**inputs)
    again = model(
        encoder_outputs=encoded, attention_mask=batch["attention_mask"], labels=batch["labels"]
    )
    assert torch.equal(again.logits, expected)


def test_encoder_outputs_without_a_side_state_are_refused(t5, batch):
    model = attach_lst(t5, reduction=2)
    with model.ladders.disabled():
        encoded = model.get_encoder()(batch["input_ids"], batch["attention_mask"])
    with pytest.raises(ValueError, match="encoder_outputs without a side state"):
        model(encoder_outputs=encoded, labels=batch["labels"])


def test_a_quantised_cache_is_refused(t5):
    class QuantizedCache(DynamicCache):
        pass

    attach_lst(t5, reduction=2)
    cache = EncoderDecoderCache(QuantizedCache(), DynamicCache())
    with pytest.raises(ValueError, match=r"needs a cache of whole sequences, not QuantizedCache"):
        t5(
            input_ids=torch.ones(1, 3, dtype=int),
            decoder_input_ids=torch.ones(1, 1, dtype=int),
            past_key_values=cache,
        )


def test_input_embeddings_are_refused(t5, batch):
    model = attach_lst(t5, reduction=2)
    embedded = t5.shared(batch["input_ids"])
    with pytest.raises(ValueError, match="starts from input_ids"):
        model(inputs_embeds=embedded, labels=batch["labels"])
