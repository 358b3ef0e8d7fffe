"""One grammar for all sources, and no password of an address in any message."""

from __future__ import annotations

import contextlib
import string
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from videos import write_video

from i2i_runtime.errors import SourceError, reason
from i2i_runtime.redaction import redact
from i2i_runtime.sources.address import Address, CameraMode, Kind, parse_address
from i2i_runtime.sources.open import open_source


@pytest.mark.parametrize(
    ("text", "kind", "where"),
    [
        (0, Kind.CAMERA, "0"),
        ("0", Kind.CAMERA, "0"),
        (" 12 ", Kind.CAMERA, "12"),
        ("/dev/video0", Kind.CAMERA, "/dev/video0"),
        ("0:1280x720@30", Kind.CAMERA, "0:1280x720@30"),
        ("0@30000/1001", Kind.CAMERA, "0@30000/1001"),
        ("/dev/video0:1280x720", Kind.CAMERA, "/dev/video0:1280x720"),
        ("rtsp://10.0.0.5:554/live", Kind.STREAM, "rtsp://10.0.0.5:554/live"),
        ("RTSPS://camera/live", Kind.STREAM, "RTSPS://camera/live"),
        ("rtmp://host/app/key", Kind.STREAM, "rtmp://host/app/key"),
        ("srt://host:9000?mode=caller", Kind.STREAM, "srt://host:9000?mode=caller"),
        ("http://camera/video.jpg", Kind.STREAM, "http://camera/video.jpg"),
        ("https://host/clip.mp4", Kind.STREAM, "https://host/clip.mp4"),
        ("udp://@239.0.0.1:1234", Kind.STREAM, "udp://@239.0.0.1:1234"),
        ("gst:videotestsrc ! videoconvert", Kind.GSTREAMER, "videotestsrc ! videoconvert"),
        ("gst:rtspsrc location=rtsp://a/b ! x", Kind.GSTREAMER, "rtspsrc location=rtsp://a/b ! x"),
        ("screen", Kind.SCREEN, "screen"),
        ("screen:1", Kind.SCREEN, "screen:1"),
        ("test-pattern", Kind.TEST_PATTERN, "test-pattern"),
        ("test-pattern:1280x720@25", Kind.TEST_PATTERN, "test-pattern:1280x720@25"),
        ("test-pattern@25", Kind.TEST_PATTERN, "test-pattern@25"),
        ("photo.JPG", Kind.IMAGES, "photo.JPG"),
        ("photos/*", Kind.IMAGES, "photos/*"),
        ("photos/**/*.png", Kind.IMAGES, "photos/**/*.png"),
        ("clip.mp4", Kind.VIDEO, "clip.mp4"),
        ("10:30.mp4", Kind.VIDEO, "10:30.mp4"),
        ("C:/videos/clip.mp4", Kind.VIDEO, "C:/videos/clip.mp4"),
        ("./screen", Kind.VIDEO, "./screen"),
        ("screen.mp4", Kind.VIDEO, "screen.mp4"),
        (Path("clip.mkv"), Kind.VIDEO, "clip.mkv"),
    ],
)
def test_an_address_names_its_kind(text, kind, where):
    assert parse_address(text) == Address(kind=kind, where=where)


@pytest.mark.parametrize(
    ("where", "camera", "size", "fps"),
    [
        ("0", "0", None, None),
        ("0:1280x720", "0", (720, 1280), None),
        ("0:1280x720@30", "0", (720, 1280), 30),
        ("0@7.5", "0", None, Fraction(15, 2)),
        ("/dev/video2:640x480@30000/1001", "/dev/video2", (480, 640), Fraction(30000, 1001)),
        (
            "/dev/v4l/by-path/pci-0:14.0-usb-0:1:1.0-index0",
            "/dev/v4l/by-path/pci-0:14.0-usb-0:1:1.0-index0",
            None,
            None,
        ),
        ("/dev/v4l/by-path/usb-0:1:640x480", "/dev/v4l/by-path/usb-0:1", (480, 640), None),
        ("0:0x720", "0:0x720", None, None),
        ("0:1280x720@0", "0:1280x720@0", None, None),
    ],
)
def test_a_camera_takes_a_size_and_a_rate_behind_its_name(where, camera, size, fps):
    assert CameraMode.parse(where) == CameraMode(camera=camera, size=size, fps=fps)


def test_a_folder_is_pictures_and_a_file_with_a_wildcard_in_its_name_is_a_video(tmp_path):
    odd = tmp_path / "take [2].mp4"
    odd.touch()

    assert parse_address(tmp_path).kind is Kind.IMAGES
    assert parse_address(odd).kind is Kind.VIDEO


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a camera .* found nothing"),
        ("  ", "expected a camera .* found nothing"),
        ("ftp://me:secret@host/clip.mp4", r"ftp://\*\*\*@host/clip.mp4: expected a camera .* found ftp://"),
        ("gst:", "gst: expected a pipeline after it"),
    ],
)
def test_what_names_nothing_is_one_line_that_says_what_can_be_named(text, message):
    with pytest.raises(SourceError, match=message) as error:
        parse_address(text)

    assert "\n" not in str(error.value)
    assert "secret" not in str(error.value)


@given(st.text(st.characters(exclude_characters="\0")))
def test_any_text_is_an_address_or_a_source_error(text):
    with contextlib.suppress(SourceError):
        parse_address(text)


def test_an_address_shows_itself_without_its_password():
    assert str(parse_address("rtsp://admin:hunter2@camera/live")) == "rtsp://***@camera/live"
    assert str(parse_address("gst:rtspsrc location=rtsp://a:hunter2@b ! x")) == "gst:rtspsrc location=rtsp://***@b ! x"
    assert str(parse_address("0")) == "camera 0"


@pytest.mark.parametrize(("where", "shown"), [("0:1280x720@30", "camera 0"), ("/dev/video0:1280x720", "/dev/video0")])
def test_a_camera_shows_itself_without_its_size(where, shown):
    assert str(Address(kind=Kind.CAMERA, where=where)) == shown


def test_what_is_opened_is_what_was_named(tmp_path):
    clip = write_video(tmp_path / "clip.mp4")

    with open_source(clip) as video, open_source("test-pattern:160x128@5") as pattern:
        assert (video.info.name, video.info.is_live) == ("clip", False)
        assert (pattern.info.fps, pattern.info.is_live) == (5, True)


def test_a_pipeline_of_gstreamer_needs_an_opencv_that_has_it():
    from i2i_runtime.sources.gstreamer import has_gstreamer

    if has_gstreamer():
        pytest.skip("this OpenCV has GStreamer")
    with pytest.raises(
        SourceError, match=r"gst:videotestsrc: this OpenCV .* has no GStreamer.*python3-opencv"
    ) as error:
        open_source("gst:videotestsrc")

    assert "\n" not in str(error.value)


def test_the_password_of_a_pipeline_is_not_shown_when_it_cannot_start():
    with pytest.raises(SourceError) as error:
        open_source("gst:rtspsrc location=rtsp://host/live user-id=admin user-pw=hunter2 ! no-such-element")

    assert "user-id=*** user-pw=***" in str(error.value)
    assert "hunter2" not in str(error.value)


# Passwords


@pytest.mark.parametrize(
    ("address", "masked"),
    [
        ("rtsp://admin@10.0.0.5/s", "rtsp://***@10.0.0.5/s"),
        ("rtsp://admin:@10.0.0.5/s", "rtsp://***@10.0.0.5/s"),
        ("rtsp://:secret@10.0.0.5/s", "rtsp://***@10.0.0.5/s"),
        ("rtsp://admin:secret@10.0.0.5:554/s", "rtsp://***@10.0.0.5:554/s"),
        ("rtsp://first.last:secret@host/s", "rtsp://***@host/s"),
        ("rtsp://me@mail.com:secret@host/s", "rtsp://***@host/s"),
        ("rtsp://admin:p@secret@host/s", "rtsp://***@host/s"),
        ("rtsp://admin:a/secret@host/s", "rtsp://***@host/s"),
        ("rtsp://admin:8080/secret@host/s", "rtsp://***@host/s"),
        ("rtsp://admin:a?secret@host/s", "rtsp://***@host/s"),
        ("rtsp://admin:a#secret@host/s", "rtsp://***@host/s"),
        ("rtsp://admin:a[secret@host/s", "rtsp://***@host/s"),
        ("rtsp://admin:a]secret@host/s", "rtsp://***@host/s"),
        ("rtsp://admin:a:secret@host/s", "rtsp://***@host/s"),
        ("rtsp://admin:'secret\"@host/s", "rtsp://***@host/s"),
        ("rtsp://admin:secret%40x@host/s", "rtsp://***@host/s"),
        ("rtsp://admin:a secret@host/s", "rtsp://***@host/s"),
        ("rtsp://admin:secret a@host/s", "rtsp://***@host/s"),
        ("rtsp://admin:secret@x.mp4@host/s", "rtsp://***@host/s"),
        ("rtsp://admin:secret@[::1]:554/s", "rtsp://***@[::1]:554/s"),
        ("rtsp://admin:secret@[fe80::1%25eth0]/s", "rtsp://***@[fe80::1%25eth0]/s"),
        ("rtsp://admin:secret@host/clip@2x.mp4", "rtsp://***@host/clip@2x.mp4"),
        ("http://host/video?token=secret", "http://host/video?token=***"),
        ("http://host/video?x=1&password=secret&y=2", "http://host/video?x=1&password=***&y=2"),
        ("http://host/video?user=secret&pwd=secret", "http://host/video?user=***&pwd=***"),
        ("http://host/video?auth=secret", "http://host/video?auth=***"),
        ("http://host/video?a=1&auth=secret&key=secret", "http://host/video?a=1&auth=***&key=***"),
        ("http://host/video?api_key=secret", "http://host/video?api_key=***"),
        ("http://host/video?ACCESS_TOKEN=secret", "http://host/video?ACCESS_TOKEN=***"),
        ("http://host/video#access_token=secret", "http://host/video#access_token=***"),
        ("https://bucket/clip.mp4?X-Amz-Signature=secret", "https://bucket/clip.mp4?X-Amz-Signature=***"),
        ("srt://host:9000?passphrase=secret&latency=20", "srt://host:9000?passphrase=***&latency=20"),
        ("rtmp://u:secret@host/app?token=secret", "rtmp://***@host/app?token=***"),
        ("rtspsrc user-id=secret user-pw=secret ! x", "rtspsrc user-id=*** user-pw=*** ! x"),
        ('rtspsrc user-pw="a secret" user-id = secret ! x', "rtspsrc user-pw=*** user-id = *** ! x"),
        ("user=secret password=secret", "user=*** password=***"),
        ("http://host/cgi?loginuse=secret&loginpas=secret", "http://host/cgi?loginuse=***&loginpas=***"),
        ("http://host/cgi?usr=secret&psw=secret", "http://host/cgi?usr=***&psw=***"),
        ("http://host/cgi?u=secret&p=secret&q=2", "http://host/cgi?u=***&p=***&q=2"),
        ("http://host/cgi?p=secret&q=2&u=secret", "http://host/cgi?p=***&q=2&u=***"),
        (
            "rtsp://host:554/user=secret_password=a_secret_channel=1_stream=0.sdp?x",
            "rtsp://host:554/user=***_password=***_channel=1_stream=0.sdp?x",
        ),
        ("rtsp://host/user=secret&password=secret&channel=1", "rtsp://host/user=***&password=***&channel=1"),
        ("admin:secret@10.0.0.5/s", "***@10.0.0.5/s"),
        ("admin:p@ss/secret@10.0.0.5/s", "***@10.0.0.5/s"),
        ("rtsp:/admin:secret@host/s", "rtsp:/***@host/s"),
        ("RTSP://admin:secret@host/s", "RTSP://***@host/s"),
        ("rtsp://admin:secret", "rtsp://***"),
        ("rtsp://[admin:secret", "rtsp://***"),
    ],
)
@pytest.mark.parametrize("message", ["{}", "{}: refused", "cannot open '{}'", "source={} (twice: {})"])
def test_whatever_is_secret_in_an_address_is_masked(address, masked, message):
    shown = redact(message.replace("{}", address))

    assert "secret" not in shown
    if message == "{}":
        assert shown == masked


@pytest.mark.parametrize(
    "text",
    [
        "photos/me@home.jpg: no such file",
        "photo@2x.png",
        "10:30@home.mp4: not a readable video",
        r"C:\Users\me@home\clip.mp4",
        "http://host/photo@2x.jpg",
        "http://host:8080/photo@2x.jpg: not found",
        "rtsp://10.0.0.5:554/live: no answer within 5 s",
        "rtsp://[::1]:554/live: gone",
        "rtsp://camera: gone",
        "http://host/video?width=640&fps=25",
        "frame 3: expected 3 channels",
        "mail me@home.org",
        "udp://@239.0.0.1:1234: gone",
        "photos/user=me.jpg: no such file",
        "my_password=1.mp4: no such video file",
        "password.txt and login.png",
        "http://host/cgi?p=2&cause=1&reuse=1: gone",
        "expected user_id=3, found compass=4",
    ],
)
def test_an_address_or_a_name_of_a_file_without_a_secret_is_left_as_it_is(text):
    assert redact(text) == text


SECRET = st.text(st.characters(codec="utf-8", exclude_categories=("Z", "C")), min_size=1).map(lambda s: f"sec{s}ret")


@given(SECRET, st.sampled_from(["rtsp", "http", "srt", "rtmps"]), st.sampled_from(["host", "10.0.0.5:554", "[::1]:80"]))
def test_no_password_is_shown_in_any_scheme_and_host(secret, scheme, host):
    shown = redact(f"could not open {scheme}://me:{secret}@{host}/live: gone")

    assert shown == f"could not open {scheme}://***@{host}/live: gone"


@given(SECRET, st.sampled_from(["token", "password", "auth", "key", "access_token", "sig"]))
def test_no_secret_of_a_query_is_shown(secret, key):
    secret = secret.replace("&", "")

    assert secret not in redact(f"http://host/live?{key}={secret}&fps=25: gone")


@given(st.text(alphabet=string.ascii_letters + string.digits, min_size=8, max_size=400), st.integers(0, 400))
def test_an_address_that_a_library_cuts_off_shows_no_password(secret, padding):
    assert f"u{secret}"[:8] not in reason(OSError(f"{'x' * padding} rtsp://me:u{secret}@host/live"))
