/**
 * The client side of a Trunkline call: one HTTP request joins, a WebSocket tells what happens, the media flows.
 * A plain ES module without dependencies; relay/web/README.md shows how to use it.
 *
 * @module trunkline-client
 */
import { TrunklineError, askIceServers, backoffMs, pause } from './api.js';
import { FrameEncryption } from './encryption.js';
import { Pulse } from './pulse.js';
import { SOURCES } from './media.js';
import { Pins } from './pins.js';
import { Session } from './session.js';
import { summarise } from './stats.js';

/** How long a connection may be without a sign of life before it is restarted. Less restarts at every hiccup. */
const DISCONNECTED_MS = 2_000;
/** How long a restart may take to be heard of before the call is joined anew. */
const RESTART_MS = 1_500;
/** How long a join may take to connect before the next attempt. */
const CONNECT_TIMEOUT_MS = 8_000;
/** How long a new connection that carries no media yet may let the old one be shown. */
const SWITCH_MS = 1_500;
/** How long the events connection may be closed before the call is joined anew. */
const EVENTS_LOST_MS = 2_500;
/** How long a first join waits to hear of ICE servers: they are needed in few networks. */
const ICE_SERVERS_MS = 500;
/** Attempts in a row to come back before giving up: with the back-off about two minutes. */
const RECOVERY_ATTEMPTS_MAX = 15;
/** How often it is looked whether anything comes from the relay. */
const PULSE_MS = 500;

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
 *   when named here; with a key they need a relay and receivers that agree to raw packetization. The first one decides
 *   how a camera is sent: VP8 and H264 in three encodings (simulcast), VP9 and AV1 in one that holds three sizes
 * @property {'simulcast' | 'svc'} [layers] `simulcast`: three encodings with VP9 and AV1, too
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
 * @property {boolean} paused nothing comes: one's own connection does not carry it now
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
 * - `quality`: `{participant, quality, cause?}`; `good`, `fair` or `poor`, and `uplink_loss`, `downlink_loss`,
 *   `round_trip_time` or `bandwidth`; of oneself and of those who send. All are in {@link TrunklineCall#qualities}
 * - `layers`: `{sources}`, what anybody wants to see of what one sends; the client has done already what follows from it
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
  /** @type {Map<string, {quality: string, cause?: string}>} how good connections are, by name, where that is known */
  qualities = new Map();
  /** `idle`, `joining`, `connected`, `reconnecting` or `ended` */
  state = 'idle';

  /** @type {?JoinOptions} */
  #options = null;
  /** @type {?FrameEncryption} */
  #encryption = null;
  /** @type {?Session} that is shown */
  #session = null;
  /** @type {?Session} that will be, once it carries media */
  #next = null;
  /** @type {RTCIceServer[] | undefined} those last heard of */
  #iceServers;
  /** @type {Map<string, MediaStreamTrack>} by source */
  #tracks = new Map();
  /** Muted by their owner. What has no track counts as muted whatever is said here. */
  #muted = new Set();
  #pins = new Pins();
  #recovering = false;
  /** Ends an ICE restart that is under way: only a new join will do. */
  #hurry = () => {};
  /** Why there will be no other connection after this one; it is used for as long as it lasts. */
  #farewell = null;
  #pulse = new Pulse();
  #timers = new Set();
  #watch = null;
  #onPageHide = () => {
    this.#hangUp({ leave: true });
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
      const session = this.#makeSession();
      this.#session = session;
      await this.#joinWith(session);
      if (this.state === 'ended') return;
      this.#show(session);
    } catch (error) {
      this.#finish('refused', { silent: true });
      throw error;
    }
    addEventListener('pagehide', this.#onPageHide);
    this.#watch = setInterval(() => this.#look(), PULSE_MS);
  }

  /** Leaves, also while the page is being closed. Tracks stay with whoever made them. */
  leave() {
    if (this.state === 'ended' || this.state === 'idle') return;
    this.#hangUp({ leave: true });
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
    const senders = this.#sessions().map((session) => session.senders.get(source)?.sender.replaceTrack(track));
    await Promise.all(senders);
    for (const session of this.#sessions()) this.#tellMute(session, source);
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
    for (const session of this.#sessions()) this.#tellMute(session, source);
  }

  /** Whether a source is muted, or has nothing to send. */
  isMuted(source) {
    return this.#muted.has(source) || !this.#tracks.has(source);
  }

  /**
   * Shows a participant in a slot for as long as the pin lasts; without a participant the relay chooses again.
   *
   * @param {{slot: string, participant?: string, source?: string, height?: number}} pin `slot` is a `mid`; `height`
   *   as in {@link TrunklineCall#setHeight}
   */
  pin(pin) {
    this.#pins.set(pin);
    this.#tell(this.#pins.request(pin.slot));
  }

  /**
   * Says how much room there is for a slot's picture, so that no more is sent than can be seen.
   *
   * @param {string} slot a `mid`
   * @param {number} height of the picture as it is shown, in pixels of the screen
   */
  setHeight(slot, height) {
    if (this.#pins.setHeight(slot, height)) this.#tell(this.#pins.request(slot));
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
    const session = this.#session;
    const senders = [...(session?.senders ?? [])].map(([source, { mid }]) => ({ source, mid }));
    const report = (await session?.stats()) ?? new Map();
    const frames = (await this.#encryption?.counts()) ?? null;
    return { state: this.state, ...summarise(report, this.slots, senders), timing: { ...session?.timing }, frames };
  }

  // Joining.

  #makeSession() {
    this.#pulse.stop();
    return new Session(this.#options, this.#tracks, this.#encryption, this.#iceServers ?? [], {
      onState: (session, state) => session === this.#session && this.#onConnectionState(state),
      onNotice: (session, notice) => session === this.#session && this.#onNotice(notice),
      onEventsOpen: (session) => {
        for (const source of session.senders.keys()) this.#tellMute(session, source);
        for (const request of this.#pins.requests()) session.send(request);
      },
      onEventsLost: (session) => {
        this.#later(EVENTS_LOST_MS, () => {
          // The socket does not say why it was refused; a join does.
          if (session === this.#session && !session.hasEvents) this.#recover('rejoin');
        });
      },
    });
  }

  async #joinWith(session) {
    const { api, callId, token } = this.#options;
    const url = new URL(`${api}/v1/calls/${encodeURIComponent(callId)}/participants`, document.baseURI);
    // What is known already will do, or else the join that matters would wait for what seldom does.
    const wait = this.#iceServers ? 0 : ICE_SERVERS_MS;
    const asked = askIceServers(url, token).then((servers) => {
      this.#iceServers = servers ?? this.#iceServers;
      return servers;
    });
    await session.join(url, asked, wait);
  }

  /** Shows a session's media, and hears what its relay says. */
  #show(session) {
    this.#session = session;
    this.#pulse.stop();
    this.#adoptSlots(session);
    if (session.state === 'connected') this.#setState('connected');
    session.show();
  }

  /** Slots stay the same objects when the connection is made anew; only their tracks change. */
  #adoptSlots({ receiving }) {
    this.slots = receiving.map(({ mid, receiver: { track } }, index) => {
      const blank = { participant: null, source: null, csrc: null, pinned: false, paused: false, undecryptable: false };
      const slot = this.slots[index] ?? { stream: new MediaStream(), ...blank };
      for (const old of slot.stream.getTracks()) slot.stream.removeTrack(old);
      slot.stream.addTrack(track);
      return Object.assign(slot, { mid, kind: track.kind });
    });
  }

  #sessions() {
    return [this.#session, this.#next].filter(Boolean);
  }

  // Coming back.

  #onConnectionState(state) {
    if (this.state === 'ended') return;
    if (state === 'connected' && !this.#recovering) this.#setState('connected');
    if (state === 'failed') this.#recover('restart');
    if (state === 'disconnected') {
      const session = this.#session;
      this.#later(DISCONNECTED_MS, () => {
        if (session === this.#session && session.state === 'disconnected') this.#recover('restart');
      });
    }
  }

  /** Browsers take long to notice that nothing comes any more. */
  async #look() {
    const session = this.#session;
    if (!session || this.#recovering || session.state !== 'connected') return;
    const signs = await session.signs();
    if (session === this.#session && this.#pulse.look(performance.now(), signs)) this.#recover('restart');
  }

  /**
   * Restarts ICE, or joins anew when that is not enough, until connected or out of attempts.
   *
   * @param {'restart' | 'rejoin'} step to begin with
   */
  async #recover(step) {
    if (this.state === 'ended') return;
    if (this.#recovering) {
      if (step === 'rejoin') this.#hurry();
      return;
    }
    if (this.#farewell) {
      if (step === 'restart') this.#finish(this.#farewell);
      return;
    }
    this.#recovering = true;
    if (step === 'restart' && (await this.#restart())) step = 'done';
    for (let attempt = 0; step !== 'done' && attempt < RECOVERY_ATTEMPTS_MAX; attempt += 1) {
      if (attempt > 0) await pause(backoffMs(attempt));
      if (this.state === 'ended') break;
      if (this.#session.state !== 'connected') this.#setState('reconnecting');
      try {
        if (await this.#replace()) break;
      } catch (error) {
        if (await this.#isRefused(error)) break;
      }
    }
    this.#recovering = false;
    if (this.state === 'ended') return;
    if (this.#session.state !== 'connected') this.#finish(this.#farewell ?? 'lost');
    else this.#setState('connected');
    // Moved again meanwhile.
    if (this.#session.moved && !this.#farewell) this.#later(0, () => this.#recover('rejoin'));
  }

  /** Whether ICE could be restarted: then something is heard from the relay. */
  async #restart() {
    const session = this.#session;
    const hurried = new Promise((resolve) => {
      this.#hurry = () => resolve(false);
    });
    const restarted = async () => {
      const signs = await session.signs();
      await session.negotiate({ iceRestart: true });
      return session.heardWithin(RESTART_MS, signs);
    };
    if (session.state !== 'connected') this.#setState('reconnecting');
    const slow = pause(2 * RESTART_MS).then(() => false);
    // Whatever the relay says to it: a join will tell.
    const done = await Promise.race([restarted().catch(() => false), slow, hurried]);
    this.#hurry = () => {};
    return done && !session.moved;
  }

  /** Makes before it breaks: the old connection is shown until the new one has something to show. */
  async #replace() {
    const old = this.#session;
    const next = this.#makeSession();
    this.#next = next;
    try {
      await this.#joinWith(next);
      if (!(await next.connectedWithin(CONNECT_TIMEOUT_MS))) {
        next.close({ leave: true });
        return false;
      }
      const seen = this.slots.filter(({ kind, participant }) => kind === 'video' && participant !== null).length;
      await next.showsWithin(SWITCH_MS, seen);
      if (this.state === 'ended') return false;
      this.#show(next);
      // At the same relay the new session has taken the old one's place, and a relay that is gone needs no word.
      old.close({ leave: old.moved && old.hasEvents });
      await this.#agreeOnScreen();
      return true;
    } catch (error) {
      next.close();
      throw error;
    } finally {
      this.#next = null;
    }
  }

  /** Whether an error says that there is no way back. While the old connection lasts it is used nevertheless. */
  async #isRefused({ status }) {
    // Also when the browser did not do its part: that may be better the next time.
    if (![401, 403, 404, 422].includes(status)) return false;
    const reason = status === 404 ? 'call_ended' : 'unauthorized';
    const signs = await this.#session.signs();
    if (await this.#session.heardWithin(RESTART_MS, signs)) this.#farewell = reason;
    else this.#finish(reason);
    return true;
  }

  // Events.

  #onNotice({ event, ...detail }) {
    if (event === 'roster') this.#onRoster(detail);
    if (event === 'slots') {
      for (const { slot, ...entry } of detail.slots) {
        Object.assign(this.slots.find(({ mid }) => mid === slot) ?? {}, entry);
      }
    }
    if (event === 'speakers') this.speakers = detail.speakers;
    if (event === 'quality') this.qualities.set(detail.participant, { quality: detail.quality, cause: detail.cause });
    if (['roster', 'slots', 'speakers', 'quality', 'layers', 'moved'].includes(event)) this.#emit(event, detail);
    if (event === 'moved') this.#recover('rejoin');
    if (event === 'ended') this.#onEnded(detail);
  }

  #onEnded({ reason }) {
    if (reason === 'timed_out') this.#recover('rejoin');
    // By ourselves, or of a relay that was left already.
    else if (!(this.#recovering && ['replaced', 'drained'].includes(reason))) this.#finish(reason);
  }

  #onRoster({ complete, participants, left }) {
    if (complete) this.roster.clear();
    for (const name of left) this.roster.delete(name);
    for (const entry of participants) this.roster.set(entry.participant, entry);
    const redundant = [...this.roster.values()].every(({ redundancy }) => redundancy !== false);
    // Where it fails the connection is about to be replaced, and that one begins anew.
    for (const session of this.#sessions()) session.sendRedundancy(redundant).catch(() => {});
    this.#pins.retain((name) => this.roster.has(name));
    for (const name of this.qualities.keys()) {
      if (!this.roster.has(name)) this.qualities.delete(name);
    }
  }

  #tell(request) {
    for (const session of this.#sessions()) session.send(request);
  }

  #tellMute(session, source) {
    // A screen that is not shared has no section that sends.
    if (SOURCES[source].slides && !this.#tracks.has(source)) return;
    session.send({ mute: { source, muted: this.isMuted(source) } });
  }

  // The screen, encryption, the end.

  async #useScreen(video, audio) {
    const change = async (source, track) => {
      const transceiver = this.#session?.senders.get(source);
      if (!transceiver) throw new TrunklineError(403, 'this participant sends nothing');
      if (track) this.#tracks.set(source, track);
      else this.#tracks.delete(source);
      transceiver.direction = track ? 'sendonly' : 'inactive';
      await transceiver.sender.replaceTrack(track);
    };
    await Promise.all([change('screen', video), change('screen_audio', audio)]);
    try {
      await this.#session.negotiate();
    } catch (error) {
      await Promise.all([change('screen', null), change('screen_audio', null)]);
      throw error;
    }
  }

  /** A screen that was switched on or off while the connection was made anew. */
  async #agreeOnScreen() {
    const differs = ([source, { direction }]) =>
      SOURCES[source].slides && (direction === 'sendonly') !== this.#tracks.has(source);
    if (![...this.#session.senders].some(differs)) return;
    const [video, audio] = ['screen', 'screen_audio'].map((source) => this.#tracks.get(source) ?? null);
    await this.#useScreen(video, audio).catch(() => {});
  }

  #onFailing(label, state) {
    const [kind, index] = label.split(' ');
    const slot = this.slots.filter((each) => each.kind === kind)[Number(index)];
    if (!slot) return;
    slot.undecryptable = state;
    this.#emit('undecryptable', { slot: slot.mid, state });
  }

  /** Drops connections and events, but not the call. */
  #hangUp(how) {
    for (const session of this.#sessions()) session.close(how);
  }

  #finish(reason, { silent = false } = {}) {
    if (this.state === 'ended') return;
    removeEventListener('pagehide', this.#onPageHide);
    this.#hangUp();
    clearInterval(this.#watch);
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
