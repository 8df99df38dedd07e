"""A classifier on BART's encoder, which transformers has only with the decoder.

Legend: B batch, S tokens, D hidden size, L labels.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import BartConfig, BartPreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.models.bart.modeling_bart import BartClassificationHead, BartEncoder


class BartEncoderForSequenceClassification(BartPreTrainedModel):  # type: ignore[misc] # untyped
    """BartEncoder and BartForSequenceClassification's head on its first token."""

    def __init__(self, config: BartConfig) -> None:
        super().__init__(config)
        self.encoder = BartEncoder(config)
        self.classifier = BartClassificationHead(
            config.d_model, config.d_model, config.num_labels, config.classifier_dropout
        )
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The token embedding."""
        embedding: nn.Module = self.encoder.embed_tokens
        return embedding

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the token embedding."""
        self.encoder.embed_tokens = value

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **others: Any,
    ) -> SequenceClassifierOutput:
        """Tokens or embeddings, [B, S] or [B, S, D], to logits, [B, L]; labels are [B]."""
        del others  # what callers of every model pass: output_attentions and the like
        states_BSD = self.encoder(
            input_ids=input_ids, attention_mask=attention_mask, inputs_embeds=inputs_embeds
        ).last_hidden_state
        logits_BL = self.classifier(states_BSD[:, 0])
        loss = None if labels is None else F.cross_entropy(logits_BL, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits_BL)
