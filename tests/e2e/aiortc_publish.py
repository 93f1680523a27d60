"""Publishes a picture that flashes each second, with a beep, over WHIP with aiortc:

    aiortc_publish.py URL SECONDS VIDEO AUDIO [close-first]

VIDEO and AUDIO are the codecs to offer, H264 and opus for example.
"""

import asyncio
import fractions
import os
import sys
import time
import urllib.parse
import urllib.request

import av
import numpy
from aiortc import RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamTrack, VideoStreamTrack


class Clock:
    """When the first picture is due, by the wall clock: flash and beep come at each full second after it."""

    zero = None


class Flash(VideoStreamTrack):
    """A bar that moves over a grey picture, white for 100 ms of each second."""

    async def recv(self):
        pts, time_base = await self.next_timestamp()
        Clock.zero = self._start
        picture = numpy.full((240, 320, 3), 255 if pts % 90000 < 9000 else 64, dtype=numpy.uint8)
        at = (pts // 3000 * 4) % 300
        picture[200:, at : at + 20] = (255, 160, 32)
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
        frame.pts, frame.time_base = pts, time_base
        return frame


class Beep(MediaStreamTrack):
    """Silence with 100 ms of 1 kHz at the start of each second, which begin with a full sample.

    48 kHz in stereo and frames of 20 ms, as Opus takes them: aiortc resamples anything else, which delays it.
    """

    kind = "audio"
    rate, count = 48000, 960
    start, position = None, 0

    async def recv(self):
        self.start = self.start or time.time()
        due = self.start + self.position / self.rate
        await asyncio.sleep(max(0, due - time.time()))
        zero = self.start if Clock.zero is None else Clock.zero
        second = (self.start - zero + (self.position + numpy.arange(self.count)) / self.rate) % 1
        samples = numpy.where(second < 0.1, numpy.cos(second * (2 * numpy.pi * 1000)) * 24000, 0)
        if Clock.zero is None:
            samples[:] = 0
        both = numpy.repeat(samples.astype(numpy.int16), 2).reshape(1, -1)
        beep = av.AudioFrame.from_ndarray(both, format="s16", layout="stereo")
        beep.pts, beep.sample_rate, beep.time_base = self.position, self.rate, fractions.Fraction(1, self.rate)
        self.position += self.count
        return beep


def request(method, url, body=None):
    headers = {"Content-Type": "application/sdp"} if body else {}
    if token := os.environ.get("WHIP_TOKEN"):
        headers["Authorization"] = f"Bearer {token}"
    return urllib.request.urlopen(
        urllib.request.Request(url, data=body, method=method, headers=headers), timeout=10
    )


def offer_only(transceiver, kind, name):
    capabilities = type(transceiver.sender).getCapabilities(kind).codecs
    chosen = [c for c in capabilities if c.mimeType.lower() == f"{kind}/{name}".lower()]
    assert chosen, f"aiortc has no {name}: {[c.mimeType for c in capabilities]}"
    transceiver.setCodecPreferences(chosen)


async def main(url, seconds, video_codec, audio_codec, close_first):
    pc = RTCPeerConnection()
    video = pc.addTransceiver(Flash(), direction="sendonly")
    audio = pc.addTransceiver(Beep(), direction="sendonly")
    offer_only(video, "video", video_codec)
    offer_only(audio, "audio", audio_codec)
    await pc.setLocalDescription(await pc.createOffer())
    response = await asyncio.to_thread(request, "POST", url, pc.localDescription.sdp.encode())
    assert response.status == 201, response.status
    session = urllib.parse.urljoin(url, response.headers["Location"])
    await pc.setRemoteDescription(RTCSessionDescription(response.read().decode(), "answer"))
    for _ in range(int(seconds * 10)):
        await asyncio.sleep(0.1)
        if pc.connectionState in ("failed", "closed"):
            raise SystemExit(f"connection {pc.connectionState}")
    if pc.connectionState != "connected":
        raise SystemExit(f"still {pc.connectionState} at the end")
    if close_first:
        await pc.close()
    status = (await asyncio.to_thread(request, "DELETE", session)).status
    assert status == 200, status
    await pc.close()
    print("published")


asyncio.run(main(sys.argv[1], float(sys.argv[2]), sys.argv[3], sys.argv[4], "close-first" in sys.argv[5:]))
