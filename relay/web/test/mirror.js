/**
 * A relay for tests, inside the page that tests it: it answers the client's offers with a connection of its own,
 * plays people to it, and decodes what it sends. What the client asks for is kept in `asked`.
 */
import { FrameEncryption } from '/call/encryption.js';
import { SOURCES, midOf, sections } from '/call/media.js';

const COLOURS = ['#2d6a4f', '#9d4edd', '#bc6c25', '#1d6fa5', '#ae2012', '#5f6c37', '#7b2d5b', '#33415c', '#0a9396'];

/**
 * @typedef {object} Person
 * @property {string} participant
 * @property {string} [role]
 * @property {string[]} [sources] what they send; microphone and camera when not given
 */

/**
 * Puts itself in the place of `fetch` for the API, and of `WebSocket`.
 *
 * @param {{self: string, key?: Uint8Array, people: Person[], refuse?: number, links?: string}} options `refuse`: the
 *   status with which every join is refused; `links`: the `Link` header that names ICE servers
 * @returns {Promise<object>} the mirror, also as `window.mirror`
 */
export async function install({ self, key, people, refuse, links }) {
  const encryption = key ? await FrameEncryption.start(Uint8Array.from(key), () => {}) : null;
  const mirror = {
    offers: [],
    asked: [],
    left: false,
    pc: null,
    socket: null,
    iceServersAsked: 0,
    refuse,
    tell: (notice) => mirror.socket?.onmessage?.({ data: JSON.stringify(notice) }),
    counts: () => encryption?.counts(),
    decoded,
  };
  let context = null;
  let joined = 0;
  /** By the path of the session. */
  const connections = new Map();

  async function decoded() {
    const report = [...(await mirror.pc.getStats()).values()].filter(({ type }) => type === 'inbound-rtp');
    const sum = (name) => report.reduce((total, entry) => total + (entry[name] ?? 0), 0);
    return { frames: sum('framesDecoded'), energy: sum('totalAudioEnergy'), packets: sum('packetsReceived') };
  }

  async function answer(sdp) {
    mirror.offers.push(sdp);
    mirror.pc ??= new RTCPeerConnection({ bundlePolicy: 'max-bundle' });
    const { pc } = mirror;
    // Sound is decoded only where it is played.
    pc.ontrack ??= ({ track }) => track.kind === 'audio' && play(track);
    await pc.setRemoteDescription({ type: 'offer', sdp });
    const slots = { audio: [], video: [] };
    for (const transceiver of pc.getTransceivers()) {
      const section = sections(sdp).find((each) => midOf(each) === transceiver.mid);
      const kind = section.startsWith('m=audio') ? 'audio' : 'video';
      if (section.includes('a=recvonly')) slots[kind].push(transceiver);
      // Repeating what Chromium leaves out of answers by itself.
      if (transceiver.setHeaderExtensionsToNegotiate && kind === 'video') {
        const extensions = transceiver.getHeaderExtensionsToNegotiate();
        for (const each of extensions) if (each.uri.includes('dependency-descriptor')) each.direction = 'sendrecv';
        transceiver.setHeaderExtensionsToNegotiate(extensions);
      }
      if (encryption && !transceiver.receiver.transform) {
        encryption.receive(transceiver.receiver, kind, transceiver.mid);
        encryption.send(transceiver.sender, kind, transceiver.mid);
      }
    }
    const shown = fill(slots);
    for (const { transceiver, kind, source, participant } of shown) {
      transceiver.direction = 'sendonly';
      if (transceiver.sender.track) continue;
      await transceiver.sender.replaceTrack(kind === 'audio' ? tone() : picture(participant, source));
    }
    mirror.slots = shown.map(({ transceiver, participant, source }, index) => ({
      slot: transceiver.mid, participant, source, csrc: index + 1, pinned: false, paused: false,
    }));
    await pc.setLocalDescription();
    await new Promise((resolve) => {
      const look = () => pc.iceGatheringState === 'complete' && resolve();
      pc.addEventListener('icegatheringstatechange', look);
      look();
    });
    return pc.localDescription.sdp;
  }

  function fill(slots) {
    const sent = people.flatMap(({ participant, sources = ['microphone', 'camera'] }) =>
      sources.map((source) => ({ participant, source, kind: SOURCES[source].kind })));
    const of = (kind) => sent.filter((each) => each.kind === kind).slice(0, slots[kind].length)
      .map((each, index) => ({ ...each, transceiver: slots[kind][index] }));
    return [...of('audio'), ...of('video')];
  }

  function tone() {
    context ??= new AudioContext();
    const oscillator = new OscillatorNode(context, { frequency: 440 });
    const destination = context.createMediaStreamDestination();
    oscillator.connect(destination);
    oscillator.start();
    return destination.stream.getAudioTracks()[0];
  }

  function roster() {
    const entry = ({ participant, role = 'presenter', sources = ['microphone', 'camera'] }) => ({
      participant, role, redundancy: true, sources: sources.map((source, csrc) => ({ source, muted: false, csrc })),
    });
    return [{ participant: self }, ...people].map(entry);
  }

  const realFetch = window.fetch;
  window.fetch = async (url, options = {}) => {
    if (!new URL(url, location.href).pathname.startsWith('/v1/')) return realFetch(url, options);
    const { method, body } = options;
    if (method === 'DELETE') {
      mirror.left = true;
      connections.get(new URL(url).pathname)?.close();
      return new Response(null, { status: 204 });
    }
    if (method === 'OPTIONS') {
      mirror.iceServersAsked += 1;
      if (links === 'never') return new Promise(() => {});
      return new Response(null, { status: 204, headers: links ? { link: links } : {} });
    }
    if (mirror.refuse) {
      return Response.json({ title: 'Refused', detail: 'refused by the test' }, { status: mirror.refuse });
    }
    if (method === 'POST') {
      // Who joins anew has another connection, and the first one until they leave it.
      mirror.pc = null;
      joined += 1;
    }
    const path = `/v1/calls/c/participants/p${joined}`;
    const sdp = await answer(body);
    connections.set(path, mirror.pc);
    const headers = { 'content-type': 'application/sdp', location: `${location.origin}${path}` };
    const response = new Response(sdp, { status: method === 'POST' ? 201 : 200, headers });
    Object.defineProperty(response, 'url', { value: String(url) });
    return response;
  };

  window.WebSocket = class {
    static OPEN = 1;
    readyState = 0;

    constructor(url) {
      mirror.socket = this;
      this.url = String(url);
      setTimeout(() => {
        this.readyState = 1;
        this.onopen?.();
        mirror.tell({ event: 'roster', complete: true, participants: roster(), left: [] });
        mirror.tell({ event: 'slots', slots: mirror.slots });
        mirror.tell({ event: 'quality', participant: self, quality: 'good' });
      });
    }

    send(text) {
      const request = JSON.parse(text);
      mirror.asked.push(request);
      if (!request.pin) return;
      const { slot, participant, source } = request.pin;
      const known = mirror.slots.find((each) => each.slot === slot);
      const pinned = participant != null;
      mirror.tell({ event: 'slots', slots: [{ ...known, pinned, ...(pinned && { participant, source: source ?? known.source }) }] });
    }

    close() {
      this.readyState = 3;
    }
  };

  window.mirror = mirror;
  return mirror;
}

function play(track) {
  const audio = Object.assign(new Audio(), { srcObject: new MediaStream([track]) });
  document.body.append(audio);
  audio.play();
}

/** A moving picture that says whose it is. */
function picture(participant, source) {
  const canvas = Object.assign(document.createElement('canvas'), { width: 640, height: 360 });
  const context = canvas.getContext('2d');
  const colour = COLOURS[[...participant].reduce((sum, character) => sum + character.charCodeAt(0), 0) % COLOURS.length];
  let step = 0;
  setInterval(() => {
    step += 1;
    context.fillStyle = source === 'screen' ? '#f4f1ea' : colour;
    context.fillRect(0, 0, 640, 360);
    context.fillStyle = source === 'screen' ? '#444444' : '#ffffff55';
    if (source === 'screen') {
      for (let line = 0; line < 12; line += 1) context.fillRect(40, 40 + line * 24, 200 + ((line * 97) % 340), 10);
    } else {
      context.beginPath();
      context.arc(320, 200 + 10 * Math.sin(step / 8), 90, 0, 7);
      context.fill();
    }
    context.fillRect((step * 7) % 640, 340, 60, 12);
  }, 50);
  return canvas.captureStream(20).getVideoTracks()[0];
}
