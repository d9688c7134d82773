"""The recipe `small` on the samples: it fits, can be made again, and loses less than the same bytes spread evenly."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from g4convert.convert import Options, hf_to_mlx, prepare, verify
from g4convert.convert.allocation import fit as fitting
from g4convert.convert.allocation import sensitivity
from g4convert.convert.allocation.sensitivity import RoundedWeights, groups, measure
from g4convert.convert.cli import cli
from g4convert.convert.plan import module_path
from g4convert.convert.recipe import LATTICE, SPARED, Quantization
from g4convert.convert.source import open_source
from g4convert.convert.verification.numerics import follow
from g4convert.convert.verification.outcome import Status
from g4convert.convert.verification.probes import Probe
from g4convert.convert.verification.subject import Subject
from g4convert.convert.verification.tracing import converted_runner, source_runner
from g4convert.convert.verification.weights import SourceWeights
from g4convert.loaders.prompt import Prompt, PromptFormat
from g4convert.schemas.errors import UsageError
from g4convert.tests.convert.test_survey import MLP, trained
from g4convert.tests.support import CHECKPOINTS, copy_of, read_json

TEXT, E2B = CHECKPOINTS / "text", CHECKPOINTS / "e2b"


@pytest.fixture(autouse=True, scope="module")
def few_tokens() -> Iterator[None]:
    """What is measured on little text is measured soon."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sensitivity, "TOKENS_EACH", 24)
        yield


def small(source: Path, target: int, **options: Any) -> Any:
    return prepare(source, Options(recipe="small", target_size=target, **options)).plan


@pytest.fixture(scope="module")
def uniform_bytes() -> int:
    return prepare(TEXT, Options(recipe="uniform")).plan.nbytes


@pytest.fixture(scope="module")
def fitted(uniform_bytes: int) -> Any:
    return small(TEXT, uniform_bytes)


def test_it_fits_and_wastes_little(fitted: Any, uniform_bytes: int) -> None:
    assert uniform_bytes * 0.995 < fitted.nbytes <= uniform_bytes
    assert len({packing.bits for packing in fitted.quantized.values()}) > 2


@pytest.mark.parametrize("factor", [0.8, 1.15])
def test_other_sizes_fit_too(factor: float, uniform_bytes: int) -> None:
    assert small(TEXT, round(uniform_bytes * factor)).nbytes <= uniform_bytes * factor


def test_more_than_is_needed_gives_every_module_eight_bits() -> None:
    assert {packing.bits for packing in small(TEXT, 10**9).quantized.values()} == {8}


def test_too_little_says_how_much_is_needed() -> None:
    with pytest.raises(UsageError, match=r"^--target-size: the fewest bits take [\d.]+ [kM]B; give more bytes$"):
        small(TEXT, 1000)


def test_what_is_spared_stays_as_it_is(fitted: Any) -> None:
    assert {module.rpartition(".")[2] for module in fitted.unquantized} == {SPARED[-1].pattern.rpartition(".")[2]}


def divergence(output: Path) -> float:
    """Of the E2B sample's answers to text questions, in nats."""
    source = open_source(E2B)
    form = PromptFormat.open(E2B, source.config)
    asked = read_json(CHECKPOINTS / "questions" / "text.json")["questions"][:20]
    said = [(*form.prepare(one["question"]).ids, *form.encode(one["answer"])[1:]) for one in asked]
    probes = [Probe(str(index), Prompt(ids)) for index, ids in enumerate(said)]
    subject = Subject(output, source)
    found = follow(probes, source_runner(source, subject.config), {"ours": converted_runner(subject)})
    return float(np.mean(np.concatenate([traces["ours"].logits.kl for traces in found.values()])))


def test_it_loses_less_than_the_same_bytes_spread_by_a_rule(tmp_path: Path, converted: Callable[..., Path]) -> None:
    balanced = converted("e2b")
    target = round(0.985 * (balanced / "model.safetensors").stat().st_size)

    hf_to_mlx(E2B, tmp_path / "small", options=Options(recipe="small", target_size=target))

    assert divergence(tmp_path / "small") < 0.9 * divergence(balanced)


def test_the_listing_gives_the_same_bytes(fitted: Any, uniform_bytes: int, tmp_path: Path) -> None:
    (tmp_path / "small.toml").write_text(fitted.recipe.text)

    again = prepare(TEXT, Options(recipe=str(tmp_path / "small.toml"))).plan

    assert again.quantized == fitted.quantized
    assert again.unquantized.keys() == fitted.unquantized.keys()
    assert [shard.header for shard in again.shards] == [shard.header for shard in fitted.shards]


def test_the_output_is_right_and_its_card_has_the_listing(tmp_path: Path) -> None:
    hf_to_mlx(TEXT, tmp_path / "out", options=Options(recipe="small", target_size=480_000))

    assert verify(tmp_path / "out", source=TEXT).status is Status.PASS
    card = (tmp_path / "out" / "README.md").read_text()
    assert 'name = "small"' in card
    assert "--recipe small.toml" in card


def test_a_router_keeps_its_bits() -> None:
    plan = small(CHECKPOINTS / "26b-a4b", prepare(CHECKPOINTS / "26b-a4b", Options(bits=3)).plan.nbytes)

    routers = {packing for module, packing in plan.quantized.items() if "router" in module}
    assert routers == {Quantization(8, 64)}


def test_a_grid_costs_nothing_and_stays_where_there_is_room(tmp_path: Path) -> None:
    source = trained(copy_of("text", tmp_path / "source"), MLP)

    plan = small(source, prepare(source, Options()).plan.nbytes)

    assert {plan.quantized[module] for module in plan.lattices} == {LATTICE}
    assert len(plan.lattices) == 3 * plan.config.text.num_hidden_layers


def test_a_weight_on_its_grid_is_not_rounded_in_the_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = trained(copy_of("text", tmp_path / "source"), MLP)
    rounded: list[set[Quantization]] = []

    def noted(_: Any, parts: Any, packing: dict[str, Quantization], __: Any) -> dict[str, float]:
        rounded.append({*packing.values()})
        return dict.fromkeys(parts, 1.0)

    monkeypatch.setattr(fitting, "measure", noted)

    small(source, 10**9)

    assert rounded == [{Quantization(3, 32), Quantization(3, 64)}, {Quantization(4, 64)}]


# -- the measurement ---------------------------------------------------------------------------------------------------


def silent(_: str) -> None:
    """Nobody listens."""


@pytest.fixture(scope="module")
def modules() -> list[str]:
    plan = prepare(TEXT, Options(recipe="uniform")).plan
    return list(plan.quantized)


def test_parts_hold_every_module_once(modules: list[str]) -> None:
    parts = groups(modules, 6)

    assert sorted(module for part in parts.values() for module in part) == sorted(modules)
    assert "mlp.up_proj, part 3 of 3" in parts


def test_only_what_is_rounded_costs_and_fewer_bits_cost_more(modules: list[str]) -> None:
    source = open_source(TEXT)
    parts = {"nothing": [], "all": modules}

    four, three = (
        measure(source, parts, {module: Quantization(bits, 64) for module in modules}, silent) for bits in (4, 3)
    )

    assert four["nothing"] == three["nothing"] == 0.0
    assert 0 < four["all"] < three["all"]


def test_a_rounded_module_is_what_a_conversion_holds(converted: Callable[..., Path], modules: list[str]) -> None:
    source = open_source(TEXT)
    exact = SourceWeights.of(source, ("text",))
    name = next(name for name in exact.steps if module_path(name) in modules)
    rounded = RoundedWeights(exact, {module_path(name): Quantization(4, 64)}, "BF16")

    ((_, ours),), ((_, plain),) = rounded.parameters([name]), exact.parameters([name])

    assert np.array_equal(np.array(ours), sensitivity.round_trip(np.array(plain), Quantization(4, 64), "BF16"))
    assert not np.array_equal(np.array(ours), np.array(plain))
    assert np.array_equal(np.array(rounded.rows(module_path(name), 1, 3)), np.array(ours)[1:3])


# -- the call ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--recipe", "small"], "need each other"),
        (["--target-size", "1MB"], "need each other"),
        (["--recipe", "small", "--target-size", "1MB", "--bits", "4"], "leave out --bits"),
        (["--recipe", "small", "--target-size", "much"], "not a size"),
        (["--recipe", "small", "--target-size", "1MB", "--rounding", "min-max"], "leave out --rounding"),
        (["--no-quantize", "--target-size", "1MB"], "leaves nothing to"),
    ],
)
def test_a_call_that_makes_no_sense(arguments: list[str], message: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["hf-to-mlx", str(TEXT), str(tmp_path / "out"), *arguments])

    assert message in str(result.exception)
    assert not (tmp_path / "out").exists()
