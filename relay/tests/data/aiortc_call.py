"""Two aiortc peers in one call: one sends a moving picture and a tone, the other decodes what the relay forwards.

Usage: aiortc_call.py PARTICIPANTS_URL SENDER_TOKEN RECEIVER_TOKEN

Prints one line of JSON: what the receiver decoded, what was sent, and how the sender left. The
receiver leaves by closing its connection.
"""

import asyncio
import fractions
import json
import math
import struct
import sys
import urllib.parse
import urllib.request

import aioice.ice
from aiortc import MediaStreamTrack, RTCConfiguration, RTCPeerConnection, RTCSessionDescription, VideoStreamTrack
from aiortc.mediastreams import MediaStreamError
from av import AudioFrame, VideoFrame

# Frames of each kind that are enough.
VIDEO_FRAMES = 15
AUDIO_FRAMES = 50

# For all of it.
PATIENCE_S = 25

WIDTH, HEIGHT = 320, 240
SAMPLE_RATE = 48000
SAMPLES = SAMPLE_RATE // 50

# The relay is on loopback, which aioice otherwise leaves out.
aioice.ice.get_host_addresses = lambda use_ipv4, use_ipv6: ["127.0.0.1"]


class Picture(VideoStreamTrack):
    """Gets brighter with each frame."""

    count = 0

    async def recv(self):
        pts, time_base = await self.next_timestamp()
        frame = VideoFrame(WIDTH, HEIGHT, "yuv420p")
        for plane, value in zip(frame.planes, ((self.count * 4) % 200 + 20, 128, 128)):
            plane.update(bytes([value]) * plane.buffer_size)
        self.count += 1
        frame.pts, frame.time_base = pts, time_base
        return frame


class Tone(MediaStreamTrack):
    """440 Hz: of silence the relay forwards nothing."""

    kind = "audio"
    count = 0
    start = None

    async def recv(self):
        loop = asyncio.get_running_loop()
        self.start = self.start or loop.time()
        await asyncio.sleep(max(0, self.start + self.count * 0.02 - loop.time()))
        first = self.count * SAMPLES
        wave = (int(12000 * math.sin(2 * math.pi * 440 * n / SAMPLE_RATE)) for n in range(first, first + SAMPLES))
        frame = AudioFrame(format="s16", layout="mono", samples=SAMPLES)
        frame.planes[0].update(struct.pack(f"<{SAMPLES}h", *wave))
        frame.pts, frame.sample_rate = first, SAMPLE_RATE
        frame.time_base = fractions.Fraction(1, SAMPLE_RATE)
        self.count += 1
        return frame


def request(method, url, token, body=None):
    headers = {"Authorization": f"Bearer {token}"}
    if body is not None:
        headers["Content-Type"] = "application/sdp"
    made = urllib.request.Request(url, data=body, headers=headers, method=method)
    with urllib.request.urlopen(made, timeout=5) as answer:
        return answer.status, answer.headers.get("Location"), answer.read().decode()


async def join(peer, url, token):
    """Gives the session's URL."""
    connected = asyncio.Event()

    @peer.on("connectionstatechange")
    def changed():
        if peer.connectionState == "connected":
            connected.set()

    await peer.setLocalDescription(await peer.createOffer())
    offer = peer.localDescription.sdp.encode()
    _, location, answer = await asyncio.to_thread(request, "POST", url, token, offer)
    await peer.setRemoteDescription(RTCSessionDescription(sdp=answer, type="answer"))
    await connected.wait()
    return urllib.parse.urljoin(url, location)


class Received:
    def __init__(self):
        self.video = self.audio = self.loudest = 0
        self.brightness = set()
        self.enough = asyncio.Event()

    async def take(self, track):
        try:
            while True:
                self.count(track.kind, await track.recv())
        except MediaStreamError:
            pass

    def count(self, kind, frame):
        plane = bytes(frame.planes[0])
        if kind == "video":
            assert (frame.width, frame.height) == (WIDTH, HEIGHT)
            self.video += 1
            self.brightness.add(plane[len(plane) // 2])
        else:
            self.audio += 1
            self.loudest = max(self.loudest, *struct.unpack(f"<{len(plane) // 2}h", plane))
        if self.video >= VIDEO_FRAMES and self.audio >= AUDIO_FRAMES:
            self.enough.set()


async def call(url, sender_token, receiver_token):
    sender, receiver = (RTCPeerConnection(RTCConfiguration(iceServers=[])) for _ in range(2))
    received, tasks = Received(), []
    picture, tone = Picture(), Tone()
    sender.addTransceiver(tone, direction="sendonly")
    sender.addTransceiver(picture, direction="sendonly")
    receiver.addTransceiver("audio", direction="recvonly")
    receiver.addTransceiver("video", direction="recvonly")
    receiver.on("track", lambda track: tasks.append(asyncio.create_task(received.take(track))))
    error = left = None
    try:
        async with asyncio.timeout(PATIENCE_S):
            session = await join(sender, url, sender_token)
            await join(receiver, url, receiver_token)
            await received.enough.wait()
            left, _, _ = await asyncio.to_thread(request, "DELETE", session, sender_token)
    except TimeoutError:
        error = "time is up"
    states = [sender.connectionState, receiver.connectionState]
    await receiver.close()
    await sender.close()
    for task in tasks:
        task.cancel()
    said = {
        "video_frames": received.video,
        "audio_frames": received.audio,
        "pictures": len(received.brightness),
        "loudest_sample": received.loudest,
        "video_sent": picture.count,
        "audio_sent": tone.count,
        "left": left,
        "states": states,
        "error": error,
    }
    print(json.dumps(said))


asyncio.run(call(*sys.argv[1:]))
