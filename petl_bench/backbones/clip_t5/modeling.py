"""CLIP-T5 as a transformers model: T5 whose encoder sees an image's tokens after the text's.

Images come as grid features of a CNN or ViT that is not on the device, or as pixels with a frozen
image encoder in the model. Without an image it is a plain T5.
Source: Shen et al. 2021, arXiv:2107.06383, and Cho et al. 2021, arXiv:2102.02779 (VL-T5), in the
form that Sung et al. 2022, arXiv:2206.06522, section 4.2 trains.

Legend: B batch, I images an example, G cells of the encoder's grid, F feature size, P cells after
pooling, X = I P visual tokens, T text tokens, D hidden size, V vocabulary.
"""

import copy
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import T5Config, T5ForConditionalGeneration
from transformers.models.t5.modeling_t5 import T5LayerNorm, T5Stack

from petl_bench.backbones.clip_t5.positions import count_visual_tokens, position_text_alone
from petl_bench.backbones.ports import Sight


class ClipT5Config(T5Config):  # type: ignore[misc] # transformers is untyped here
    """T5's, and the shape of what an image is made into."""

    model_type = "clip-t5"
    feature_size: int = 2048  # F
    feature_grid: int = 7  # cells a side that features come in
    pooled_grid: int = 6  # cells a side after pooling
    images: int = 2  # at most, an example
    image_encoder: str | None = None  # name of one in the model; None: the batch holds features


class VisualEmbedding(nn.Module):
    """Visual tokens of grid features, [B, I G, F] -> [B, X, D].

    norm(W f + b) + norm(W' box + b') + image order + object order, where boxes (four corners and
    the area) are all zero for grid features, and cell k has the vector of word V - 1 - k.
    """

    def __init__(self, config: Any) -> None:
        super().__init__()
        D = config.d_model
        self.grid, self.pooled_grid = config.feature_grid, config.pooled_grid
        self.features = nn.Linear(config.feature_size, D)
        self.features_norm = T5LayerNorm(D, eps=config.layer_norm_epsilon)
        self.boxes = nn.Linear(5, D)
        self.boxes_norm = T5LayerNorm(D, eps=config.layer_norm_epsilon)
        self.image_order = nn.Embedding(config.images, D)

    def forward(self, features_BGF: torch.Tensor, words_VD: torch.Tensor) -> torch.Tensor:
        """[B, I G, F] and the vocabulary's vectors -> [B, X, D]."""
        pooled_BXF = self._pooled(features_BGF)
        device = pooled_BXF.device
        B, X, _ = pooled_BXF.shape
        cells = self.pooled_grid**2
        # One vector in the end, but computed for every token, as the authors' code does.
        boxes_BX5 = pooled_BXF.new_zeros(B, X, 5)
        image_X = torch.arange(X // cells, device=device).repeat_interleave(cells)
        cell_X = torch.arange(cells, device=device).repeat(X // cells)
        embedded_BXD: torch.Tensor = (
            self.features_norm(self.features(pooled_BXF))
            + self.boxes_norm(self.boxes(boxes_BX5))
            + self.image_order(image_X)
            + F.embedding(len(words_VD) - 1 - cell_X, words_VD)
        )
        return embedded_BXD

    def _pooled(self, features_BGF: torch.Tensor) -> torch.Tensor:
        """The largest value of each feature around every cell of the coarser grid, [B, X, F]."""
        B, tokens, size = features_BGF.shape
        if tokens % self.grid**2:
            raise ValueError(f"{tokens} features are no images of {self.grid} x {self.grid} each")
        if self.grid == self.pooled_grid:
            return features_BGF
        grids = features_BGF.reshape(-1, self.grid, self.grid, size).permute(0, 3, 1, 2)
        pooled = F.adaptive_max_pool2d(grids, self.pooled_grid)
        return pooled.flatten(2).transpose(1, 2).reshape(B, -1, size)


class JointEncoder(T5Stack):  # type: ignore[misc]
    """T5's encoder on text and visual tokens."""

    def __init__(self, config: Any, image_encoder: nn.Module | None = None) -> None:
        super().__init__(config)
        self.visual_embedding = VisualEmbedding(config)
        self.image_encoder = image_encoder
        self.sight: Sight = "whole"
        position_text_alone(self.block[0])
        self.post_init()

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        image_features: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        **others: Any,
    ) -> Any:
        """T5Stack's, on [B, T + X, D]: embedded text, [B, T], and images.

        `image_features` are [B, I G, F]; or `pixel_values` [B, I, channels, height, width].
        """
        if pixel_values is not None:
            if self.image_encoder is None:
                raise ValueError("pixel_values need an image encoder; here is none")
            image_features = self.image_encoder(pixel_values)
        count_visual_tokens(self.block[0], 0)
        if image_features is not None:
            visual_BXD = self.visual_embedding(image_features, self.embed_tokens.weight)
            if self.sight != "none":
                count_visual_tokens(self.block[0], visual_BXD.shape[1])
                if inputs_embeds is None:
                    inputs_embeds, input_ids = self.embed_tokens(input_ids), None
                seen_BXD = visual_BXD.detach() if self.sight == "detached" else visual_BXD
                inputs_embeds = torch.cat([inputs_embeds, seen_BXD], dim=1)
                attention_mask = _all_seen(attention_mask, inputs_embeds.shape[1])
            del visual_BXD  # a side network may hold it; this pass need not
        return super().forward(
            input_ids=input_ids,
            attention_mask=attention_mask,
            inputs_embeds=inputs_embeds,
            **others,
        )


class ClipT5(T5ForConditionalGeneration):  # type: ignore[misc]
    """T5 with a JointEncoder; takes T5's arguments and an image's."""

    config_class = ClipT5Config

    def __init__(self, config: ClipT5Config, image_encoder: nn.Module | None = None) -> None:
        # T5ForConditionalGeneration's own, but for the encoder.
        super(T5ForConditionalGeneration, self).__init__(config)
        self.model_dim = config.d_model
        self.shared = nn.Embedding(config.vocab_size, config.d_model)
        encoder_config = copy.deepcopy(config)
        encoder_config.is_decoder = encoder_config.use_cache = False
        self.encoder = JointEncoder(encoder_config, image_encoder)
        decoder_config = copy.deepcopy(config)
        decoder_config.is_decoder = True
        decoder_config.num_layers = config.num_decoder_layers
        self.decoder = T5Stack(decoder_config)
        self.lm_head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        self.post_init()

    def forward(  # noqa: PLR0917 - in T5's order
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        encoder_outputs: Any = None,
        image_features: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        **others: Any,
    ) -> Any:
        """T5ForConditionalGeneration's, with images as JointEncoder takes them."""
        if encoder_outputs is None:
            encoder_outputs = self.encoder(
                input_ids=input_ids,
                attention_mask=attention_mask,
                inputs_embeds=inputs_embeds,
                image_features=image_features,
                pixel_values=pixel_values,
            )
        mask = _all_seen(attention_mask, encoder_outputs[0].shape[1])
        return super().forward(attention_mask=mask, encoder_outputs=encoder_outputs, **others)


def _all_seen(mask_BT: torch.Tensor | None, length: int) -> torch.Tensor | None:
    """A mask of the text, [B, T], followed by what all may see, [B, length]."""
    return None if mask_BT is None else F.pad(mask_BT, (0, length - mask_BT.shape[1]), value=1)
