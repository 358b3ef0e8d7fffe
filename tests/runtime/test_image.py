"""Pictures: fitted to a model and back, read with every fault told, written whole or not at all."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from interpreter import python

from i2i_runtime.card import SizeRule
from i2i_runtime.errors import SinkError, SourceError
from i2i_runtime.image import list_images, make_folder, natural_order, plan_fit, read_image, resize, write_image

lengths = st.integers(1, 300)
fixed_rules = st.builds(SizeRule, height=st.integers(1, 128), width=st.integers(1, 128))
free_rules = st.builds(SizeRule, multiple_of=st.integers(1, 64), minimum=st.integers(1, 128))
modes = st.sampled_from(["letterbox", "stretch"])


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@given(lengths, lengths, free_rules, modes)
def test_a_free_model_size_is_the_smallest_that_the_rule_allows(height, width, rule, mode):
    fit = plan_fit(height, width, rule, mode)

    for length, model in zip((height, width), fit.model, strict=True):
        assert model % rule.multiple_of == 0
        assert model >= max(length, rule.minimum)
        assert model - rule.multiple_of < max(length, rule.minimum)


@given(lengths, lengths, fixed_rules, modes)
def test_a_fixed_model_size_is_taken_as_it_is(height, width, rule, mode):
    assert plan_fit(height, width, rule, mode).model == (rule.height, rule.width)


@given(lengths, lengths, st.builds(SizeRule, height=st.integers(1, 128), multiple_of=st.integers(1, 64)), modes)
def test_a_model_may_fix_one_side_only(height, width, rule, mode):
    fit = plan_fit(height, width, rule, mode)

    assert fit.model[0] == rule.height
    assert fit.model[1] % rule.multiple_of == 0


@settings(max_examples=60, deadline=None)
@given(lengths, lengths, fixed_rules | free_rules, modes)
@example(1, 1, SizeRule(height=128, width=128), "letterbox")
@example(1, 1, SizeRule(multiple_of=64), "letterbox")
@example(1, 300, SizeRule(height=128, width=128), "letterbox")
@example(300, 1, SizeRule(height=128, width=128), "stretch")
def test_a_picture_gets_the_models_size_and_its_own_size_back(height, width, rule, mode):
    fit = plan_fit(height, width, rule, mode)

    fitted = fit.apply(picture(height, width))
    back = fit.undo(fitted)

    assert fitted.shape == (*fit.model, 3)
    assert back.shape == (height, width, 3)


@settings(max_examples=60, deadline=None)
@given(lengths, lengths, free_rules, modes)
def test_a_picture_that_is_only_padded_comes_back_unchanged(height, width, rule, mode):
    image = picture(height, width)
    fit = plan_fit(height, width, rule, mode)

    assert np.array_equal(fit.undo(fit.apply(image)), image)


@given(lengths, lengths, fixed_rules)
def test_letterbox_keeps_the_aspect_within_the_rounding_of_a_pixel(height, width, rule):
    scaled_height, scaled_width = plan_fit(height, width, rule, "letterbox").scaled

    assert abs(scaled_height * width - scaled_width * height) <= max(height, width)


@given(lengths, lengths, fixed_rules)
def test_letterbox_fills_the_model_from_edge_to_edge_in_one_direction(height, width, rule):
    fit = plan_fit(height, width, rule, "letterbox")

    assert fit.scaled[0] == fit.model[0] or fit.scaled[1] == fit.model[1]
    assert fit.scaled[0] <= fit.model[0]
    assert fit.scaled[1] <= fit.model[1]


def test_stretch_fills_the_model_in_both_directions():
    assert plan_fit(100, 300, SizeRule(height=64, width=64), "stretch").scaled == (64, 64)


def test_the_border_mirrors_the_picture():
    image = np.tile(np.arange(4, dtype=np.uint8)[None, :, None] * 10, (4, 1, 3))

    fitted = plan_fit(4, 4, SizeRule(multiple_of=8)).apply(image)

    assert fitted[4, :, 0].tolist() == [20, 10, 0, 10, 20, 30, 20, 10]


def test_a_picture_that_has_the_size_already_is_not_copied():
    image = picture(8, 8)

    assert resize(image, (8, 8)) is image


def test_shrinking_averages():
    checkerboard = np.tile(np.array([[0, 200], [200, 0]], np.uint8)[..., None], (8, 8, 3))

    assert np.unique(resize(checkerboard, (8, 8))).tolist() == [100]


@pytest.fixture
def jpeg(tmp_path) -> Path:
    path = tmp_path / "photo.jpg"
    cv2.imwrite(str(path), cv2.resize(picture(6, 8), (320, 240)))
    return path


def with_thumbnail(jpeg: bytes) -> bytes:
    """The JPEG with a whole small JPEG in its EXIF segment, as cameras write it."""
    thumbnail = cv2.imencode(".jpg", picture(16, 16))[1].tobytes()
    segment = b"Exif\0\0" + thumbnail
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + jpeg[2:]


def turned_by_exif(jpeg: bytes, orientation: int) -> bytes:
    """The JPEG with an EXIF orientation."""
    tiff = b"MM\0*\0\0\0\x08" + struct.pack(">HHHIHHI", 1, 0x0112, 3, 1, orientation, 0, 0)
    segment = b"Exif\0\0" + tiff
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + jpeg[2:]


def png_of(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")
    )


def test_a_jpeg_with_an_exif_thumbnail_is_read(jpeg):
    jpeg.write_bytes(with_thumbnail(jpeg.read_bytes()))

    assert read_image(jpeg).shape == (240, 320, 3)


def test_the_exif_orientation_is_applied(jpeg):
    upright = read_image(jpeg)
    jpeg.write_bytes(turned_by_exif(jpeg.read_bytes(), 6))  # 6: the camera was turned by 90 degrees

    assert np.array_equal(read_image(jpeg), np.rot90(upright, -1))


@pytest.mark.parametrize("share", [0.02, 0.3, 0.7, 0.999])
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".webp", ".tif"])
@pytest.mark.fault(16)
def test_a_truncated_picture_is_refused_and_named(tmp_path, suffix, share):
    path = tmp_path / f"cut{suffix}"
    whole = cv2.imencode(suffix, cv2.resize(picture(6, 8), (320, 240)))[1].tobytes()
    path.write_bytes(whole[: int(len(whole) * share)])

    with pytest.raises(SourceError, match=f"cut{suffix}: "):
        read_image(path)


@pytest.mark.parametrize("share", [0.3, 0.7, 0.999])
def test_the_end_of_an_exif_thumbnail_is_not_taken_for_the_end_of_the_picture(jpeg, share):
    whole = with_thumbnail(jpeg.read_bytes())
    jpeg.write_bytes(whole[: int(len(whole) * share)])

    with pytest.raises(SourceError, match="truncated JPEG"):
        read_image(jpeg)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.png", b"", "the file is empty"),
        ("text.jpg", b"not a picture\n", "not a picture that OpenCV can decode"),
        ("zeros.png", b"\0" * 1000, "not a picture that OpenCV can decode"),
        ("video.png", b"\0\0\0\x18ftypmp42" + b"\0" * 100, "not a picture that OpenCV can decode"),
    ],
)
def test_what_is_no_picture_is_refused_and_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)

    with pytest.raises(SourceError, match=f"{name}: {message}"):
        read_image(tmp_path / name)


def test_a_missing_picture_is_named(tmp_path):
    with pytest.raises(SourceError, match=r"none.png: cannot be read \(No such file or directory\)"):
        read_image(tmp_path / "none.png")


@pytest.mark.fault(17)
def test_an_image_bomb_is_refused_before_it_takes_memory(tmp_path):
    (tmp_path / "bomb.png").write_bytes(png_of(40_000, 40_000))
    code = """
import resource, sys
from pathlib import Path
from i2i_runtime.errors import SourceError
from i2i_runtime.image import read_image
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    read_image(Path(sys.argv[1]))
except SourceError as error:
    print(error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""

    message, mebibytes = python(code, tmp_path / "bomb.png").stdout.splitlines()

    assert message.endswith("bomb.png: the picture cannot be decoded (over 67 Mpx)")
    assert int(mebibytes) < 50


def test_sixteen_bits_become_eight(tmp_path):
    path = tmp_path / "deep.png"
    cv2.imwrite(str(path), picture(5, 7).astype(np.uint16) * 257)

    image = read_image(path)

    assert image.dtype == np.uint8
    assert np.array_equal(image, picture(5, 7))


def test_a_gray_picture_gets_three_equal_channels(tmp_path):
    path = tmp_path / "gray.png"
    cv2.imwrite(str(path), picture(5, 7)[..., 0])

    assert np.array_equal(read_image(path), np.repeat(picture(5, 7)[..., :1], 3, axis=-1))


def test_an_alpha_channel_is_dropped(tmp_path):
    path = tmp_path / "alpha.png"
    cv2.imwrite(str(path), np.dstack([picture(5, 7), np.full((5, 7), 128, np.uint8)]))

    assert np.array_equal(read_image(path), picture(5, 7))


def test_a_picture_is_written_without_loss_and_leaves_nothing_beside_it(tmp_path):
    write_image(tmp_path / "result.png", picture(5, 7))

    assert np.array_equal(read_image(tmp_path / "result.png"), picture(5, 7))
    assert [p.name for p in tmp_path.iterdir()] == ["result.png"]


def test_a_full_disk_leaves_the_picture_that_was_there(tmp_path):
    write_image(tmp_path / "result.png", picture(5, 7))
    code = """
import resource, signal, sys
from pathlib import Path
import numpy as np
from i2i_runtime.errors import SinkError
from i2i_runtime.image import write_image
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
try:
    write_image(Path(sys.argv[1]), np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8))
except SinkError as error:
    print(error)
"""

    message = python(code, tmp_path / "result.png").stdout

    assert message.endswith("result.png: cannot be written (File too large)\n")
    assert np.array_equal(read_image(tmp_path / "result.png"), picture(5, 7))
    assert [p.name for p in tmp_path.iterdir()] == ["result.png"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("result.xyz", "result.xyz: OpenCV cannot write '.xyz' pictures; use .png or .jpg"),
        ("result", "result: OpenCV cannot write '' pictures; use .png or .jpg"),
        ("nowhere/result.png", r"result.png: cannot be written \(No such file or directory\)"),
        ("x" * 252 + ".png", r"x.png: cannot be written \(File name too long\)"),
    ],
)
def test_what_cannot_be_written_is_a_sink_error(tmp_path, name, message):
    with pytest.raises(SinkError, match=message):
        write_image(tmp_path / name, picture(5, 7))


def test_a_folder_is_made_with_its_parents_and_left_empty(tmp_path):
    make_folder(tmp_path / "a" / "b")

    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_a_folder_under_a_file_is_a_sink_error(tmp_path):
    (tmp_path / "file").write_text("in the way")

    with pytest.raises(SinkError, match="expected a folder that can be written"):
        make_folder(tmp_path / "file" / "results")


def test_pictures_are_listed_as_a_person_would_count_them(tmp_path):
    for name in ("img10.png", "img2.JPG", "img1.png", "b2a10.png", "b2a9.png", ".hidden.png", "notes.txt"):
        (tmp_path / name).touch()

    assert [p.name for p in list_images(tmp_path)] == ["b2a9.png", "b2a10.png", "img1.png", "img2.JPG", "img10.png"]


@given(st.text(alphabet=st.characters(exclude_characters="/\0", codec="utf-8")), st.integers(0), st.integers(0))
@example("1²", 2, 10)
@example("1٣", 2, 10)
def test_numbers_in_names_count_as_numbers_whatever_stands_before_them(prefix, one, other):
    orders = natural_order(Path(f"{prefix}{one}.png")), natural_order(Path(f"{prefix}{other}.png"))

    assert (orders[0] < orders[1]) == (one < other)
