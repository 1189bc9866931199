"""A stand-in for IPAdapter_plus (cubiq/ComfyUI_IPAdapter_plus, Attn2Replace and ipadapter_execute), for where its own
code is not at hand. What it mimics: one attn2 replacement a layer with lists `callback` and `kwargs`, to which a second
adapter is added; the callback's arguments, and that it projects tokens by name at each call, first the conditional half
and then the other; weights by transformer index for "style transfer", the swapped halves of its "precise" kind;
unfolded batches and AnimateDiff's windows. Not all weight types and scalings, no image encoder: tokens are given.
"""

import torch
from comfy.ldm.modules.attention import optimized_attention
from torch import nn

SD15_BLOCKS = [("input", n) for n in (1, 2, 4, 5, 7, 8)] + [("output", n) for n in range(3, 12)] + [("middle", 1)]
SD15_STYLE = (0, 1, 2, 3, 9, 10, 11, 12, 13, 14, 15)


class Adapter(nn.Module):
    """ip_layers.to_kvs: a linear layer for each "1_to_k_ip", "1_to_v_ip", "3_to_k_ip", …"""

    def __init__(self, weights):
        super().__init__()
        self.ip_layers = nn.Module()
        self.ip_layers.to_kvs = nn.ModuleDict()
        for name, weight in weights.items():
            layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
            layer.weight.data = weight
            self.ip_layers.to_kvs[name.removesuffix(".weight").replace(".", "_")] = layer


class Replacement:
    def __init__(self, callback, **kwargs):
        self.callback, self.kwargs = [callback], [kwargs]

    def add(self, callback, **kwargs):
        self.callback.append(callback)
        self.kwargs.append(kwargs)

    def __call__(self, q, k, v, extra_options):
        out = optimized_attention(q, k, v, extra_options["n_heads"])
        sigma = extra_options["sigmas"][0].item()
        for callback, kwargs in zip(self.callback, self.kwargs, strict=True):
            if kwargs["sigma_end"] <= sigma <= kwargs["sigma_start"]:
                out = out + callback(out, q, k, v, extra_options, **kwargs)
        return out


def sized(rows, count):
    """The first `count`, the last one repeated where there are fewer."""
    return rows[[min(index, len(rows) - 1) for index in range(count)]] if len(rows) != count else rows


def attention(
    out, q, k, v, extra_options, *, module_key, ipadapter, weight, cond, uncond, weight_type, unfold_batch, **_
):
    index, chunks = extra_options["transformer_index"], extra_options["cond_or_uncond"]
    if isinstance(weight, dict):
        if index not in weight:
            return 0
        if weight_type.endswith("precise") and index in (4, 5):
            cond, uncond = cond * 0, cond
        weight = weight[index]
    pictures = len(q) // len(chunks)
    window = extra_options.get("ad_params", {}).get("sub_idxs")
    if unfold_batch and window is not None:
        cond, uncond = (sized(half, extra_options["ad_params"]["full_length"])[window] for half in (cond, uncond))
    elif unfold_batch:
        cond, uncond = sized(cond, pictures), sized(uncond, pictures)
    projected = []
    for name in (f"{module_key}_to_k_ip", f"{module_key}_to_v_ip"):
        halves = [ipadapter.ip_layers.to_kvs[name](half) for half in (cond, uncond)]
        if not unfold_batch:
            halves = [half.repeat(pictures, 1, 1) for half in halves]
        places = halves if len(chunks) < 3 else [*halves, halves[0]]
        projected.append(torch.cat([places[chunk] for chunk in chunks]))
    return optimized_attention(q, *projected, extra_options["n_heads"]) * weight


def ipadapter_execute(
    model, ipadapter, _, *, pos_embed, neg_embed, weight=1.0, weight_type="linear", start_at=0.0, end_at=1.0, **options
):
    sampling = model.get_model_object("model_sampling")
    kwargs = {
        "ipadapter": Adapter(ipadapter["ip_adapter"]),
        "cond": pos_embed,
        "uncond": neg_embed,
        "weight": dict.fromkeys(SD15_STYLE, weight) if weight_type == "style transfer" else weight,
        "weight_type": weight_type,
        "sigma_start": sampling.percent_to_sigma(start_at),
        "sigma_end": sampling.percent_to_sigma(end_at),
        "unfold_batch": options.get("unfold_batch", False),
    }
    if weight_type == "style transfer precise":
        kwargs["weight"] = dict.fromkeys((*SD15_STYLE, 4, 5), weight)
    patches = model.model_options["transformer_options"].setdefault("patches_replace", {}).setdefault("attn2", {})
    for number, key in enumerate(SD15_BLOCKS):
        layer = kwargs | {"module_key": str(2 * number + 1)}
        if key in patches:
            patches[key].add(attention, **layer)
        else:
            patches[key] = Replacement(attention, **layer)
    return model, None
