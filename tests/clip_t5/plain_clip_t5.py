# ruff: noqa: PLR0917 - formulas of many variables
"""CLIP-T5 and a ladder beside it, written out with nothing but tensors, on plain_lst's layers.

Source: Sung et al. 2022, section 4.2, and the authors' code. No dropout. Legend: B batch, T text
tokens, X visual tokens, S = T + X, D width.
"""

import torch

from ..lst.plain_lst import Shape, block, norm, relative_bias  # noqa: TID252 - not installed

SHAPE = Shape(heads=4, kept=(0, 1, 2, 3), temperature=0.1)
NAME = "encoder.visual_embedding"


def visual_tokens(w, features_BGF, grid, pooled):
    """[B, X, D]: token by token."""
    rows = []
    for example in features_BGF:
        tokens = []
        for number, image in enumerate(example.split(grid**2)):
            for cell, feature in enumerate(pooled_cells(image, grid, pooled)):
                x = w[f"{NAME}.features.weight"] @ feature + w[f"{NAME}.features.bias"]
                x = norm(x, w[f"{NAME}.features_norm.weight"])
                x = x + norm(
                    w[f"{NAME}.boxes.bias"], w[f"{NAME}.boxes_norm.weight"]
                )  # box of zeros
                x = x + w[f"{NAME}.image_order.weight"][number] + w["shared.weight"][-1 - cell]
                tokens.append(x)
        rows.append(torch.stack(tokens))
    return torch.stack(rows)


def pooled_cells(image_GF, grid, pooled):
    """The largest of the cells that each coarser cell touches, row by row."""
    found = []
    for row in range(pooled):
        for column in range(pooled):
            touched = [
                image_GF[r * grid + c]
                for r in span(row, grid, pooled)
                for c in span(column, grid, pooled)
            ]
            found.append(torch.stack(touched).max(dim=0).values)
    return found


def span(cell, grid, pooled):
    return range(cell * grid // pooled, -(-(cell + 1) * grid // pooled))


def text_bias(table, text, visual):
    """[H, S, S]: T5's among the text, 0 to and from what is none."""
    bias = torch.zeros(table.shape[1], text + visual, text + visual)
    bias[:, :text, :text] = relative_bias(table, text, True, SHAPE)
    return bias


def table(w, stack):
    return w[f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"]


def run(w, stack, x, bias, seen, memory):
    states = []
    for layer in range(4):
        x = block(w, f"{stack}.block.{layer}", SHAPE.heads, x, bias, seen, memory)
        states.append(x)
    return states


def seen_by_all(mask_BT, visual):
    """[B, 1, S]: padding is hidden, an image is not."""
    B = len(mask_BT)
    return torch.cat([mask_BT.bool(), torch.ones(B, visual, dtype=torch.bool)], dim=1)[:, None]


def decoder_input(labels_BT):
    shifted = torch.cat([torch.zeros_like(labels_BT[:, :1]), labels_BT[:, :-1]], dim=1)
    return shifted.masked_fill(shifted == -100, 0)


def logits(w, batch, visual_BXD):
    """The backbone on text and image, [B, T', V]."""
    E, X = w["shared.weight"], visual_BXD.shape[1]
    x = torch.cat([E[batch["input_ids"]], visual_BXD], dim=1)
    seen = seen_by_all(batch["attention_mask"], X)
    bias = text_bias(table(w, "encoder"), x.shape[1] - X, X)
    memory = norm(run(w, "encoder", x, bias, seen, None)[-1], w["encoder.final_layer_norm.weight"])
    target = decoder_input(batch["labels"])
    T = target.shape[1]
    causal = torch.ones(T, T).tril().bool()[None]
    bias = relative_bias(table(w, "decoder"), T, False, SHAPE)
    states = run(w, "decoder", E[target], bias, causal, (memory, seen))
    return norm(states[-1], w["decoder.final_layer_norm.weight"]) * E.shape[1] ** -0.5 @ E.T


def ladder_logits(w, ladder, batch, visual_BXD, image_in_backbone):
    """A ladder on text and image; its backbone sees the text alone, or both."""
    E, X = w["shared.weight"], visual_BXD.shape[1]
    text = E[batch["input_ids"]]
    T = text.shape[1]
    in_backbone = X if image_in_backbone else 0
    x = torch.cat([text, visual_BXD.detach()], dim=1) if image_in_backbone else text
    backbone_seen = seen_by_all(batch["attention_mask"], in_backbone)
    bias = text_bias(table(w, "encoder"), T, in_backbone)
    states = run(w, "encoder", x, bias, backbone_seen, None)
    memory = norm(states[-1], w["encoder.final_layer_norm.weight"])
    seen = seen_by_all(batch["attention_mask"], X)
    both = torch.cat([text, visual_BXD], dim=1)
    bias = text_bias(ladder_table(ladder, "encoder"), T, X)
    side_memory = side(ladder, "encoder", both, states, bias, seen, None)

    target = decoder_input(batch["labels"])
    T = target.shape[1]
    causal = torch.ones(T, T).tril().bool()[None]
    bias = relative_bias(table(w, "decoder"), T, False, SHAPE)
    states = run(w, "decoder", E[target], bias, causal, (memory, backbone_seen))
    bias = relative_bias(ladder_table(ladder, "decoder"), T, False, SHAPE)
    out = side(ladder, "decoder", E[target], states, bias, causal, (side_memory, seen))
    out = out @ ladder["exit.weight"].T + ladder["exit.bias"]
    return out * E.shape[1] ** -0.5 @ E.T


def ladder_table(ladder, stack):
    return table(ladder, f"stacks.{stack}.design.thin")


def side(ladder, stack, embedded, states, bias, seen, memory):
    """s = mu s + (1 - mu) (W h + b), where h is 0 for what the backbone does not see."""
    name = f"stacks.{stack}"
    s = embedded @ ladder[f"{name}.entry.weight"].T + ladder[f"{name}.entry.bias"]
    for i in SHAPE.kept:
        rung = states[i] @ ladder[f"{name}.rungs.{i}.weight"].T + ladder[f"{name}.rungs.{i}.bias"]
        zeros = torch.zeros(len(s), s.shape[1] - rung.shape[1], s.shape[2])
        mu = torch.sigmoid(ladder[f"{name}.gates"][i] / SHAPE.temperature)
        s = mu * s + (1 - mu) * torch.cat([rung, zeros], dim=1)
        s = block(ladder, f"{name}.design.thin.block.{i}", SHAPE.heads, s, bias, seen, memory)
    return norm(s, ladder[f"{name}.design.thin.final_layer_norm.weight"])
