"""Keeps passwords, tokens and user names out of every message."""

from __future__ import annotations

import re

_MOST_PASSES = 10
_ADDRESS = re.compile(
    # One slash is enough: pathlib turns rtsp:// into rtsp:/.
    r"(?P<scheme>\b[a-z][a-z0-9+.-]+:/{1,2})(?P<rest>\S*)"
    # Without a scheme: user:password@host, but not C:\pictures.
    r"|(?<![^\s'\"(\[=,])(?![a-z]:[\\/])[^\s:/@'\"=]+:\S*@\S*",
    re.IGNORECASE,
)
_PASSWORD_WITH_SPACES = re.compile(
    r"(\b[a-z][a-z0-9+.-]+:/{1,2})[^\s@/?#:\[]*:(?!\d*(?:[/?#\s]|$))[^\s@]+[ \t][^\n]*@", re.IGNORECASE
)
_CUT_OFF = re.compile(r"(?:\[[^\s\]]*\]|(?!\[[^\s\]]*\])[^\s@/?#:]*):(?!\d*(?:[/?#'\"),;:.\]]|$))\S+")
"""A user and what is no port, without the @ that should follow."""
_FILE_NAME = re.compile(
    r"[^/@\s]*\.(?:jpe?g|png|bmp|webp|gif|tiff?|avif|mp4|mkv|avi|webm|m3u8|mjpe?g|onnx|plan)"
    r"(?=$|[\s'\"),;?#]|:(?!\d))",
    re.IGNORECASE,
)
_TO_END = r"(?=[:;,.'\")\]>]*(?:[&\s]|$))"
"""Where a secret ends: what closes it may belong to the sentence around it."""
_SECRET_IN_QUERY = re.compile(
    r"([?&;#][\w.-]*?(?:token|pass(?:word|wd|phrase)?|loginpas|pwd|psw|pw|auth(?:orization)?|key|secret|sig(?:nature)?"
    rf"|session|credentials?|user(?:name)?|usr|loginuse|login|account)=)[^&\s]*?{_TO_END}",
    re.IGNORECASE,
)
_PAIR_IN_QUERY = re.compile(
    rf"([?&]u=)[^&\s]*(&(?:[^&\s]*&)*?p=)[^&\s]*?{_TO_END}|([?&]p=)[^&\s]*(&(?:[^&\s]*&)*?u=)[^&\s]*?{_TO_END}",
    re.IGNORECASE,
)
"""`u` and `p` of one query: each alone is too often something else, such as a page."""
_PAIR_IN_PATH = re.compile(
    r"((?:^|[/\s'\"])user(?:name)?=)[^\s/]*?([_&]pass(?:word|wd)?=)\S*?"
    rf"(?=[_&](?:channel|stream|onvif|proto)=|{_TO_END[3:]}",
    re.IGNORECASE,
)
"""As XMEye cameras want it: `/user=admin_password=hunter2_channel=1_stream=0.sdp`."""
_WORDS_OF_SECRETS = r"(?:(?:user|proxy)-(?:id|pw)|pass(?:word|wd|phrase)?|pwd|psw)"
_VALUE = rf"""\s*=\s*)(?:"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|\S*?{_TO_END.replace("&", "")})"""
_SECRET_PROPERTY = re.compile(rf"((?<![^\s'\"(\[{{,;!=])(?:{_WORDS_OF_SECRETS}){_VALUE}", re.IGNORECASE)
"""A word of its own, as the properties of a GStreamer element are."""
_USER_PROPERTY = re.compile(rf"((?<![^\s'\"(\[{{,;!=])(?:user(?:name)?|usr|login){_VALUE}", re.IGNORECASE)


def redact(text: str) -> str:
    """Mask user names, passwords and access tokens of every address in `text`; in doubt it masks too much.

    >>> redact("rtsp://admin:hunter2@10.0.0.5/stream?token=abc")
    'rtsp://***@10.0.0.5/stream?token=***'
    """
    # What one rule masks may leave a beginning that another one knows: until nothing changes, so that masking what was
    # masked already changes nothing either.
    for _ in range(_MOST_PASSES):
        before, text = text, _masked(text)
        if text == before:
            break
    return text


def _masked(text: str) -> str:
    text = _ADDRESS.sub(_without_user, _PASSWORD_WITH_SPACES.sub(r"\1***@", text))
    text = _PAIR_IN_QUERY.sub(_without_pair, _SECRET_IN_QUERY.sub(r"\1***", text))
    text = _PAIR_IN_PATH.sub(r"\1***\2***", text)
    if _SECRET_PROPERTY.search(text):
        # Alone, user=me.jpg is the name of a file.
        text = _USER_PROPERTY.sub(r"\1***", _SECRET_PROPERTY.sub(r"\1***", text))
    return text


def _without_pair(pair: re.Match[str]) -> str:
    first, second = (each for each in pair.groups() if each)
    return f"{first}***{second}***"


def _without_user(address: re.Match[str]) -> str:
    scheme = address["scheme"] or ""
    rest = address["rest"] if scheme else address[0]
    # The last @ ends the password, which may itself hold @, /, ? or a quote; but clip@2x.mp4 is the name of a file.
    at = rest.rfind("@")
    while at >= 0 and _FILE_NAME.match(rest, at + 1):
        at = rest.rfind("@", 0, at)
    if at == 0:
        return address[0]  # udp://@239.0.0.1: nobody's
    if at > 0:
        return f"{scheme}***{rest[at:]}"
    return f"{scheme}***" if scheme and _CUT_OFF.match(rest) else f"{scheme}{rest}"
