"""Publishes a moving picture and a tone over WHIP with aiortc: aiortc_publish.py URL SECONDS [VIDEO AUDIO].

The last two are the codecs to offer, H264 and opus if they are left out.
"""

import asyncio
import fractions
import sys
import urllib.parse
import urllib.request

import av
import numpy
from aiortc import RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import AudioStreamTrack, VideoStreamTrack


class Bars(VideoStreamTrack):
    """A bar that moves over a grey picture."""

    async def recv(self):
        pts, time_base = await self.next_timestamp()
        picture = numpy.full((240, 320, 3), 96, dtype=numpy.uint8)
        at = (pts // 3000 * 4) % 300
        picture[:, at : at + 20] = (255, 160, 32)
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
        frame.pts, frame.time_base = pts, time_base
        return frame


class Tone(AudioStreamTrack):
    """A 440 Hz tone."""

    position = 0

    async def recv(self):
        frame = await super().recv()
        rate, count = frame.sample_rate, frame.samples
        phase = (numpy.arange(count) + self.position) * (2 * numpy.pi * 440 / rate)
        self.position += count
        samples = (numpy.sin(phase) * 8000).astype(numpy.int16).reshape(1, -1)
        tone = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        tone.pts, tone.sample_rate, tone.time_base = frame.pts, rate, fractions.Fraction(1, rate)
        return tone


def request(method, url, body=None):
    headers = {"Content-Type": "application/sdp"} if body else {}
    return urllib.request.urlopen(
        urllib.request.Request(url, data=body, method=method, headers=headers), timeout=10
    )


def offer_only(transceiver, kind, name):
    capabilities = type(transceiver.sender).getCapabilities(kind).codecs
    chosen = [c for c in capabilities if c.mimeType.lower() == f"{kind}/{name}".lower()]
    assert chosen, f"aiortc has no {name}: {[c.mimeType for c in capabilities]}"
    transceiver.setCodecPreferences(chosen)


async def main(url, seconds, video_codec="H264", audio_codec="opus"):
    pc = RTCPeerConnection()
    video = pc.addTransceiver(Bars(), direction="sendonly")
    audio = pc.addTransceiver(Tone(), direction="sendonly")
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
    status = (await asyncio.to_thread(request, "DELETE", session)).status
    assert status == 200, status
    await pc.close()
    print("published")


asyncio.run(main(sys.argv[1], float(sys.argv[2]), *sys.argv[3:]))
