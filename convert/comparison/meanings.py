"""What the keys of a checkpoint's files decide, as data.

Of several rows that match a key the first counts. A key that no row matches may be read by a program that is not known
here. The sentences are about transformers 5.23, mlx-lm 0.32, mlx-vlm 0.7 and mlx-swift-lm.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from ...loaders.checkpoint import CONFIG_FILE
from ...loaders.consistency import GENERATION_CONFIG
from ...loaders.template import TEMPLATE_FILE, TOKENIZER_CONFIG
from ...loaders.tokenizer import TOKENIZER_FILE
from ..source import PROCESSOR
from .outcome import Severity

ANSWERS, FORM, FILES = Severity


@dataclass(frozen=True)
class Row:
    """What the keys decide that `pattern` matches.

    Attributes:
        pattern: a glob over the keys of a path, joined by dots; places in lists are left out.
        meaning: what the key decides.
        severity: what another value can do.
        lost: what it means where one side has nothing there, with `{has}` and `{lacks}` for A and B.
    """

    pattern: str
    meaning: str
    severity: Severity = ANSWERS
    lost: str | None = None


UNKNOWN = Row("*", "a key that is not known here; a program may read it")

SPELLED = "spelled otherwise, both mean the same"
UNUSED = "a default of transformers that Gemma 4 does not use"
TRAINING = "used in training only"

CONFIG = (
    Row("generation_config*", "a copy of generation_config.json, which is what programs read", FORM),
    Row("model_type", "which architecture is built"),
    Row("architectures", "which class transformers builds"),
    Row("transformers_version", "which version saved the file", FORM),
    Row("*dtype", "the dtype that the weights were saved in; the tensors say theirs", FORM),
    Row("vision_config", "how pictures and clips are encoded", lost="only {has} sees pictures and clips"),
    Row("audio_config", "how sounds are encoded", lost="only {has} hears"),
    Row("text_config", "the language model", lost="only {has} says what its language model is"),
    Row("*eos_token_id", "where answers stop"),
    Row("*bos_token_id", "the token that every prompt begins with"),
    Row("*pad_token_id", "the token that stands in for soft tokens in per-layer embeddings, and fills batches"),
    Row("image_token_id", "the token that stands for a picture"),
    Row("video_token_id", "the token that stands for a frame of a clip"),
    Row("audio_token_id", "the token that stands for a sound"),
    Row("bo?_token_id", "the token in front of a picture or a sound"),
    Row("eo?_token_i*", "the token behind a picture or a sound"),
    Row("*tie_word_embeddings", "whether the output head is the embedding table or a weight of its own"),
    Row("vocab_size", "a copy of the language model's, which mlx-lm and mlx-swift-lm read"),
    Row("vision_soft_tokens_per_image", "soft tokens to a picture, which processor_config.json decides", FORM),
    *(
        Row(key, "recommended sampling, which generation_config.json decides", FORM)
        for key in ("do_sample", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "max_length")
    ),
    *(
        Row(f"text_config.{key}", meaning)
        for key, meaning in (
            ("model_type", "which language model is built"),
            ("vocab_size", "rows of the embedding table"),
            ("vocab_size_per_layer_input", "rows of the per-layer embeddings"),
            ("hidden_size_per_layer_input", "width of the per-layer embeddings; 0 is none"),
            ("hidden_size", "width of the network"),
            ("intermediate_size", "width of the MLPs"),
            ("num_hidden_layers", "how many layers there are"),
            ("num_attention_heads", "attention heads of every layer"),
            ("num_key_value_heads", "key-value heads of sliding layers"),
            ("num_global_key_value_heads", "key-value heads of full-attention layers"),
            ("head_dim", "size of a head on sliding layers"),
            ("global_head_dim", "size of a head on full-attention layers"),
            ("per_layer_config*", "sizes of heads by layer"),
            ("layer_types", "which layers see all of the past and which a window"),
            ("sliding_window", "how many tokens a sliding layer sees"),
            ("rope_parameters*rope_theta", "the base of the frequencies by which positions rotate"),
            ("rope_parameters*partial_rotary_factor", "the share of a head that positions rotate"),
            ("rope_parameters*", "how positions rotate"),
            ("rms_norm_eps", "what is added before the root in every norm"),
            ("final_logit_softcapping", "how logits are squeezed; runtimes take 30 where nothing is said"),
            ("use_bidirectional_attention", "whether the tokens of a picture see each other"),
            ("attention_k_eq_v", "whether full-attention layers take their keys as values"),
            ("num_kv_shared_layers", "how many layers read the keys and values of an earlier one"),
            ("use_double_wide_mlp", "whether layers that share keys and values have an MLP twice as wide"),
            ("enable_moe_block", "whether there are experts"),
            ("num_experts", "how many experts there are"),
            ("top_k_experts", "how many experts a token goes through"),
            ("moe_intermediate_size", "width of an expert"),
            ("hidden_activation", "the activation of the MLPs"),
            ("attention_bias", "whether projections have a bias, which Gemma 4's have not"),
        )
    ),
    Row("text_config.max_position_embeddings", "the longest context that was trained"),
    Row("*_config.model_type", "which tower is built"),
    Row("*_config.patch_size", "pixels of a patch, per side"),
    Row("*_config.pooling_kernel_size", "patches to a soft token, per side"),
    Row("vision_config.default_output_length", "soft tokens to a picture, which processor_config.json decides", FORM),
    Row("vision_config.num_soft_tokens", "soft tokens to a picture, which processor_config.json decides", FORM),
    Row("vision_config.global_head_dim", UNUSED, FORM),
    Row("vision_config.max_position_embeddings", UNUSED, FORM),
    Row("vision_config.position_embedding_size", "rows of the table of positions in a picture"),
    Row("vision_config.mm_posemb_size", "rows of the table of positions in a picture"),
    Row("vision_config.model_patch_size", "pixels of a merged patch, per side"),
    Row("vision_config.mm_embed_dim", "width of an embedded patch"),
    Row("vision_config.attention_bias", "whether projections have a bias, which Gemma 4's have not"),
    Row("vision_config.standardize", "whether soft tokens are standardized"),
    Row("vision_config.rope_*", "how positions in a picture rotate"),
    Row("*_config.use_clipped_linears", "whether linear layers of the tower clip their inputs and outputs"),
    Row("audio_config.attention_chunk_size", "how many frames of a sound are worked on together"),
    Row("audio_config.attention_context_*", "how many frames before and after it a frame of a sound sees"),
    Row("audio_config.attention_logit_cap", "how attention in the audio tower is squeezed"),
    Row("audio_config.attention_invalid_logits_value", "what stands for masked frames in the audio tower"),
    Row("audio_config.residual_weight", "the weight of the feed-forward blocks in the audio tower"),
    Row("audio_config.gradient_clipping", "where activations of the audio tower are clipped"),
    Row("audio_config.conv_kernel_size", "how many frames a convolution of the audio tower takes in"),
    Row("audio_config.subsampling_conv_channels", "channels of the convolutions before the audio tower"),
    Row("audio_config.audio_embed_dim", "samples to a soft token"),
    Row("audio_config.audio_samples_per_token", "samples to a soft token"),
    Row("*_config.hidden_size", "width of the tower"),
    Row("*_config.intermediate_size", "width of the tower's MLPs"),
    Row("*_config.num_hidden_layers", "how many layers the tower has"),
    Row("*_config.num_attention_heads", "attention heads of the tower"),
    Row("*_config.num_key_value_heads", "key-value heads of the tower"),
    Row("*_config.head_dim", "size of a head of the tower"),
    Row("*_config.rms_norm_eps", "what is added before the root in the tower's norms"),
    Row("*_config.hidden_act*", "the activation of the tower"),
    Row("*_config.output_proj_dims", "width of a soft token before it is projected into the language model"),
    Row("*initializer_range", TRAINING, FORM),
    Row("*attention_dropout", TRAINING, FORM),
    *(
        Row(f"*{key}", UNUSED, FORM)
        for key in (
            "_name_or_path", "architectures", "chunk_size_feed_forward", "expert_intermediate_size", "id2label*",
            "is_encoder_decoder", "label2id*", "output_attentions", "output_hidden_states", "problem_type",
            "return_dict", "use_cache",
        )
    ),
)  # fmt: skip

PICTURES = (
    ("do_resize", "whether they are resized"),
    ("resample", "the filter by which they are resized"),
    ("do_rescale", "whether bytes are scaled"),
    ("rescale_factor", "what bytes are multiplied with"),
    ("do_normalize", "whether they are normalized"),
    ("image_mean", "the mean that is taken off"),
    ("image_std", "the deviation that is divided by"),
    ("max_soft_tokens", "soft tokens to each, at most"),
    ("patch_size", "pixels of a patch, per side"),
    ("pooling_kernel_size", "patches to a soft token, per side"),
)
SOUNDS = (
    ("sampling_rate", "samples in a second"),
    ("feature_size", "how many mel bins, or samples, a frame has"),
    ("num_mel_filters", "how many mel bins a frame has"),
    ("frame_length", "samples in a frame"),
    ("hop_length", "samples from one frame to the next"),
    ("fft_length", "samples that are transformed at once"),
    ("fft_overdrive", "whether twice as many samples are transformed at once"),
    ("min_frequency", "the lowest frequency"),
    ("max_frequency", "the highest frequency"),
    ("mel_floor", "what is added before the logarithm"),
    ("dither", "noise that is added"),
    ("input_scale_factor", "what samples are multiplied with"),
    ("preemphasis*", "how high frequencies are raised"),
    ("per_bin_*", "how mel bins are normalized"),
    ("padding_*", "how the end of a sound is filled"),
    ("audio_samples_per_token", "samples to a soft token"),
)

PROCESSOR_CONFIG = (
    Row("generation_config*", "a copy of generation_config.json, which is what programs read", FORM),
    Row("image_processor", "how pictures are prepared", lost="only {has} says how pictures are prepared"),
    Row("video_processor", "how clips are prepared", lost="only {has} says how clips are prepared"),
    Row("feature_extractor", "how sounds are prepared", lost="only {has} says how sounds are prepared"),
    *(Row(f"image_processor.{key}", f"pictures: {meaning}") for key, meaning in PICTURES),
    *(Row(f"video_processor.{key}", f"clips: {meaning}") for key, meaning in PICTURES),
    *(Row(f"feature_extractor.{key}", f"sounds: {meaning}") for key, meaning in SOUNDS),
    Row("video_processor.num_frames", "how many frames are taken of a clip"),
    Row("video_processor.do_sample_frames", "whether frames are taken of a clip, or all"),
    Row("video_processor.fps", "how many frames are taken of a second"),
    Row("audio_seq_length", "soft tokens to a sound, at most"),
    Row("audio_ms_per_token", "milliseconds to a soft token, a note: the features decide", FORM),
    Row("*image_seq_length", "soft tokens to a picture, a note: max_soft_tokens decides", FORM),
    Row("*do_convert_rgb", "whether pictures are made RGB; programs for Gemma 4 always do", FORM),
    Row("*.return_*", "what transformers hands on beside the features", FORM),
    Row("*_processor.size*", "a size in pixels, which Gemma 4's processors do not use", FORM),
    Row("feature_extractor.chunk_duration", "written by mlx-vlm, which does not use it for Gemma 4", FORM),
    Row("feature_extractor.overlap_duration", "written by mlx-vlm, which does not use it for Gemma 4", FORM),
    Row("video_processor.default_fps", "how many frames a second has for mlx-vlm where a clip does not say"),
    Row("processor_class", "which processor transformers builds"),
    Row("*_type", "which processor transformers builds"),
    Row("*_processor.model_patch_size", "a note: patch_size times pooling_kernel_size", FORM),
)

TOKENIZER = (
    Row("version", "the version of the file's format", FORM),
    Row("normalizer*", "what becomes of text before it is cut into tokens"),
    Row("pre_tokenizer*", "where text is cut before tokens are looked for"),
    Row("post_processor*", "which tokens are put around a text by themselves"),
    Row("decoder*", "how tokens become text"),
    Row("truncation*", "where long prompts are cut"),
    Row("padding*", "how short prompts are filled"),
    Row("model.type", "how tokens are found"),
    Row("model.dropout", TRAINING),
    Row("model.unk_token", "the token for what the vocabulary lacks"),
    Row("model.fuse_unk", "whether unknown characters in a row become one token"),
    Row("model.byte_fallback", "whether unknown characters become tokens of their bytes"),
    Row("model.ignore_merges", "whether a whole word of the vocabulary is taken without merging"),
    Row("model.*", "how tokens are found"),
)

SPECIAL_LISTS = ("extra_special_tokens", "additional_special_tokens", "model_specific_special_tokens")
"""Keys of `tokenizer_config.json` that list special tokens, or map names to them."""

TOKENIZER_SETTINGS = (
    Row("add_bos_token", "whether transformers puts the first token before a text by itself"),
    Row("add_eos_token", "whether transformers puts the last token behind a text by itself"),
    *(Row(f"{key}*", "which tokens transformers treats as special") for key in SPECIAL_LISTS),
    Row("*_token", "the text of a special token, as chat templates use it"),
    Row("*_token.*", "how a special token is matched"),
    Row("tokenizer_class", "which tokenizer transformers builds"),
    Row("processor_class", "which processor transformers builds"),
    Row("backend", "the library that reads the tokenizer", FORM),
    Row("padding_side", "at which side batches are filled"),
    Row("truncation_side", "at which side long prompts are cut"),
    Row("model_max_length", "the length from which transformers warns", FORM),
    Row("clean_up_tokenization_spaces", "whether transformers removes spaces from answers"),
    Row("spaces_between_special_tokens", "whether transformers puts spaces between special tokens"),
    Row("response_schema*", "how transformers parses an answer into thoughts, tool calls and text"),
    Row("added_tokens_decoder*", "tokens that are matched as a whole, for older transformers"),
    *(
        Row(key, "where transformers found the tokenizer when it was saved", FORM)
        for key in ("is_local", "local_files_only", "name_or_path", "_name_or_path")
    ),
)

GENERATION = (
    Row("eos_token_id", "where answers stop"),
    Row("suppress_tokens", "tokens that an answer never contains"),
    Row("bos_token_id", "the token that a prompt begins with"),
    Row("pad_token_id", "the token that fills batches"),
    Row("max_*", "how long an answer may be"),
    Row("cache_implementation", "how transformers keeps keys and values", FORM),
    Row("transformers_version", "which version saved the file", FORM),
    Row("_from_model_config", "how transformers made the file", FORM),
    *(
        Row(key, "recommended sampling")
        for key in ("do_sample", "temperature", "top_k", "top_p", "min_p", "repetition_penalty")
    ),
)

ROWS: Mapping[str, tuple[Row, ...]] = {
    CONFIG_FILE: CONFIG,
    PROCESSOR: PROCESSOR_CONFIG,
    TOKENIZER_FILE: TOKENIZER,
    TOKENIZER_CONFIG: TOKENIZER_SETTINGS,
    GENERATION_CONFIG: GENERATION,
}
"""By file."""

WHOLE_FILES = (
    Row(TOKENIZER_FILE, "how text becomes tokens"),
    Row(TOKENIZER_CONFIG, "special tokens, and how transformers builds the tokenizer"),
    Row(PROCESSOR, "how pictures, sounds and clips are prepared"),
    Row(GENERATION_CONFIG, "where answers stop, and how to sample"),
    Row(TEMPLATE_FILE, "how a conversation becomes a prompt"),
    Row("*preprocessor_config.json", "how pictures, sounds or clips are prepared, for older programs"),
    Row("special_tokens_map.json", "special tokens, for older programs"),
    Row("added_tokens.json", "tokens that are matched as a whole, for older programs"),
    Row("*.safetensors", "weights that the index does not name; some programs load them"),
    *(
        Row(pattern, "a program, which some runtimes can be told to run")
        for pattern in ("*.py", "*.pyc", "*.so", "*.dylib")
    ),
    *(Row(pattern, "for people; no runtime reads it", FILES) for pattern in ("LICENSE*", "NOTICE*", "*.md")),
    *(
        Row(pattern, "a picture; no runtime reads it", FILES)
        for pattern in ("*.png", "*.jpg", "*.jpeg", "*.svg", "*.gif")
    ),
    Row("*", "a file that is not known here; a program may read it"),
)
"""By a file's name."""


def row_of(rows: tuple[Row, ...], path: str) -> Row:
    """What is known of a key or a file."""
    return next((row for row in rows if fnmatchcase(path, row.pattern)), UNKNOWN)
