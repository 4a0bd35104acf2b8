"""Tokenizers of known models: how many tokens each has, and how many rows the embeddings that use it have.

    candidates(50304)     # GPT-2 and GPT-NeoX: both are used with 50,304 rows

The two numbers differ wherever an embedding was padded (to a multiple of 64 or 128, or for tensor
parallelism). `num_tokens` counts added tokens, as `len(AutoTokenizer...)` does; `rows` lists the sizes of the
embeddings, as `vocab_size` in config.json does, with the model it was read from. A figure of which we were
not sure is left out. Models that share one vocabulary share a `vocabulary`.
"""

from __future__ import annotations

from dataclasses import dataclass

from torchstone._registry import Registry

HUB = "https://huggingface.co/"
GITHUB = "https://github.com/"


@dataclass(frozen=True, kw_only=True)
class KnownTokenizer:
    name: str
    """Of the family."""
    hub: str
    """Whose tokenizer files are loaded."""
    num_tokens: int | None
    """None: we found no source that we trust."""
    rows: dict[int, str]
    """Rows of an embedding: a model that has it."""
    kind: str
    """bpe (byte-level), sentencepiece, wordpiece, bytes."""
    source: str
    """Where both figures are told: model card or config on the hub, paper, an issue of the authors."""
    vocabulary: str = ""
    """Families of one vocabulary; else the name."""
    gated: bool = False
    """The hub asks for a licence to be accepted first."""
    usual: bool = False
    """What a new model with these rows is given where families share them (a pretrained one has its own)."""

    @property
    def same_ids(self) -> str:
        return self.vocabulary or self.name


KNOWN_TOKENIZERS: Registry[KnownTokenizer] = Registry("known tokenizer")


def candidates(num_rows: int) -> list[KnownTokenizer]:
    """The families for an embedding of `num_rows`: used with just as many rows, or of just as many tokens."""
    return [each for each in KNOWN_TOKENIZERS if num_rows in each.rows or num_rows == each.num_tokens]


def the_one_for(num_rows: int) -> KnownTokenizer | None:
    """The tokenizer that all candidates share, or the usual one of them; else None."""
    found = sorted(candidates(num_rows), key=lambda each: each.gated)
    if len({each.same_ids for each in found}) == 1:
        return found[0]
    return next((each for each in found if each.usual), None)


def _known(
    name: str,
    hub: str,
    num_tokens: int | None,
    rows: dict[int, str],
    kind: str,
    source: str = "",
    *,
    vocabulary: str = "",
    gated: bool = False,
    usual: bool = False,
) -> None:
    KNOWN_TOKENIZERS.add(
        KnownTokenizer(
            name=name,
            hub=hub,
            num_tokens=num_tokens,
            rows=rows,
            kind=kind,
            source=source or f"config.json and tokenizer of {HUB}{hub}",
            vocabulary=vocabulary,
            gated=gated,
            usual=usual,
        )
    )


BPE, SPM, WORDPIECE = "bpe", "sentencepiece", "wordpiece"
GPT2, NEOX, ROBERTA, T5, LLAMA, QWEN = "gpt2", "gpt-neox", "roberta", "t5", "llama", "qwen"
QWEN_ISSUE = f"{GITHUB}QwenLM/Qwen3/issues/885 (tokens); config.json on the hub (rows)"
PYTHIA_ISSUE = f"{GITHUB}EleutherAI/pythia/issues/68"

# GPT-2 and who took its merges
_known(
    "gpt2",
    "openai-community/gpt2",
    50257,
    {50257: "gpt2"},
    BPE,
    "Radford et al. 2019; config.json on the hub",
)
_known("distilgpt2", "distilbert/distilgpt2", 50257, {50257: "distilgpt2"}, BPE, vocabulary=GPT2)
_known("dialogpt", "microsoft/DialoGPT-medium", 50257, {50257: "DialoGPT-medium"}, BPE, vocabulary=GPT2)
_known("gpt-neo", "EleutherAI/gpt-neo-125m", 50257, {50257: "gpt-neo-125m"}, BPE, vocabulary=GPT2)
_known(
    "cerebras-gpt", "cerebras/Cerebras-GPT-111M", 50257, {50257: "Cerebras-GPT-111M"}, BPE, vocabulary=GPT2
)
_known(
    "nanogpt",
    "openai-community/gpt2",
    50257,
    {50304: "nanoGPT trained from scratch"},
    BPE,
    f"{GITHUB}karpathy/nanoGPT: train.py rounds 50257 up to 50304",
    vocabulary=GPT2,
    usual=True,
)
_known(
    "gpt-j",
    "EleutherAI/gpt-j-6b",
    50400,
    {50400: "gpt-j-6b"},
    BPE,
    f"{GITHUB}huggingface/transformers/pull/13696: 143 extra tokens fill the tokenizer to the rows",
)
_known("codegen", "Salesforce/codegen-350M-mono", 50295, {51200: "codegen-350M-mono"}, BPE)
_known("phi-1", "microsoft/phi-1_5", 50295, {51200: "phi-1, phi-1_5"}, BPE, vocabulary="codegen")
_known("phi-2", "microsoft/phi-2", 50295, {51200: "phi-2"}, BPE, vocabulary="codegen")
_known(
    "gpt",
    "openai-community/openai-gpt",
    40478,
    {40478: "openai-gpt"},
    BPE,
    "Radford et al. 2018; config.json",
)
# RoBERTa's reordering of GPT-2
_known(
    "roberta", "FacebookAI/roberta-base", 50265, {50265: "roberta-base"}, BPE, "arXiv:1907.11692; config.json"
)
_known(
    "distilroberta",
    "distilbert/distilroberta-base",
    50265,
    {50265: "distilroberta-base"},
    BPE,
    vocabulary=ROBERTA,
)
_known("codebert", "microsoft/codebert-base", 50265, {50265: "codebert-base"}, BPE, vocabulary=ROBERTA)
_known("bart", "facebook/bart-base", 50265, {50265: "bart-base"}, BPE, vocabulary=ROBERTA)
_known(
    "longformer",
    "allenai/longformer-base-4096",
    50265,
    {50265: "longformer-base-4096"},
    BPE,
    vocabulary=ROBERTA,
)
_known(
    "opt",
    "facebook/opt-125m",
    50265,
    {50272: "opt-125m to opt-66b"},
    BPE,
    f"{GITHUB}facebookresearch/metaseq/issues/469",
)
_known(
    "galactica",
    "facebook/galactica-125m",
    50000,
    {50000: "galactica-125m"},
    BPE,
    "arXiv:2211.09085; config.json",
)
# GPT-NeoX
_known(
    "gpt-neox", "EleutherAI/gpt-neox-20b", 50277, {50432: "gpt-neox-20b"}, BPE, f"{PYTHIA_ISSUE}; config.json"
)
_known(
    "pythia",
    "EleutherAI/pythia-70m",
    50277,
    {50304: "pythia-70m to 2.8b", 50432: "pythia-6.9b", 50688: "pythia-12b"},
    BPE,
    PYTHIA_ISSUE,
    vocabulary=NEOX,
)
_known(
    "mpt",
    "mosaicml/mpt-7b",
    50277,
    {50432: "mpt-7b, mpt-30b"},
    BPE,
    f"{GITHUB}mosaicml/llm-foundry/issues/590 (rows)",
    vocabulary=NEOX,
)
_known(
    "mamba",
    "state-spaces/mamba-130m-hf",
    50277,
    {50280: "mamba-130m to 2.8b"},
    BPE,
    "50277 padded to a multiple of 8: config.json of state-spaces/mamba-130m",
    vocabulary=NEOX,
)
_known(
    "modernbert",
    "answerdotai/ModernBERT-base",
    50368,
    {50368: "ModernBERT-base, -large"},
    BPE,
    "arXiv:2412.13663: a multiple of 64 with 83 unused tokens",
)
# BERT
_known(
    "bert-uncased",
    "google-bert/bert-base-uncased",
    30522,
    {30522: "bert-base-uncased"},
    WORDPIECE,
    "arXiv:1810.04805; config.json",
)
_known(
    "distilbert-uncased",
    "distilbert/distilbert-base-uncased",
    30522,
    {30522: "distilbert-base-uncased"},
    WORDPIECE,
    vocabulary="bert-uncased",
)
_known(
    "electra",
    "google/electra-base-discriminator",
    30522,
    {30522: "electra-base"},
    WORDPIECE,
    vocabulary="bert-uncased",
)
_known(
    "minilm",
    "sentence-transformers/all-MiniLM-L6-v2",
    30522,
    {30522: "all-MiniLM-L6-v2"},
    WORDPIECE,
    vocabulary="bert-uncased",
)
_known("bert-cased", "google-bert/bert-base-cased", 28996, {28996: "bert-base-cased"}, WORDPIECE)
_known(
    "bert-multilingual-cased",
    "google-bert/bert-base-multilingual-cased",
    119547,
    {119547: "bert-base-multilingual-cased"},
    WORDPIECE,
)
_known(
    "bert-multilingual-uncased",
    "google-bert/bert-base-multilingual-uncased",
    105879,
    {105879: "bert-base-multilingual-uncased"},
    WORDPIECE,
)
_known("bert-chinese", "google-bert/bert-base-chinese", 21128, {21128: "bert-base-chinese"}, WORDPIECE)
_known(
    "scibert-uncased",
    "allenai/scibert_scivocab_uncased",
    31090,
    {31090: "scibert_scivocab_uncased"},
    WORDPIECE,
)
_known("mpnet", "microsoft/mpnet-base", 30527, {30527: "mpnet-base"}, WORDPIECE)
_known("deberta", "microsoft/deberta-base", 50265, {50265: "deberta-base"}, BPE)
_known(
    "deberta-v3",
    "microsoft/deberta-v3-base",
    128001,
    {128100: "deberta-v3-base"},
    SPM,
    f"{GITHUB}huggingface/transformers/issues/19301",
)
_known(
    "albert", "albert/albert-base-v2", 30000, {30000: "albert-base-v2"}, SPM, "arXiv:1909.11942; config.json"
)
_known("xlnet", "xlnet/xlnet-base-cased", 32000, {32000: "xlnet-base-cased"}, SPM)
_known(
    "xlm-roberta",
    "FacebookAI/xlm-roberta-base",
    250002,
    {250002: "xlm-roberta-base"},
    SPM,
    "arXiv:1911.02116; config.json",
)
_known("camembert", "almanach/camembert-base", 32005, {32005: "camembert-base"}, SPM)
# Encoder-decoder
_known(
    "t5",
    "google-t5/t5-base",
    32100,
    {32128: "t5-small to t5-11b"},
    SPM,
    "arXiv:1910.10683: 32,000 pieces and 100 sentinels; config.json",
)
_known("flan-t5", "google/flan-t5-base", 32100, {32128: "flan-t5-base"}, SPM, vocabulary=T5)
_known(
    "mt5", "google/mt5-base", 250100, {250112: "mt5-small to mt5-xxl"}, SPM, "arXiv:2010.11934; config.json"
)
_known(
    "codet5", "Salesforce/codet5-base", 32100, {32100: "codet5-base"}, BPE, "arXiv:2109.00859; config.json"
)
_known(
    "byt5",
    "google/byt5-small",
    384,
    {384: "byt5-small"},
    "bytes",
    "arXiv:2105.13626: 256 bytes, 3 + 125 specials",
)
_known("mbart", "facebook/mbart-large-cc25", 250027, {250027: "mbart-large-cc25"}, SPM)
_known("pegasus", "google/pegasus-large", 96103, {96103: "pegasus-large"}, SPM)
_known("opus-mt-en-de", "Helsinki-NLP/opus-mt-en-de", 58101, {58101: "opus-mt-en-de"}, SPM)
_known(
    "whisper",
    "openai/whisper-tiny",
    51865,
    {51865: "whisper-tiny to whisper-large-v2"},
    BPE,
    "arXiv:2212.04356; config.json",
)
_known("clip", "openai/clip-vit-base-patch32", 49408, {49408: "clip-vit-base-patch32"}, BPE)
# Decoders with vocabularies of their own
_known(
    "bloom",
    "bigscience/bloom-560m",
    250680,
    {250880: "bloom-560m to bloom"},
    BPE,
    "arXiv:2211.05100, section 3.2",
)
_known(
    "llama-2",
    "meta-llama/Llama-2-7b-hf",
    32000,
    {32000: "LLaMA 1 and Llama 2"},
    SPM,
    f"{GITHUB}meta-llama/llama/issues/29",
    vocabulary=LLAMA,
    gated=True,
)
_known(
    "tinyllama", "TinyLlama/TinyLlama-1.1B-Chat-v1.0", 32000, {32000: "TinyLlama-1.1B"}, SPM, vocabulary=LLAMA
)
_known("code-llama", "codellama/CodeLlama-7b-hf", 32016, {32016: "CodeLlama-7b, -13b"}, SPM)
_known("mistral-v0.1", "mistralai/Mistral-7B-v0.1", 32000, {32000: "Mistral-7B-v0.1, Mixtral-8x7B"}, SPM)
_known("mistral-v0.3", "mistralai/Mistral-7B-v0.3", 32768, {32768: "Mistral-7B-v0.3"}, SPM)
_known("mistral-nemo", "mistralai/Mistral-Nemo-Base-2407", 131072, {131072: "Mistral-Nemo-Base-2407"}, BPE)
_known(
    "llama-3",
    "meta-llama/Meta-Llama-3-8B",
    128256,
    {128256: "Llama 3, 3.1, 3.2"},
    BPE,
    "arXiv:2407.21783: 128,000 tokens, and 256 reserved specials; config.json",
    gated=True,
)
_known(
    "phi-3-mini",
    "microsoft/Phi-3-mini-4k-instruct",
    32011,
    {32064: "Phi-3-mini, Phi-3-medium"},
    SPM,
    "arXiv:2404.14219: 32,064 rows; added_tokens.json ends at id 32010",
)
_known(
    "gemma", "google/gemma-2b", 256000, {256000: "Gemma 1"}, SPM, "arXiv:2403.08295; config.json", gated=True
)
_known(
    "gemma-2",
    "google/gemma-2-2b",
    256000,
    {256000: "Gemma 2"},
    SPM,
    "arXiv:2408.00118: the tokenizer of Gemma 1",
    vocabulary="gemma",
    gated=True,
)
_known("command-r", "CohereLabs/c4ai-command-r-v01", None, {256000: "command-r-v01"}, BPE, gated=True)
_known(
    "qwen",
    "Qwen/Qwen-7B",
    151851,
    {151936: "Qwen-7B", 152064: "Qwen-14B"},
    BPE,
    f"{GITHUB}QwenLM/Qwen/issues/419",
)
_known(
    "qwen1.5",
    "Qwen/Qwen1.5-0.5B",
    151646,
    {151936: "Qwen1.5-0.5B to 7B", 152064: "Qwen1.5-14B and up"},
    BPE,
    f"{GITHUB}QwenLM/Qwen3/issues/29 and /292",
)
_known(
    "qwen2",
    "Qwen/Qwen2-0.5B",
    151646,
    {151936: "Qwen2-0.5B, 1.5B", 152064: "Qwen2-7B, 72B"},
    BPE,
    QWEN_ISSUE,
    vocabulary="qwen1.5",
)
_known(
    "qwen2.5",
    "Qwen/Qwen2.5-0.5B",
    151665,
    {151936: "Qwen2.5-0.5B to 3B", 152064: "Qwen2.5-7B and up"},
    BPE,
    f"{GITHUB}arcee-ai/mergekit/issues/425 (tokens); {GITHUB}QwenLM/Qwen3/issues/1247 (rows)",
)
_known(
    "deepseek-coder",
    "deepseek-ai/deepseek-coder-1.3b-base",
    32022,
    {32256: "deepseek-coder-1.3b to 33b"},
    BPE,
    f"{GITHUB}ggml-org/llama.cpp/pull/4070",
)
_known(
    "deepseek-moe",
    "deepseek-ai/deepseek-moe-16b-base",
    100015,
    {102400: "deepseek-moe-16b-base"},
    BPE,
    f"{GITHUB}deepseek-ai/DeepSeek-MoE/issues/14",
)
_known(
    "falcon",
    "tiiuae/falcon-7b",
    65024,
    {65024: "falcon-7b, falcon-40b"},
    BPE,
    "arXiv:2311.16867; config.json",
)
_known("yi", "01-ai/Yi-6B", 64000, {64000: "Yi-6B, Yi-34B"}, SPM, "arXiv:2403.04652; config.json")
_known(
    "baichuan2",
    "baichuan-inc/Baichuan2-7B-Base",
    125696,
    {125696: "Baichuan2-7B"},
    SPM,
    "arXiv:2309.10305; config.json",
)
_known(
    "starcoder",
    "bigcode/starcoder",
    49152,
    {49152: "starcoder"},
    BPE,
    "arXiv:2305.06161; config.json",
    gated=True,
)
_known(
    "starcoder2",
    "bigcode/starcoder2-3b",
    49152,
    {49152: "starcoder2-3b"},
    BPE,
    "arXiv:2402.19173; config.json",
)
_known(
    "smollm2",
    "HuggingFaceTB/SmolLM2-135M",
    49152,
    {49152: "SmolLM2-135M to 1.7B"},
    BPE,
    "arXiv:2502.02737; config.json",
)
# Of these we know the rows alone; they are here so that a size is not taken for another family's.
_known("stablelm-2", "stabilityai/stablelm-2-1_6b", None, {100352: "stablelm-2-1_6b"}, BPE)
_known("olmo-2", "allenai/OLMo-2-1124-7B", None, {100352: "OLMo-2-1124-7B"}, BPE)
_known("phi-4", "microsoft/phi-4", None, {100352: "phi-4"}, BPE)
_known(
    "deepseek-v3",
    "deepseek-ai/DeepSeek-V3",
    None,
    {129280: "DeepSeek-V3"},
    BPE,
    f"{GITHUB}ggml-org/llama.cpp/issues/10981",
)
_known("gpt-oss", "openai/gpt-oss-20b", None, {201088: "gpt-oss-20b, -120b"}, BPE)
