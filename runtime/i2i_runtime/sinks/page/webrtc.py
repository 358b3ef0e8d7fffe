"""The shared view as WebRTC video, encoded for each viewer: for lines that lose packets, where TCP would stall.

Only host candidates: the browser must reach this machine directly, as it does for the page itself. Media is encrypted
between the two, and only an offer that came through the page is answered.
"""

from __future__ import annotations

import asyncio
import time
from fractions import Fraction

import cv2
import numpy as np
from aiortc import MediaStreamTrack, RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError
from av import VideoFrame

from i2i_runtime.errors import UsageError
from i2i_runtime.frame import Frame
from i2i_runtime.sinks.page.picture import shrunk

MOST_PEERS = 4
"""Each costs an encoder of its own."""
_CONNECTED_WITHIN = 15.0
"""Seconds after its offer in which a viewer must be there."""
_CLOCK = 90000
"""Ticks per second of RTP video."""
_REPEAT_AFTER = 1.0
"""Seconds after which a picture that stands still is sent again."""


class Peers:
    """The viewers by WebRTC. Used in the server's event loop."""

    def __init__(self, longest: int) -> None:
        """Nobody yet.

        Args:
            longest: the longest side of a picture, in pixels.
        """
        self._longest = longest
        self._connections: set[RTCPeerConnection] = set()
        # Kept, because the loop itself holds tasks weakly.
        self._leaving: set[asyncio.Future[None]] = set()
        self._frame: Frame | None = None
        self._news = asyncio.Event()

    def __len__(self) -> int:
        return len(self._connections)

    def show(self, frame: Frame) -> None:
        """The newest frame."""
        self._frame = frame
        self._news.set()
        self._news = asyncio.Event()

    async def after(self, seen: Frame | None) -> Frame:
        """A frame newer than `seen`, or the same one when none comes for a while."""
        while self._frame is None or self._frame is seen:
            try:
                await asyncio.wait_for(self._news.wait(), _REPEAT_AFTER)
            except asyncio.TimeoutError:
                if self._frame is not None:
                    break
        return self._frame

    async def answer(self, offer: str) -> str:
        """Let one more viewer in.

        Args:
            offer: what the browser sends, as SDP.

        Raises:
            UsageError: it is no offer to receive video, or there are enough viewers.
        """
        if len(self) >= MOST_PEERS:
            raise UsageError(f"WebRTC: {MOST_PEERS} viewers already")
        connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self._connections.add(connection)

        @connection.on("connectionstatechange")  # type: ignore[misc,unused-ignore]
        async def on_change() -> None:
            if connection.connectionState in ("failed", "closed", "disconnected"):
                await self._drop(connection)

        sent: list[MediaStreamTrack] = []
        connection.on("track", sent.append)
        try:
            await connection.setRemoteDescription(RTCSessionDescription(sdp=offer, type="offer"))
            transceivers = connection.getTransceivers()
            if [each.kind for each in transceivers] != ["video"] or connection.sctp is not None:
                raise ValueError("expected one video")
            # What a viewer sent would be decoded, and pile up unseen.
            if sent:
                raise ValueError("expected an offer to receive only")
            connection.addTrack(_Video(self, self._longest))
            transceivers[0].direction = "sendonly"
            await connection.setLocalDescription(await connection.createAnswer())
        except Exception as error:
            await self._drop(connection)
            raise UsageError(f"WebRTC: expected an offer to receive one video ({type(error).__name__})") from error
        asyncio.get_running_loop().call_later(_CONNECTED_WITHIN, self._expect, connection)
        return str(connection.localDescription.sdp)

    async def close(self) -> None:
        """Let all go."""
        await asyncio.gather(*(self._drop(connection) for connection in list(self._connections)))

    def _expect(self, connection: RTCPeerConnection) -> None:
        if connection.connectionState != "connected" and connection in self._connections:
            leaving = asyncio.ensure_future(self._drop(connection))
            self._leaving.add(leaving)
            leaving.add_done_callback(self._leaving.discard)

    async def _drop(self, connection: RTCPeerConnection) -> None:
        self._connections.discard(connection)
        await connection.close()


class _Video(MediaStreamTrack):  # type: ignore[misc,unused-ignore]
    kind = "video"

    def __init__(self, peers: Peers, longest: int) -> None:
        super().__init__()
        self._peers = peers
        self._longest = longest
        self._began = time.monotonic()
        self._seen: Frame | None = None

    async def recv(self) -> VideoFrame:
        if self.readyState != "live":
            raise MediaStreamError
        self._seen = await self._peers.after(self._seen)
        video = await asyncio.to_thread(self._convert, self._seen)
        video.pts = round((time.monotonic() - self._began) * _CLOCK)
        video.time_base = Fraction(1, _CLOCK)
        return video

    def _convert(self, frame: Frame) -> VideoFrame:
        image = shrunk(frame.image, self._longest)
        # Video codecs halve both sides.
        down, right = (side % 2 for side in image.shape[:2])
        even = cv2.copyMakeBorder(image, 0, down, 0, right, cv2.BORDER_REPLICATE) if down or right else image
        return VideoFrame.from_ndarray(np.ascontiguousarray(even, np.uint8), format="bgr24")
