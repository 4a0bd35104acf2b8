"""A healthy population: library architectures built tiny and at random, one record each.

`for each in LIBRARY: module = each.build()` gives a model in evaluation mode in some 10 to 100 ms. `task` is
what its author made it for. Add a line to add an architecture; nothing is downloaded.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True)
class LibraryModel:
    """One architecture of the population."""

    name: str
    task: str
    build: Callable[[], nn.Module]
    vocab_size: int | None = None
    group: str = "decoder"


V = 99
"""Rows of every token table, unless a record says otherwise."""

_IDS = {"vocab_size": V, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_DECODER = {
    **_IDS,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
}
_PLAIN = {name: value for name, value in _DECODER.items() if name != "num_key_value_heads"}
_GPT = {**_IDS, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
_ENCODER = {**_PLAIN, "type_vocab_size": 2, "num_labels": 3}
_PAIR = {
    **_IDS,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 64,
    "decoder_start_token_id": 2,
}
_T5 = {
    **_IDS,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 2,
    "num_decoder_layers": 2,
    "num_heads": 4,
    "decoder_start_token_id": 0,
}
_IMAGE = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "image_size": 32,
    "patch_size": 8,
    "num_channels": 3,
    "num_labels": 3,
}


def _tiny(config: str, model: str, fields: dict[str, Any]) -> nn.Module:
    import transformers

    made = getattr(transformers, config)(**fields)
    torch.manual_seed(0)
    module: nn.Module = getattr(transformers, model)(made)
    return module.eval()


def _record(
    name: str,
    task: str,
    config: str,
    model: str,
    fields: dict[str, Any],
    group: str,
    vocab_size: int | None = V,
) -> LibraryModel:
    return LibraryModel(name, task, functools.partial(_tiny, config, model, fields), vocab_size, group)


def _decoder(
    name: str, config: str, model: str, fields: dict[str, Any] | None = None, **more: Any
) -> LibraryModel:
    return _record(
        name, "causal-lm", config, model, {**(_DECODER if fields is None else fields), **more}, "decoder"
    )


DECODERS = [
    _decoder("gpt2", "GPT2Config", "GPT2LMHeadModel", _GPT),
    _decoder("llama", "LlamaConfig", "LlamaForCausalLM"),
    _decoder("mistral", "MistralConfig", "MistralForCausalLM", sliding_window=16),
    _decoder("qwen2", "Qwen2Config", "Qwen2ForCausalLM"),
    _decoder("qwen3", "Qwen3Config", "Qwen3ForCausalLM", head_dim=8),
    _decoder("gemma", "GemmaConfig", "GemmaForCausalLM", head_dim=8),
    _decoder("gemma2", "Gemma2Config", "Gemma2ForCausalLM", head_dim=8, query_pre_attn_scalar=8),
    _decoder("gpt-neox", "GPTNeoXConfig", "GPTNeoXForCausalLM", _PLAIN),
    _decoder("gptj", "GPTJConfig", "GPTJForCausalLM", {**_GPT, "rotary_dim": 4}),
    _decoder(
        "gpt-neo",
        "GPTNeoConfig",
        "GPTNeoForCausalLM",
        {
            **_IDS,
            "hidden_size": 32,
            "num_layers": 2,
            "num_heads": 4,
            "max_position_embeddings": 64,
            "window_size": 8,
        }
        | {"attention_types": [[["global", "local"], 1]], "intermediate_size": 48},
    ),
    _decoder(
        "opt",
        "OPTConfig",
        "OPTForCausalLM",
        {**_IDS, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 48}
        | {"max_position_embeddings": 64, "word_embed_proj_dim": 32},
    ),
    _decoder(
        "bloom", "BloomConfig", "BloomForCausalLM", {**_IDS, "hidden_size": 32, "n_layer": 2, "n_head": 4}
    ),
    _decoder("falcon", "FalconConfig", "FalconForCausalLM", _PLAIN),
    _decoder("phi", "PhiConfig", "PhiForCausalLM"),
    _decoder("phi3", "Phi3Config", "Phi3ForCausalLM"),
    _decoder("stablelm", "StableLmConfig", "StableLmForCausalLM"),
    _decoder("olmo2", "Olmo2Config", "Olmo2ForCausalLM"),
    _decoder("cohere", "CohereConfig", "CohereForCausalLM"),
    _decoder("granite", "GraniteConfig", "GraniteForCausalLM"),
    _decoder("starcoder2", "Starcoder2Config", "Starcoder2ForCausalLM"),
    _decoder("gpt-bigcode", "GPTBigCodeConfig", "GPTBigCodeForCausalLM", _GPT),
    _decoder("codegen", "CodeGenConfig", "CodeGenForCausalLM", {**_GPT, "rotary_dim": 4}),
    _decoder(
        "mpt",
        "MptConfig",
        "MptForCausalLM",
        {**_IDS, "d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 64, "expansion_ratio": 2},
    ),
    _decoder("smollm3", "SmolLM3Config", "SmolLM3ForCausalLM"),
    _decoder("nemotron", "NemotronConfig", "NemotronForCausalLM"),
    _decoder(
        "xglm",
        "XGLMConfig",
        "XGLMForCausalLM",
        {
            **_IDS,
            "d_model": 32,
            "num_layers": 2,
            "attention_heads": 4,
            "ffn_dim": 48,
            "max_position_embeddings": 64,
        },
    ),
    _decoder("bert-lm-head", "BertConfig", "BertLMHeadModel", {**_ENCODER, "is_decoder": True}),
]
EXPERTS = [
    _decoder("mixtral", "MixtralConfig", "MixtralForCausalLM", num_local_experts=4, num_experts_per_tok=2),
    _decoder(
        "qwen3-moe",
        "Qwen3MoeConfig",
        "Qwen3MoeForCausalLM",
        head_dim=8,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=16,
    ),
    _decoder("olmoe", "OlmoeConfig", "OlmoeForCausalLM", num_experts=4, num_experts_per_tok=2),
    _decoder(
        "deepseek-v2",
        "DeepseekV2Config",
        "DeepseekV2ForCausalLM",
        num_key_value_heads=4,
        n_routed_experts=4,
        num_experts_per_tok=2,
        kv_lora_rank=16,
        q_lora_rank=16,
        qk_nope_head_dim=8,
        qk_rope_head_dim=8,
        v_head_dim=8,
        moe_intermediate_size=16,
        n_group=1,
        topk_group=1,
        first_k_dense_replace=1,
    ),
]
STATE_SPACE = [
    _decoder(
        "mamba",
        "MambaConfig",
        "MambaForCausalLM",
        {**_IDS, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 8},
    ),
    _decoder(
        "mamba2",
        "Mamba2Config",
        "Mamba2ForCausalLM",
        {**_IDS, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 8, "num_heads": 8, "head_dim": 8}
        | {"n_groups": 2, "chunk_size": 8},
    ),
    _decoder(
        "rwkv",
        "RwkvConfig",
        "RwkvForCausalLM",
        {
            **_IDS,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "attention_hidden_size": 32,
            "context_length": 64,
        },
    ),
    _decoder(
        "recurrent-gemma",
        "RecurrentGemmaConfig",
        "RecurrentGemmaForCausalLM",
        num_hidden_layers=3,
        lru_width=32,
        attention_window_size=16,
        num_key_value_heads=1,
    ),
]
ENCODERS = [
    _record("bert-mlm", "masked-lm", "BertConfig", "BertForMaskedLM", _ENCODER, "encoder"),
    _record("bert", "encoder", "BertConfig", "BertModel", _ENCODER, "encoder"),
    _record("bert-cls", "classification", "BertConfig", "BertForSequenceClassification", _ENCODER, "encoder"),
    _record(
        "bert-token-cls",
        "token-classification",
        "BertConfig",
        "BertForTokenClassification",
        _ENCODER,
        "encoder",
    ),
    _record(
        "roberta-mlm",
        "masked-lm",
        "RobertaConfig",
        "RobertaForMaskedLM",
        {**_ENCODER, "pad_token_id": 1},
        "encoder",
    ),
    _record(
        "distilbert",
        "masked-lm",
        "DistilBertConfig",
        "DistilBertForMaskedLM",
        {**_IDS, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48, "max_position_embeddings": 64},
        "encoder",
    ),
    _record(
        "electra", "encoder", "ElectraConfig", "ElectraModel", {**_ENCODER, "embedding_size": 16}, "encoder"
    ),
    _record(
        "albert",
        "masked-lm",
        "AlbertConfig",
        "AlbertForMaskedLM",
        {**_ENCODER, "embedding_size": 16},
        "encoder",
    ),
    _record(
        "deberta-v2",
        "masked-lm",
        "DebertaV2Config",
        "DebertaV2ForMaskedLM",
        {
            **_ENCODER,
            "relative_attention": True,
            "pos_att_type": ["c2p", "p2c"],
            "position_biased_input": False,
        },
        "encoder",
    ),
    _record(
        "modernbert",
        "masked-lm",
        "ModernBertConfig",
        "ModernBertForMaskedLM",
        {**_PLAIN, "cls_token_id": 1, "sep_token_id": 2},
        "encoder",
    ),
    _record(
        "mpnet", "masked-lm", "MPNetConfig", "MPNetForMaskedLM", {**_PLAIN, "pad_token_id": 1}, "encoder"
    ),
    _record(
        "camembert-cls",
        "classification",
        "CamembertConfig",
        "CamembertForSequenceClassification",
        {**_ENCODER, "pad_token_id": 1},
        "encoder",
    ),
    _record(
        "convbert",
        "masked-lm",
        "ConvBertConfig",
        "ConvBertForMaskedLM",
        {**_ENCODER, "embedding_size": 32},
        "encoder",
    ),
    _record(
        "fnet",
        "masked-lm",
        "FNetConfig",
        "FNetForMaskedLM",
        {**_ENCODER, "num_attention_heads": 4},
        "encoder",
    ),
    _record(
        "gpt2-cls",
        "classification",
        "GPT2Config",
        "GPT2ForSequenceClassification",
        {**_GPT, "num_labels": 3},
        "encoder",
    ),
]
PAIRS = [
    _record("t5", "seq2seq", "T5Config", "T5ForConditionalGeneration", _T5, "pair"),
    _record("mt5", "seq2seq", "MT5Config", "MT5ForConditionalGeneration", _T5, "pair"),
    _record("bart", "seq2seq", "BartConfig", "BartForConditionalGeneration", _PAIR, "pair"),
    _record(
        "bart-cls",
        "classification",
        "BartConfig",
        "BartForSequenceClassification",
        {**_PAIR, "num_labels": 3},
        "pair",
    ),
    _record("marian", "seq2seq", "MarianConfig", "MarianMTModel", _PAIR, "pair"),
    _record("pegasus", "seq2seq", "PegasusConfig", "PegasusForConditionalGeneration", _PAIR, "pair"),
    _record("mbart", "seq2seq", "MBartConfig", "MBartForConditionalGeneration", _PAIR, "pair"),
    _record("blenderbot", "seq2seq", "BlenderbotConfig", "BlenderbotForConditionalGeneration", _PAIR, "pair"),
]
VISION = [
    _record("vit", "vision", "ViTConfig", "ViTForImageClassification", _IMAGE, "vision", None),
    _record("deit", "vision", "DeiTConfig", "DeiTForImageClassification", _IMAGE, "vision", None),
    _record("beit", "vision", "BeitConfig", "BeitForImageClassification", _IMAGE, "vision", None),
    _record("dinov2", "vision", "Dinov2Config", "Dinov2Model", _IMAGE, "vision", None),
    _record(
        "swin",
        "vision",
        "SwinConfig",
        "SwinForImageClassification",
        {
            "image_size": 32,
            "patch_size": 4,
            "embed_dim": 16,
            "depths": [1, 1],
            "num_heads": [2, 2],
            "window_size": 4,
            "num_labels": 3,
        },
        "vision",
        None,
    ),
    _record(
        "convnext",
        "vision",
        "ConvNextConfig",
        "ConvNextForImageClassification",
        {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2, "image_size": 32, "num_labels": 3},
        "vision",
        None,
    ),
    _record(
        "resnet",
        "vision",
        "ResNetConfig",
        "ResNetForImageClassification",
        {
            "embedding_size": 8,
            "hidden_sizes": [8, 16],
            "depths": [1, 1],
            "num_labels": 3,
            "layer_type": "basic",
        },
        "vision",
        None,
    ),
    _record(
        "vit-mae",
        "vision",
        "ViTMAEConfig",
        "ViTMAEForPreTraining",
        {
            **_IMAGE,
            "decoder_hidden_size": 16,
            "decoder_num_hidden_layers": 1,
            "decoder_num_attention_heads": 2,
            "decoder_intermediate_size": 32,
        },
        "vision",
        None,
    ),
    _record(
        "segformer",
        "vision",
        "SegformerConfig",
        "SegformerForSemanticSegmentation",
        {
            "num_encoder_blocks": 2,
            "depths": [1, 1],
            "sr_ratios": [2, 1],
            "hidden_sizes": [8, 16],
            "patch_sizes": [7, 3],
            "strides": [4, 2],
            "num_attention_heads": [1, 2],
            "mlp_ratios": [2, 2],
            "decoder_hidden_size": 16,
            "num_labels": 3,
        },
        "vision",
        None,
    ),
    _record(
        "videomae",
        "vision",
        "VideoMAEConfig",
        "VideoMAEForVideoClassification",
        {**_IMAGE, "num_frames": 4, "tubelet_size": 2},
        "vision",
        None,
    ),
]
_WAVE = {
    "vocab_size": 32,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "conv_dim": (16, 16),
    "conv_stride": (4, 4),
    "conv_kernel": (8, 4),
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
    "mask_time_prob": 0.0,
    "pad_token_id": 0,
}
AUDIO = [
    _record("wav2vec2-ctc", "audio", "Wav2Vec2Config", "Wav2Vec2ForCTC", _WAVE, "audio", None),
    _record("hubert", "audio", "HubertConfig", "HubertModel", _WAVE, "audio", None),
    _record("wavlm", "audio", "WavLMConfig", "WavLMModel", _WAVE, "audio", None),
    _record(
        "ast",
        "audio",
        "ASTConfig",
        "ASTForAudioClassification",
        {**_IMAGE, "max_length": 32, "num_mel_bins": 16, "frequency_stride": 8, "time_stride": 8},
        "audio",
        None,
    ),
    _record(
        "whisper",
        "audio",
        "WhisperConfig",
        "WhisperForConditionalGeneration",
        {
            **{k: v for k, v in _PAIR.items() if k != "max_position_embeddings"},
            "num_mel_bins": 16,
            "max_source_positions": 32,
            "max_target_positions": 64,
        },
        "audio",
    ),
    _record(
        "speech2text",
        "audio",
        "Speech2TextConfig",
        "Speech2TextForConditionalGeneration",
        {
            **{k: v for k, v in _PAIR.items() if k != "max_position_embeddings"},
            "input_feat_per_channel": 16,
            "max_source_positions": 64,
            "max_target_positions": 64,
            "conv_channels": 16,
        },
        "audio",
    ),
]
_TEXT_PART = {**_PLAIN}
MULTIMODAL = [
    _record(
        "clip",
        "multimodal",
        "CLIPConfig",
        "CLIPModel",
        {
            "text_config": {**_TEXT_PART, "projection_dim": 16},
            "vision_config": {**_IMAGE, "projection_dim": 16},
            "projection_dim": 16,
        },
        "multimodal",
    ),
    _record(
        "siglip",
        "multimodal",
        "SiglipConfig",
        "SiglipModel",
        {"text_config": _TEXT_PART, "vision_config": _IMAGE},
        "multimodal",
    ),
    _record(
        "blip-caption",
        "multimodal",
        "BlipConfig",
        "BlipForConditionalGeneration",
        {
            "text_config": {**_TEXT_PART, "encoder_hidden_size": 32, "is_decoder": True},
            "vision_config": _IMAGE,
        },
        "multimodal",
    ),
    _record(
        "vilt",
        "multimodal",
        "ViltConfig",
        "ViltModel",
        {**_ENCODER, "image_size": 32, "patch_size": 8, "num_channels": 3},
        "multimodal",
    ),
    _record(
        "llava",
        "multimodal",
        "LlavaConfig",
        "LlavaForConditionalGeneration",
        {
            "text_config": {**_DECODER, "model_type": "llama"},
            "vision_config": {**_IMAGE, "model_type": "clip_vision_model", "projection_dim": 16},
        }
        | {"image_token_index": 98, "image_seq_length": 16, "vision_feature_layer": -1},
        "multimodal",
    ),
]
MULTIMODAL.append(
    _record(
        "qwen2-vl",
        "multimodal",
        "Qwen2VLConfig",
        "Qwen2VLForConditionalGeneration",
        {
            "text_config": {**_DECODER, "rope_scaling": {"rope_type": "default", "mrope_section": [1, 1, 2]}},
            "vision_config": {
                "depth": 2,
                "embed_dim": 32,
                "hidden_size": 32,
                "num_heads": 4,
                "patch_size": 4,
            },
            "image_token_id": 95,
            "video_token_id": 96,
            "vision_start_token_id": 97,
            "vision_end_token_id": 98,
        },
        "multimodal",
    )
)


def _torch_transformer() -> nn.Module:
    torch.manual_seed(0)
    return nn.Transformer(32, 4, 2, 2, 48, batch_first=True).eval()


def _torch_encoder(batch_first: bool) -> nn.Module:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(32, 4, 48, batch_first=batch_first)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()


TORCH = [
    LibraryModel("torch-transformer", "seq2seq", _torch_transformer, None, "torch"),
    LibraryModel("torch-encoder", "encoder", functools.partial(_torch_encoder, True), None, "torch"),
    LibraryModel(
        "torch-encoder-time-first", "encoder", functools.partial(_torch_encoder, False), None, "torch"
    ),
]

LIBRARY = [*DECODERS, *EXPERTS, *STATE_SPACE, *ENCODERS, *PAIRS, *VISION, *AUDIO, *MULTIMODAL, *TORCH]
