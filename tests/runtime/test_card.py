"""The card: the same after a round trip, and one clear line for each way in which it can be wrong."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_models import make_card

from i2i_runtime.card import (
    Architecture,
    Card,
    ExportRecord,
    ImageSpec,
    LabelSpec,
    MadeWith,
    ParityRecord,
    SizeRule,
    TrainingRecord,
)
from i2i_runtime.errors import ModelError

numbers = st.floats(allow_nan=False, allow_infinity=False)
counts = st.integers(min_value=1, max_value=2**40)
argument_values = st.integers() | numbers | st.text() | st.booleans()
image_specs = st.builds(
    ImageSpec,
    channels=st.integers(1, 4),
    colour=st.sampled_from(["RGB", "BGR", "GRAY"]),
    value_range=st.tuples(numbers, numbers).filter(lambda pair: pair[0] != pair[1]),
)
cards = st.builds(
    Card,
    name=st.text(),
    model_type=st.text(),
    direction=st.sampled_from(["AtoB", "BtoA"]),
    generator=st.builds(Architecture, name=st.text(), arguments=st.dictionaries(st.text(), argument_values)),
    input=image_specs,
    output=image_specs,
    size=st.builds(SizeRule, height=st.none() | counts, width=st.none() | counts, multiple_of=counts, minimum=counts),
    labels=st.none() | st.builds(LabelSpec, count=counts, instance_edges=st.booleans()),
    training=st.none()
    | st.builds(
        TrainingRecord,
        data=st.text(),
        size=st.tuples(counts, counts),
        batch=counts,
        steps=counts,
        epochs=numbers,
        seed=st.integers(),
    ),
    export=st.none()
    | st.builds(
        ExportRecord,
        opset=counts,
        precision=st.sampled_from(["fp32", "fp16", "bf16", "int8"]),
        graph_io=st.sampled_from(["float", "uint8"]),
        norm_statistics=st.sampled_from(["image", "running"]),
    ),
    parity=st.lists(
        st.builds(
            ParityRecord,
            engine=st.text(),
            pictures=counts,
            max_abs=numbers,
            mean_abs=numbers,
            psnr_db=numbers,
            tolerance=numbers,
        ),
        max_size=2,
    ).map(tuple),
    made_with=st.builds(MadeWith, versions=st.dictionaries(st.text(), st.text()), source_sha256=st.none() | st.text()),
)


@settings(max_examples=30)
@given(cards)
def test_a_card_is_the_same_after_a_round_trip_through_json(card):
    assert Card.from_json(card.to_json()) == card


@settings(max_examples=30)
@given(cards)
def test_a_card_keeps_the_types_of_its_generator_arguments(card):
    back = Card.from_json(card.to_json())

    types = {name: type(value) for name, value in card.generator.arguments.items()}
    assert {name: type(value) for name, value in back.generator.arguments.items()} == types


def test_a_stage_adds_its_record_without_touching_what_was_there():
    trained = replace(make_card(), export=None)
    record = ExportRecord(opset=18, precision="fp16", graph_io="uint8", norm_statistics="image")

    exported = replace(trained, export=record)

    assert trained.export is None
    assert replace(exported, export=None) == trained


def changed(**fields) -> str:
    return json.dumps(asdict(make_card()) | fields)


def without(field) -> str:
    return json.dumps({name: value for name, value in asdict(make_card()).items() if name != field})


GENERATOR = {"name": "unet_64", "arguments": {}}
IMAGE = {"channels": 3, "colour": "RGB", "value_range": [-1, 1]}
PARITY = {"engine": "e", "pictures": 1, "max_abs": 0.1, "mean_abs": 0.1, "psnr_db": 60, "tolerance": 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "m.onnx: the card is not JSON"),
        ("{'name': 1}", "m.onnx: the card is not JSON"),
        ("[" * 100_000, "m.onnx: the card is not JSON"),
        ("[1, 2]", "m.onnx: expected the card to be a JSON object, found list"),
        ("{}", "m.onnx: card version None is unknown, this i2i reads version 1"),
        (changed(version=99), "m.onnx: card version 99 is unknown, this i2i reads version 1"),
        (changed(version="1"), "m.onnx: card version '1' is unknown"),
        (changed(version=True), "m.onnx.version: expected int, found True"),
        (without("name"), "m.onnx.name: missing, expected str"),
        (without("input"), "m.onnx.input: missing, expected ImageSpec"),
        (changed(generator={"arguments": {}}), "m.onnx.generator.name: missing, expected str"),
        (changed(made_at="today"), "m.onnx: unknown field 'made_at'; Card has name, model_type"),
        (changed(size={"heigth": 64}), "m.onnx.size: unknown field 'heigth'; SizeRule has height, width"),
        (changed(**{"two\nlines": 1}), r"m.onnx: unknown field 'two\nlines'"),
        (changed(name=7), "m.onnx.name: expected str, found 7"),
        (changed(name="x", model_type=None), "m.onnx.model_type: expected str, found None"),
        (changed(direction="BtoC"), "m.onnx.direction: expected one of AtoB, BtoA, found 'BtoC'"),
        (changed(direction=["AtoB"]), "m.onnx.direction: expected one of AtoB, BtoA, found ['AtoB']"),
        (changed(size={"height": 64.5}), "m.onnx.size.height: expected int | None, found 64.5"),
        (changed(size={"height": True}), "m.onnx.size.height: expected int | None, found True"),
        (changed(input="RGB"), "m.onnx.input: expected an object (ImageSpec), found 'RGB'"),
        (changed(input=IMAGE | {"value_range": [-1, "1"]}), "m.onnx.input.value_range[1]: expected a finite number"),
        (changed(input=IMAGE | {"value_range": [-1]}), "m.onnx.input.value_range: expected 2 values, found [-1]"),
        (changed(input=IMAGE | {"value_range": [0, float("inf")]}), "value_range[1]: expected a finite number"),
        (changed(input=IMAGE | {"value_range": [10**400, 1]}), "value_range[0]: expected a finite number"),
        (changed(generator=GENERATOR | {"arguments": {"ngf": [1]}}), "m.onnx.generator.arguments.ngf: expected int"),
        (changed(generator=GENERATOR | {"arguments": []}), "m.onnx.generator.arguments: expected dict"),
        (changed(labels={"count": "35"}), "m.onnx.labels.count: expected int, found '35'"),
        (changed(parity=[PARITY, PARITY | {"pictures": 0.5}]), "m.onnx.parity[1].pictures: expected int, found 0.5"),
        (changed(parity={}), "m.onnx.parity: expected tuple"),
        (changed(name=["x" * 10_000]), "m.onnx.name: expected str, found ['xxx"),
    ],
)
def test_a_wrong_card_is_one_short_line_that_names_the_place(text, message):
    with pytest.raises(ModelError) as raised:
        Card.from_json(text, where="m.onnx")

    line = str(raised.value)
    assert message in line
    assert "\n" not in line
    assert len(line) < 300


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (changed(input=IMAGE | {"value_range": [1, 1]}), "m.onnx.input.value_range: expected two different values"),
        (changed(output=IMAGE | {"channels": 0}), "m.onnx.output.channels: expected at least 1, found 0"),
        (changed(size={"multiple_of": 0}), "m.onnx.size.multiple_of: expected at least 1, found 0"),
        (changed(size={"minimum": -5}), "m.onnx.size.minimum: expected at least 1, found -5"),
        (changed(size={"width": 0}), "m.onnx.size.width: expected at least 1, found 0"),
    ],
)
def test_numbers_that_no_model_can_mean_are_refused(text, message):
    with pytest.raises(ModelError) as raised:
        Card.from_json(text, where="m.onnx")

    assert message in str(raised.value)


def test_whole_numbers_are_read_as_floats_where_the_card_has_floats():
    card = Card.from_json(changed(input=IMAGE | {"value_range": [0, 255]}))

    assert card.input.value_range == (0.0, 255.0)
    assert isinstance(card.input.value_range[1], float)


@given(st.text())
def test_any_text_is_a_card_or_a_model_error(text):
    with pytest.raises(ModelError):
        Card.from_json(text)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(st.sampled_from([*asdict(make_card())]), json_values)
def test_any_value_in_any_field_is_taken_or_refused_with_a_model_error(field, value):
    assert "\n" not in refusal(changed(**{field: value}))


def refusal(text: str) -> str:
    """What is said against a card; nothing if it is taken. Any other error goes through."""
    try:
        Card.from_json(text)
    except ModelError as error:
        return str(error)
    return ""
