"""What a config says of memory is what the queries of a token read."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import pytest
from g4convert.loaders import text
from g4convert.loaders.cache import make_caches
from g4convert.loaders.config import TextConfig
from g4convert.loaders.footprint import CPU_FLOAT32, METAL, Weight, kv_cache_bytes
from g4convert.loaders.footprint.operations import Operations
from g4convert.loaders.footprint.runtime import CPU_QUEUE
from g4convert.loaders.footprint.tape import Buffer, Tape
from g4convert.loaders.footprint.text import Span, TextTape
from g4convert.loaders.footprint.weights import PLE_TABLE, resident_bytes
from g4convert.loaders.model import language_model
from g4convert.tests.loaders.samples import WINDOW, moe_block, multimodal, random_network, text_only

DOCUMENTS = {"shared tail": text_only(), "moe": multimodal(moe_block(), vision_config=None, audio_config=None)}


def read_by_the_last_token(network: text.LanguageModel, context: int) -> int:
    """Bytes of keys and values that the last of `context` tokens sees, in all caches together."""
    caches, found = make_caches(network.config), 0
    network(mx.ones((1, context - 1), mx.int32), caches)
    for layer in network.config.layers:
        if layer.owns_kv:
            new = mx.zeros((1, layer.num_key_value_heads, 1, layer.head_dim), mx.float32)
            found += sum(array.nbytes for array in caches[layer.index].update(new, new))
    return found


@pytest.mark.parametrize("context", [2, WINDOW - 1, WINDOW, WINDOW + 1, 5 * WINDOW])
@pytest.mark.parametrize("document", DOCUMENTS.values(), ids=DOCUMENTS)
def test_the_cache_of_a_context(document: dict[str, Any], context: int) -> None:
    network = language_model(random_network(document))

    assert kv_cache_bytes(network.config, context, element=4) == read_by_the_last_token(network, context)


def test_a_shared_tail_and_windows_are_not_counted_twice() -> None:
    config = TextConfig.from_dict({**text_only(), "num_hidden_layers": 6})
    naive = sum(2 * 2 * layer.kv_size * 1000 for layer in config.layers)

    assert kv_cache_bytes(config, 1000) < naive / 2


@pytest.mark.parametrize("document", DOCUMENTS.values(), ids=DOCUMENTS)
@pytest.mark.parametrize("chunks", [(3,), (WINDOW, WINDOW, 1), (400, 3, 400, 17), (256,) * 4 + (1,) * 4])
def test_the_buffers_of_the_cache(document: dict[str, Any], chunks: tuple[int, ...]) -> None:
    """What is counted is what the caches hold, reserve included."""
    network = language_model(random_network(document))
    caches, tape = make_caches(network.config), TextTape(network.config, {})
    past = 0
    for length in chunks:
        network(mx.ones((1, length), mx.int32), caches)
        tape.skip(Span(past, length, last=False))
        past += length

    assert tape.cache_bytes(4) == sum(array.nbytes for cache in caches.values() for array in cache.state)


def peak_of(count: int, views: int) -> int:
    """Arrays at once in a chain of products, with views between them, by mlx's own count."""
    x, weight = mx.ones((256, 256)), mx.ones((256, 256))
    mx.eval(x, weight)
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    for _ in range(count):
        for _ in range(views):
            x = x.T
        x = x @ weight
    mx.eval(x)
    return (mx.get_peak_memory() - before) // weight.nbytes


@pytest.mark.parametrize("views", [0, 1, 4])
def test_how_far_memory_is_ahead_of_the_work(views: int) -> None:
    tape, x = Tape(CPU_QUEUE), Buffer(0)
    for _ in range(200):
        x = tape.make(1, tape.view(x, views))

    assert abs(tape.peak(x) - peak_of(200, views)) <= 2


def test_a_result_that_takes_the_place_of_another_takes_no_room() -> None:
    tape = Tape(CPU_QUEUE)
    x = tape.rework(tape.make(7), times=5)

    assert tape.peak(x) == 7


def test_what_no_result_needs_is_not_computed() -> None:
    tape = Tape(CPU_QUEUE)
    x = tape.make(7)
    tape.make(100, x)

    assert tape.peak(x) == 7


def test_a_command_buffer_ends_with_the_bytes_that_it_reads() -> None:
    few, many = Tape(METAL.queue), Tape(METAL.queue)
    x, y = Buffer(0), Buffer(0)
    for _ in range(400):
        x, y = few.make(1, x), many.make(1, y, weights=50 << 20)

    assert (few.peak(x), many.peak(y)) == (221, 12)


def test_a_table_that_stays_in_its_file_takes_no_memory() -> None:
    weights = {PLE_TABLE: Weight((8, 64), 300, 4, 64, 30), "language_model.norm": Weight((64,), 128)}

    assert resident_bytes(weights, CPU_FLOAT32) == 256
    assert resident_bytes(weights, METAL) == 428


def test_bounds_of_clipped_layers_keep_their_dtype() -> None:
    assert resident_bytes({"x.input_min": Weight((), 2, exact=True)}, CPU_FLOAT32) == 2


def test_scales_of_experts_are_wider_on_the_cpu() -> None:
    weights = {"language_model.layers.0.experts.switch_glu.up_proj": Weight((2, 8, 64), 600, 4, 64, 64)}

    assert resident_bytes(weights, CPU_FLOAT32) == 664
    assert resident_bytes(weights, METAL) == 600


@pytest.mark.parametrize(("head_dim", "scores"), [(128, 0), (256, 150)])
def test_attention_with_a_kernel_keeps_no_scores(head_dim: int, scores: int) -> None:
    """Without one there are scores of two bytes, and a mask of one, for 5 rows and 10 tokens."""
    on = Operations(Tape(METAL.queue), METAL)
    queries = on.array(5 * head_dim)
    heads = on.attend(queries, Buffer(0), Buffer(0), heads=1, rows=5, seen=10, head_dim=head_dim)

    assert on.tape.peak(heads) == 2 * queries.nbytes + scores
