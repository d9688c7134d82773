"""The samples' tokenizer: 768 tokens in the layout of Gemma 4's, and the published forms of its files.

Byte-pair encoding with byte fallback, spaces written as U+2581, ids 0 to 4 for pad, eos, bos, unk and mask, the other
control tokens after them, and the seven media tokens at the very end, in the order of the real ids.
"""

import json
from pathlib import Path

import tasks
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

VOCABULARY = 768
SPACE = "\u2581"
FIRST = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>")
CONTROL = (
    "<|tool>",
    "<tool|>",
    "<|tool_call>",
    "<tool_call|>",
    "<|tool_response>",
    "<tool_response|>",
    '<|"|>',
    "<|think|>",
    "<|channel>",
    "<channel|>",
    "<|turn>",
    "<turn|>",
)
MEDIA = ("<|image>", "<|audio>", "<|image|>", "<|audio|>", "<image|>", "<audio|>", "<|video|>")
BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))
NAMED_TOKENS = {
    "audio_token": "<|audio|>",
    "boa_token": "<|audio>",
    "boi_token": "<|image>",
    "bos_token": "<bos>",
    "eoa_token": "<audio|>",
    "eoc_token": "<channel|>",
    "eoi_token": "<image|>",
    "eos_token": "<eos>",
    "eot_token": "<turn|>",
    "escape_token": '<|"|>',
    "etc_token": "<tool_call|>",
    "etd_token": "<tool|>",
    "etr_token": "<tool_response|>",
    "image_token": "<|image|>",
    "mask_token": "<mask>",
    "pad_token": "<pad>",
    "soc_token": "<|channel>",
    "sot_token": "<|turn>",
    "stc_token": "<|tool_call>",
    "std_token": "<|tool>",
    "str_token": "<|tool_response>",
    "think_token": "<|think|>",
    "unk_token": "<unk>",
}
UNIFIED_SUPPRESSED = ("<audio|>", "<image|>")
TEMPLATE = Path(__file__).with_name("chat_template.jinja")


def token_id(token: str) -> int:
    """Return the id of a special token."""
    if token in MEDIA:
        return VOCABULARY - len(MEDIA) + MEDIA.index(token)
    return (FIRST + CONTROL).index(token)


def _learn_merges() -> tuple[list[str], list[tuple[str, str]]]:
    """Return the ordinary tokens in the order of their ids, and the merges; none reaches across words."""
    trained = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    trained.normalizer = normalizers.Replace(" ", SPACE)
    trained.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(SPACE, "merged_with_next"),
            pre_tokenizers.Split(Regex(r"[\n?.,:]"), "isolated"),
        ]
    )
    fixed = len(FIRST + CONTROL + BYTES + MEDIA)
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY - fixed, show_progress=False)
    trained.train_from_iterator(tasks.corpus(), trainer)
    model = json.loads(trained.to_str())["model"]
    return sorted(model["vocab"], key=model["vocab"].get), [tuple(merge) for merge in model["merges"]]


def build() -> Tokenizer:
    """Return the tokenizer."""
    learned, merges = _learn_merges()
    ordered = [*FIRST, *CONTROL, *BYTES, *learned]
    ordered += [f"<unused{index}>" for index in range(VOCABULARY - len(MEDIA) - len(ordered))] + list(MEDIA)
    vocabulary = {token: index for index, token in enumerate(ordered)}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", SPACE)
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()])
    special = FIRST + CONTROL + MEDIA
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    return tokenizer


def settings(processor_class: str) -> dict:
    """Return tokenizer_config.json: the published keys, without the schema of parsed responses."""
    return NAMED_TOKENS | {
        "backend": "tokenizers",
        "extra_special_tokens": ["<|video|>"],
        "model_max_length": 1000000000000000019884624838656,
        "padding_side": "left",
        "processor_class": processor_class,
        "tokenizer_class": "GemmaTokenizer",
    }


def chat_template(empty_thought: bool) -> str:
    """Return the chat template; the larger models open their answer with an empty thought."""
    template = TEMPLATE.read_text()
    off, on = "{%- set empty_thought = false -%}", "{%- set empty_thought = true -%}"
    assert off in template
    return template.replace(off, on) if empty_thought else template


def write(folder: Path, processor_class: str, empty_thought: bool = False, suppressed: tuple[str, ...] = ()) -> None:
    """Write tokenizer.json, tokenizer_config.json, chat_template.jinja and generation_config.json."""
    build().save(str(folder / "tokenizer.json"))
    write_json(folder / "tokenizer_config.json", settings(processor_class))
    (folder / "chat_template.jinja").write_text(chat_template(empty_thought))
    write_json(folder / "generation_config.json", generation_settings(suppressed))


def generation_settings(suppressed: tuple[str, ...]) -> dict:
    """Return generation_config.json as published, with the ids of the small vocabulary."""
    never = {"suppress_tokens": [token_id(token) for token in suppressed]} if suppressed else {}
    return never | {
        "bos_token_id": token_id("<bos>"),
        "do_sample": True,
        "eos_token_id": [token_id("<eos>"), token_id("<turn|>"), token_id("<|tool_response>")],
        "pad_token_id": token_id("<pad>"),
        "temperature": 1.0,
        "top_k": 64,
        "top_p": 0.95,
        "transformers_version": "5.5.0.dev0",
    }


def write_json(path: Path, content: dict) -> None:
    """Write the file as the published ones are: two spaces, keys in order."""
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
