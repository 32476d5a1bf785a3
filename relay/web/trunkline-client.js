/**
 * The client side of a Trunkline call: one HTTP request joins, a WebSocket tells what happens, the media flows.
 * A plain ES module without dependencies; relay/web/README.md shows how to use it.
 *
 * @module trunkline-client
 */
import { TrunklineError, backoffMs, endSession, pause, sendOffer } from './api.js';
import { FrameEncryption } from './encryption.js';
import { SOURCES, markSlides, offerRawPacketization, prepare } from './media.js';
import { summarise } from './stats.js';

/** How long a connection may be without a sign of life before it is restarted. Less restarts at every hiccup. */
const DISCONNECTED_MS = 2_000;
/** How long a restart or a join may take to connect before the next attempt. */
const CONNECT_TIMEOUT_MS = 8_000;
/** Attempts in a row to come back before giving up: with the back-off about two minutes. */
const RECOVERY_ATTEMPTS_MAX = 10;
/** Attempts at the events connection before the session itself is asked whether it is still there. */
const EVENTS_ATTEMPTS_MAX = 3;

export { TrunklineError };

/**
 * @typedef {object} JoinOptions
 * @property {string} [api] where the relay's API is, without a slash at the end; empty for the page's own origin
 * @property {string} callId
 * @property {string} token the participant's join token
 * @property {Uint8Array} [key] base key of end-to-end encryption, 16 to 64 random bytes; without it there is none
 * @property {?MediaStreamTrack} [audio] the microphone, may come later with {@link TrunklineCall#setTrack}
 * @property {?MediaStreamTrack} [video] the camera, the same
 * @property {boolean} [sends] false offers no media of one's own: right for viewers; true when not given
 * @property {{audio?: number, video?: number}} [slots] how many people one hears and sees at a time: 3 and 9
 * @property {string[]} [codecs] video codecs by preference; VP8 and VP9 when not given. AV1 and H264 are offered only
 *   when named here; with a key they need a relay and receivers that agree to raw packetization
 */

/**
 * @typedef {object} Slot a media section that is received in
 * @property {string} mid its name, the same for as long as the call lasts
 * @property {'audio' | 'video'} kind
 * @property {MediaStream} stream stays the same object also when the connection is made anew
 * @property {?string} participant who is in it
 * @property {?string} source `microphone`, `camera`, `screen` or `screen_audio`
 * @property {?number} csrc
 * @property {boolean} pinned
 * @property {boolean} undecryptable frames come, but they were encrypted with another key
 */

/**
 * One participation in one call.
 *
 * Events (`CustomEvent`, what they say is in `detail`):
 * - `state`: `{state, reason?}`; `joining`, `connected`, `reconnecting` or `ended`
 * - `roster`: `{complete, participants, left}` as the relay sends it; all of it is in {@link TrunklineCall#roster}
 * - `slots`: `{slots}`, those that changed; all are in {@link TrunklineCall#slots}
 * - `speakers`: `{speakers}`, names, the loudest first
 * - `quality`: `{quality, cause?}`; `good`, `fair` or `poor`
 * - `moved`: the call goes on elsewhere; the client joins again by itself
 * - `ended`: `{reason}`; `left`, `replaced`, `timed_out`, `refused`, `call_ended`, `drained`, or, found out here,
 *   `lost` (no connection in spite of all attempts) and `unauthorized` (the token is not valid any more)
 * - `undecryptable`: `{slot, state}`; a slot's frames cannot be opened, or can be again
 */
export class TrunklineCall extends EventTarget {
  /** @type {Slot[]} audio slots first */
  slots = [];
  /** @type {Map<string, {participant: string, role: string, sources: object[]}>} everybody, oneself too, by name */
  roster = new Map();
  /** @type {string[]} who speaks, the loudest first */
  speakers = [];
  /** `idle`, `joining`, `connected`, `reconnecting` or `ended` */
  state = 'idle';

  /** @type {?JoinOptions} */
  #options = null;
  #pc = null;
  /** @type {?FrameEncryption} */
  #encryption = null;
  /** @type {?URL} of this participation */
  #location = null;
  #etag = null;
  /** @type {?WebSocket} */
  #events = null;
  #eventsAttempts = 0;
  /** @type {Map<string, RTCRtpTransceiver>} by source */
  #senders = new Map();
  /** @type {Map<string, MediaStreamTrack>} by source */
  #tracks = new Map();
  /** Muted by their owner. What has no track counts as muted whatever is said here. */
  #muted = new Set();
  /** @type {Map<string, object>} by slot; told again to a new events connection */
  #pins = new Map();
  #negotiations = Promise.resolve();
  #recovering = false;
  #timers = new Set();
  #timing = {};
  #onPageHide = () => {
    this.#deleteSession();
    this.#finish('left', { silent: true });
  };

  /** Whether frames are encrypted end to end. */
  get encrypted() {
    return this.#options?.key !== undefined;
  }

  /**
   * Joins. Resolves when the relay has taken the offer; `state` becomes `connected` when media can flow.
   *
   * @param {JoinOptions} options
   * @throws {TrunklineError} when the relay refuses: 401 the token is not valid, 403 not for this call, 404 no such
   *   call, 409 full, 422 unusable offer, 503 draining; 0 when it cannot be reached
   * @throws {RangeError} when the key is too short or too long
   * @throws {Error} when a key is given and this browser cannot encrypt
   */
  async join(options) {
    if (this.state !== 'idle') throw new Error('a TrunklineCall joins once; make another one');
    const slots = { audio: 3, video: 9, ...options.slots };
    this.#options = { api: '', sends: true, codecs: ['VP8', 'VP9'], ...options, slots };
    this.#setState('joining');
    try {
      if (this.encrypted) {
        this.#encryption = await FrameEncryption.start(options.key, (label, state) => this.#onFailing(label, state));
      }
      if (options.audio) this.#tracks.set('microphone', options.audio);
      if (options.video) this.#tracks.set('camera', options.video);
      await this.#connect();
    } catch (error) {
      this.#finish('refused', { silent: true });
      throw error;
    }
    addEventListener('pagehide', this.#onPageHide);
  }

  /** Leaves, also while the page is being closed. Tracks stay with whoever made them. */
  leave() {
    if (this.state === 'ended' || this.state === 'idle') return;
    this.#deleteSession();
    this.#finish('left');
  }

  /**
   * Sends another microphone or camera from now on, without a new negotiation; null sends nothing, and says so to
   * the others as muted.
   *
   * @param {'microphone' | 'camera'} source
   * @param {?MediaStreamTrack} track
   */
  async setTrack(source, track) {
    if (track) this.#tracks.set(source, track);
    else this.#tracks.delete(source);
    await this.#senders.get(source)?.sender.replaceTrack(track);
    this.#tellMute(source);
  }

  /**
   * Mutes or unmutes a source and tells the others.
   *
   * @param {'microphone' | 'camera' | 'screen' | 'screen_audio'} source
   * @param {boolean} muted
   */
  mute(source, muted) {
    if (muted) this.#muted.add(source);
    else this.#muted.delete(source);
    const track = this.#tracks.get(source);
    if (track) track.enabled = !muted;
    this.#tellMute(source);
  }

  /** Whether a source is muted, or has nothing to send. */
  isMuted(source) {
    return this.#muted.has(source) || !this.#tracks.has(source);
  }

  /**
   * Shows a participant in a slot for as long as the pin lasts; without a participant the relay chooses again.
   *
   * @param {{slot: string, participant?: string, source?: string, height?: number}} pin `slot` is a `mid`; `height`
   *   is that of the room for the picture, in pixels
   */
  pin({ slot, participant, source, height }) {
    const pin = { slot, participant, source, height };
    if (participant) this.#pins.set(slot, pin);
    else this.#pins.delete(slot);
    this.#send({ pin });
  }

  /**
   * Shares a screen: its sections were reserved in the first offer, and are now switched on with one request.
   *
   * @param {MediaStream} stream of `getDisplayMedia()`
   */
  async shareScreen(stream) {
    await this.#useScreen(stream.getVideoTracks()[0] ?? null, stream.getAudioTracks()[0] ?? null);
  }

  /** Ends the screen share. */
  async stopScreen() {
    await this.#useScreen(null, null);
  }

  /**
   * What `getStats()` says, summed up by slot and source, with timings of the join in milliseconds since it began.
   *
   * @returns {Promise<object>} `{state, slots, sources, transport, timing, frames}`, see stats.js; `frames` counts
   *   sealed, opened and dropped ones when there is a key
   */
  async stats() {
    const senders = [...this.#senders].map(([source, { mid }]) => ({ source, mid }));
    const report = this.#pc ? await this.#pc.getStats() : new Map();
    const frames = (await this.#encryption?.counts()) ?? null;
    return { state: this.state, ...summarise(report, this.slots, senders), timing: { ...this.#timing }, frames };
  }

  // Joining, and coming back.

  async #connect() {
    this.#hangUp();
    const started = performance.now();
    this.#timing = {};
    const mark = (name) => {
      this.#timing[name] = Math.round(performance.now() - started);
    };
    const pc = this.#makePeerConnection();
    this.#pc = pc;
    pc.addEventListener('connectionstatechange', () => {
      if (pc !== this.#pc) return;
      if (pc.connectionState === 'connected' && this.#timing.connectedMs === undefined) mark('connectedMs');
      this.#onConnectionState(pc.connectionState);
    });
    const offer = await this.#offer(pc);
    this.#adoptSlots(pc);
    mark('offeredMs');
    const { api, callId, token } = this.#options;
    const url = new URL(`${api}/v1/calls/${encodeURIComponent(callId)}/participants`, document.baseURI);
    const { response, answer } = await sendOffer('POST', url, { token, offer });
    mark('answeredMs');
    this.#location = new URL(response.headers.get('location') ?? '', response.url);
    this.#etag = response.headers.get('etag');
    if (this.state === 'ended') {
      // Left while the request was under way.
      this.#deleteSession();
      return;
    }
    await pc.setRemoteDescription({ type: 'answer', sdp: answer });
    this.#openEvents();
  }

  #makePeerConnection() {
    const pc = new RTCPeerConnection({ bundlePolicy: 'max-bundle', rtcpMuxPolicy: 'require' });
    this.#senders.clear();
    for (const [source, { kind, slides, bitrateMax }] of Object.entries(this.#options.sends ? SOURCES : {})) {
      const track = this.#tracks.get(source) ?? null;
      // A track that comes later needs no negotiation when its section is there and sends already. A screen is
      // different: others see from the section's direction whether one is shared.
      const direction = slides && !track ? 'inactive' : 'sendonly';
      const sendEncodings = bitrateMax ? [{ maxBitrate: bitrateMax }] : undefined;
      const transceiver = pc.addTransceiver(track ?? kind, { direction, sendEncodings });
      this.#senders.set(source, transceiver);
      prepare(transceiver, kind, 'send', this.#options.codecs);
      // At once: a transform that is set after something else was awaited comes too late for Chromium, which then
      // sends in clear.
      this.#encryption?.send(transceiver.sender, kind, source);
    }
    for (const kind of ['audio', 'video']) {
      for (let index = 0; index < this.#options.slots[kind]; index += 1) {
        const transceiver = pc.addTransceiver(kind, { direction: 'recvonly' });
        prepare(transceiver, kind, 'receive', this.#options.codecs);
        this.#encryption?.receive(transceiver.receiver, kind, `${kind} ${index}`);
      }
    }
    return pc;
  }

  /** Makes an offer and gives its text for the relay. Nothing waits for candidates: the relay learns addresses. */
  async #offer(pc, options) {
    const offer = await pc.createOffer(options);
    const raw = this.encrypted ? offerRawPacketization : (sdp) => sdp;
    await pc.setLocalDescription({ type: 'offer', sdp: raw(offer.sdp) });
    const slides = [...this.#senders].filter(([source]) => SOURCES[source].slides).map(([, { mid }]) => mid);
    return markSlides(raw(pc.localDescription.sdp), slides);
  }

  /** Slots stay the same objects when the connection is made anew; only their tracks change. */
  #adoptSlots(pc) {
    const sending = new Set(this.#senders.values());
    const receiving = pc.getTransceivers().filter((transceiver) => !sending.has(transceiver));
    this.slots = receiving.map(({ mid, receiver: { track } }, index) => {
      const blank = { participant: null, source: null, csrc: null, pinned: false, undecryptable: false };
      const slot = this.slots[index] ?? { stream: new MediaStream(), ...blank };
      for (const old of slot.stream.getTracks()) slot.stream.removeTrack(old);
      slot.stream.addTrack(track);
      return Object.assign(slot, { mid, kind: track.kind });
    });
  }

  /** Another offer in the same session, after those that are under way. */
  #negotiate(options) {
    const run = this.#negotiations.then(() => this.#negotiateNow(options));
    this.#negotiations = run.catch(() => {});
    return run;
  }

  async #negotiateNow(options) {
    const pc = this.#pc;
    if (!pc || !this.#location) throw new TrunklineError(0, 'not in a call');
    const offer = await this.#offer(pc, options);
    try {
      const { response, answer } = await sendOffer('PATCH', this.#location, { offer, etag: this.#etag });
      this.#etag = response.headers.get('etag') ?? this.#etag;
      await pc.setRemoteDescription({ type: 'answer', sdp: answer });
    } catch (error) {
      if (pc.signalingState === 'have-local-offer') await pc.setLocalDescription({ type: 'rollback' });
      throw error;
    }
  }

  #onConnectionState(state) {
    if (this.state === 'ended') return;
    if (state === 'connected') this.#setState('connected');
    if (state === 'failed') this.#recover('restart');
    if (state === 'disconnected') {
      const pc = this.#pc;
      this.#later(DISCONNECTED_MS, () => {
        if (pc === this.#pc && pc.connectionState === 'disconnected') this.#recover('restart');
      });
    }
  }

  /** Restarts ICE, or joins anew when that is not enough, until connected or out of attempts. */
  async #recover(step) {
    if (this.#recovering || this.state === 'ended') return;
    this.#recovering = true;
    this.#setState('reconnecting');
    for (let attempt = 0; attempt < RECOVERY_ATTEMPTS_MAX; attempt += 1) {
      if (attempt > 0) await pause(backoffMs(attempt));
      if (this.state === 'ended') break;
      try {
        if (step === 'restart') await this.#negotiate({ iceRestart: true });
        else await this.#connect();
        if (await this.#connectedSoon()) break;
        step = 'rejoin';
      } catch (error) {
        if (step === 'rejoin' && [401, 403, 404, 422].includes(error.status)) {
          this.#finish(error.status === 404 ? 'call_ended' : 'unauthorized');
        }
        // Without an answer the session may well be there still; with any other the relay knows better.
        if (error.status !== 0) step = 'rejoin';
      }
    }
    this.#recovering = false;
    if (this.#pc?.connectionState === 'connected') this.#setState('connected');
    else this.#finish('lost');
  }

  async #connectedSoon() {
    const pc = this.#pc;
    const until = performance.now() + CONNECT_TIMEOUT_MS;
    while (pc === this.#pc && performance.now() < until) {
      // An ICE restart leaves the state at connected for as long as the old path works.
      if (pc.connectionState === 'connected') return true;
      await pause(100);
    }
    return false;
  }

  // Events.

  #openEvents() {
    const url = new URL(`${this.#location}/events`);
    url.protocol = url.protocol === 'https:' ? 'wss:' : 'ws:';
    const socket = new WebSocket(url);
    this.#events = socket;
    socket.onopen = () => {
      this.#eventsAttempts = 0;
      for (const source of this.#senders.keys()) this.#tellMute(source);
      for (const pin of this.#pins.values()) this.#send({ pin });
    };
    socket.onmessage = ({ data }) => this.#onNotice(JSON.parse(data));
    socket.onclose = () => {
      if (socket !== this.#events || this.state === 'ended') return;
      this.#eventsAttempts += 1;
      // The socket does not say why it was refused; the session does.
      if (this.#eventsAttempts % EVENTS_ATTEMPTS_MAX === 0) this.#recover('restart');
      this.#later(backoffMs(this.#eventsAttempts), () => {
        if (socket === this.#events) this.#openEvents();
      });
    };
  }

  #onNotice({ event, ...detail }) {
    if (event === 'roster') this.#onRoster(detail);
    if (event === 'slots') {
      for (const { slot, ...entry } of detail.slots) {
        Object.assign(this.slots.find(({ mid }) => mid === slot) ?? {}, entry);
      }
    }
    if (event === 'speakers') this.speakers = detail.speakers;
    if (['roster', 'slots', 'speakers', 'quality', 'moved'].includes(event)) this.#emit(event, detail);
    if (event === 'moved') this.#recover('rejoin');
    if (event === 'ended') {
      if (detail.reason === 'timed_out') this.#recover('rejoin');
      else this.#finish(detail.reason);
    }
  }

  #onRoster({ complete, participants, left }) {
    if (complete) this.roster.clear();
    for (const name of left) this.roster.delete(name);
    for (const entry of participants) this.roster.set(entry.participant, entry);
    for (const [slot, { participant }] of this.#pins) {
      if (!this.roster.has(participant)) this.#pins.delete(slot);
    }
  }

  #tellMute(source) {
    // A screen that is not shared has no section that sends.
    if (SOURCES[source].slides && !this.#tracks.has(source)) return;
    this.#send({ mute: { source, muted: this.isMuted(source) } });
  }

  #send(request) {
    if (this.#events?.readyState === WebSocket.OPEN) this.#events.send(JSON.stringify(request));
  }

  // The screen, encryption, the end.

  async #useScreen(video, audio) {
    const change = async (source, track) => {
      const transceiver = this.#senders.get(source);
      if (!transceiver) throw new TrunklineError(403, 'this participant sends nothing');
      if (track) this.#tracks.set(source, track);
      else this.#tracks.delete(source);
      transceiver.direction = track ? 'sendonly' : 'inactive';
      await transceiver.sender.replaceTrack(track);
    };
    await Promise.all([change('screen', video), change('screen_audio', audio)]);
    try {
      await this.#negotiate();
    } catch (error) {
      await Promise.all([change('screen', null), change('screen_audio', null)]);
      throw error;
    }
  }

  #onFailing(label, state) {
    const [kind, index] = label.split(' ');
    const slot = this.slots.filter((each) => each.kind === kind)[Number(index)];
    if (!slot) return;
    slot.undecryptable = state;
    this.#emit('undecryptable', { slot: slot.mid, state });
  }

  #deleteSession() {
    if (this.#location) endSession(this.#location);
    this.#location = null;
  }

  /** Drops connection and events, but not the call. */
  #hangUp() {
    const [pc, events] = [this.#pc, this.#events];
    this.#pc = null;
    this.#events = null;
    this.#location = null;
    this.#etag = null;
    pc?.close();
    events?.close();
  }

  #finish(reason, { silent = false } = {}) {
    if (this.state === 'ended') return;
    removeEventListener('pagehide', this.#onPageHide);
    this.#hangUp();
    this.#encryption?.stop();
    this.#encryption = null;
    for (const timer of this.#timers) clearTimeout(timer);
    this.#timers.clear();
    this.#setState('ended', reason);
    if (!silent) this.#emit('ended', { reason });
  }

  #setState(state, reason) {
    if (this.state === state) return;
    this.state = state;
    this.#emit('state', { state, reason });
  }

  #emit(name, detail) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }

  #later(ms, action) {
    const timer = setTimeout(() => {
      this.#timers.delete(timer);
      action();
    }, ms);
    this.#timers.add(timer);
  }
}
