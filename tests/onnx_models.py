"""Small ONNX models for tests of the runtime, which must not need torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from i2i_runtime.card import METADATA_KEY, Architecture, Card, ExportRecord, ImageSpec, SizeRule


def make_card(
    size: tuple[int, int] | None = (64, 64), *, graph_io: str = "float", channels: int = 3, multiple_of: int = 1
) -> Card:
    height, width = size or (None, None)
    image = ImageSpec(channels=channels, colour="RGB" if channels == 3 else "GRAY")
    return Card(
        name="negative",
        model_type="pix2pix",
        direction="AtoB",
        generator=Architecture(name="unet_64", arguments={"ngf": 4}),
        input=image,
        output=image,
        size=SizeRule(height=height, width=width, multiple_of=multiple_of),
        export=ExportRecord(opset=18, precision="fp32", graph_io=graph_io, norm_statistics="image"),
    )


def negative_model(path: Path, card: Card | None = None, *, scale: float = -1.0, bare: bool = False) -> Path:
    """A model that returns the photographic negative: what it should do to every pixel is plain.

    `scale` multiplies the values instead; NaN gives a model that returns NaN. `bare` leaves the card out.
    """
    card = card or make_card()
    height, width = card.size.height or "height", card.size.width or "width"
    channels = card.input.channels
    if card.export is not None and card.export.graph_io == "uint8":
        kind, shape = TensorProto.UINT8, [1, height, width, channels]
        constants = [numpy_helper.from_array(np.array(255, np.float32), "white")]
        nodes = [
            helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
            helper.make_node("Sub", ["white", "float"], ["inverted"]),
            helper.make_node("Cast", ["inverted"], ["result"], to=TensorProto.UINT8),
        ]
    else:
        kind, shape = TensorProto.FLOAT, [1, channels, height, width]
        constants = [numpy_helper.from_array(np.array(scale, np.float32), "scale")]
        nodes = [helper.make_node("Mul", ["image", "scale"], ["result"])]
    return save(path, nodes, [("image", kind, shape)], [("result", kind, shape)], constants, None if bare else card)


def save(path, nodes, inputs, outputs, constants=(), card=None) -> Path:
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(*i) for i in inputs],
        [helper.make_tensor_value_info(*o) for o in outputs],
        list(constants),
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    if card is not None:
        model.metadata_props.append(onnx.StringStringEntryProto(key=METADATA_KEY, value=card.to_json()))
    onnx.save(model, path)
    return path


def model_with_weights_outside(folder: Path) -> Path:
    """A model in a folder of its own, whose weights lie in the folder above: no engine may read them."""
    (folder / "secret.bin").write_bytes(b"\0" * 4)
    (folder / "inside").mkdir()
    path = negative_model(folder / "inside" / "model.onnx")
    proto = onnx.load(path)
    weight = proto.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="../secret.bin")
    path.write_bytes(proto.SerializeToString())
    return path
