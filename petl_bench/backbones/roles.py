"""The usual names of projections in transformers' models, by our role."""

ROLES = {
    name: role
    for role, names in {
        "q": ("q_proj", "query", "q_lin", "query_proj", "wq"),
        "k": ("k_proj", "key", "k_lin", "key_proj", "wk"),
        "v": ("v_proj", "value", "v_lin", "value_proj", "wv"),
        "o": ("o_proj", "out_proj", "out_lin"),
        "wi": ("fc1", "lin1", "fc_in"),
        "wi_0": ("gate_proj",),
        "wi_1": ("up_proj",),
        "wo": ("fc2", "lin2", "down_proj", "fc_out"),
    }.items()
    for name in names
}
"""Any other name is a role of its own."""

FUSED = ("qkv_proj", "query_key_value", "c_attn", "Wqkv", "qkv")
"""Names of one projection that makes queries, keys and values."""

HOLDERS = {
    "q": (*FUSED, "q_b_proj", "q_proj"),
    "k": (*FUSED, "kv_b_proj", "kv_proj"),
    "v": (*FUSED, "kv_b_proj", "kv_proj"),
}
"""What stands in the place of a projection that an architecture does not have by itself."""
