"""Image encoders on the device: pixels in, frozen."""

import pytest
import torch
from petl_bench.methods.lst import attach_lst, from_pretrained
from torch import nn
from transformers import T5ForConditionalGeneration

from petl_bench import method, registry
from petl_bench.backbones import ports_of
from petl_bench.backbones.clip_t5.images import FrozenImageEncoder
from petl_bench.backbones.clip_t5.modeling import ClipT5, ClipT5Config


class TinyCnn(nn.Module):
    """As timm's: maps of features before pooling and classifier."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 10, kernel_size=4, stride=4), nn.BatchNorm2d(10)

    def forward_features(self, images):
        return self.norm(self.conv(images))


def tiny_vit():
    from transformers import CLIPVisionConfig, CLIPVisionModel

    return CLIPVisionModel(
        CLIPVisionConfig(
            hidden_size=10,
            intermediate_size=12,
            num_hidden_layers=1,
            num_attention_heads=2,
            image_size=12,
            patch_size=4,
        )
    )


@pytest.fixture(params=[TinyCnn, tiny_vit], ids=["CNN", "ViT"])
def network(request):
    torch.manual_seed(0)
    return request.param()


@pytest.fixture
def make(network, tiny):
    def build(name="full", **config):
        shape = ClipT5Config(**tiny().config, decoder_start_token_id=0)
        model = ClipT5(shape, FrozenImageEncoder(network))
        chosen = registry.get(name)
        return method.attach(chosen, model, ports_of(model), chosen.config(**config))

    return build


BATCH = {
    "input_ids": torch.tensor([[5, 6, 7], [8, 9, 10]]),
    "labels": torch.tensor([[3, 4], [5, 6]]),
}


def test_pixels_are_the_features_that_the_encoder_makes(make, network):
    model = make().eval()
    pixels = torch.randn(2, 2, 3, 12, 12)
    features = []
    for image in pixels.flatten(0, 1):
        if isinstance(network, TinyCnn):
            features.append(network.eval().forward_features(image[None])[0].flatten(1).T)
        else:
            features.append(network(image[None]).last_hidden_state[0, 1:])
    features = torch.stack(features).unflatten(0, (2, 2)).flatten(1, 2)
    assert features.shape == (2, 18, 10)
    torch.testing.assert_close(
        model(**BATCH, pixel_values=pixels).logits,
        model(**BATCH, image_features=features).logits,
    )


@pytest.mark.parametrize(("name", "config"), [("full", {}), ("lst", {"reduction": 2})])
def test_training_leaves_the_encoder_as_it_was(make, network, name, config):
    model = make(name, **config).train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    model(**BATCH, pixel_values=torch.randn(2, 1, 3, 12, 12)).loss.backward()
    assert not any(p.requires_grad or p.grad is not None for p in network.parameters())
    assert not any(module.training for module in network.modules())
    for key, value in network.state_dict().items():
        assert torch.equal(value, before[key]), key
    assert model.encoder.visual_embedding.features.weight.grad is not None


def test_pixels_without_an_encoder_are_refused(built):
    model, batch = built()
    del batch["image_features"]
    with pytest.raises(ValueError, match="pixel_values need an image encoder"):
        model(**batch, pixel_values=torch.zeros(3, 1, 3, 12, 12))


@pytest.mark.parametrize("cache", [{}, {"cache_implementation": "static"}])
def test_a_ladder_comes_back_with_its_backbone_and_its_visual_embedding(cache, tiny, tmp_path):
    """From T5's own weights, as CLIP-T5 starts: what sees images is new, and the ladder's."""
    shape = ClipT5Config(**tiny().config, decoder_start_token_id=0, pad_token_id=0)
    torch.manual_seed(0)
    T5ForConditionalGeneration(shape).save_pretrained(tmp_path / "t5")
    plain = ClipT5.from_pretrained(tmp_path / "t5", config=shape)
    model = attach_lst(plain, reduction=2, keep="all").eval()
    for parameter in model.ladders.parameters():
        nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(tmp_path / "ladder")
    again = from_pretrained(tmp_path / "ladder", config=shape).eval()
    assert type(again) is ClipT5
    inputs = {"input_ids": torch.arange(2, 12).view(2, 5), "image_features": torch.randn(2, 9, 10)}
    with torch.no_grad():
        told = [
            each.generate(**inputs, **cache, max_new_tokens=5, min_new_tokens=5)
            for each in (model, again)
        ]
    assert torch.equal(*told)
    assert torch.equal(told[0], model.generate(**inputs, max_new_tokens=5, min_new_tokens=5))
