/**
 * One participation at one relay: a peer connection, the session it belongs to, and its events connection. A call has
 * one of them, and two while it moves. Used by `trunkline-client.js`.
 *
 * @module session
 */
import { TrunklineError, backoffMs, endSession, pause, sendOffer } from './api.js';
import { Layers } from './layers.js';
import {
  SOURCES, askForExtensions, encodings, markSlides, midOf, offerRawPacketization, offerSilence, preferRedundancy,
  prepare, sections,
} from './media.js';

/** How often something that is waited for is looked at. */
const LOOK_MS = 50;
/** How long a connection is kept for the relay to answer that one has left. */
const LEAVE_MS = 1_000;
/** Requests that go out in a second, the others after it: half of what the relay takes, as two such seconds may adjoin. */
const REQUESTS_PER_S = 10;
/** Notices that are kept while the session is not shown yet; it takes seconds at most. */
const NOTICES_MAX = 1_000;

/**
 * @typedef {object} Listener what a session tells
 * @property {(session: Session, state: string) => void} onState the connection's state changed
 * @property {(session: Session, notice: object) => void} onNotice the relay says something
 * @property {(session: Session) => void} onEventsOpen pins and mutes can be told
 * @property {(session: Session) => void} onEventsLost the events connection closed, and nobody said that it is over
 */

export class Session {
  /** @type {Map<string, RTCRtpTransceiver>} by source */
  senders = new Map();
  /** Milliseconds since the join began. */
  timing = {};
  /** The call goes on elsewhere: this one is kept until its successor carries media. */
  moved = false;
  /** The relay said that it is over. */
  ended = false;
  /** Shown to the user; what the relay says before is kept. */
  #shown = false;
  #notices = [];
  #layers = new Layers((source) => this.senders.get(source)?.sender);
  #options;
  #encryption;
  #listener;
  #pc;
  /** @type {?URL} of this participation; it is a credential */
  #location = null;
  #etag = null;
  /** @type {?WebSocket} */
  #events = null;
  #eventsAttempts = 0;
  /** What waits to be told, how much may go now, and the timer after which more may. */
  #requests = [];
  #requestsLeft = REQUESTS_PER_S;
  #requestsTimer = null;
  #closed = false;
  #redundant = true;
  #negotiations = Promise.resolve();
  #started = performance.now();

  /**
   * @param {object} options of the call
   * @param {Map<string, MediaStreamTrack>} tracks by source
   * @param {?import('./encryption.js').FrameEncryption} encryption
   * @param {RTCIceServer[]} iceServers
   * @param {Listener} listener
   */
  constructor(options, tracks, encryption, iceServers, listener) {
    this.#options = options;
    this.#encryption = encryption;
    this.#listener = listener;
    this.#pc = this.#makePeerConnection(tracks, iceServers);
    this.#pc.addEventListener('connectionstatechange', () => {
      if (this.state === 'connected' && this.timing.connectedMs === undefined) this.#mark('connectedMs');
      if (!this.#closed) listener.onState(this, this.state);
    });
  }

  /** Of the connection. */
  get state() {
    return this.#pc.connectionState;
  }

  /** Whether the events connection is open. That of a node which is gone is not. */
  get hasEvents() {
    return this.#events?.readyState === WebSocket.OPEN;
  }

  /** Media sections that receive, audio first: one for each slot. */
  get receiving() {
    const sending = new Set(this.senders.values());
    return this.#pc.getTransceivers().filter((transceiver) => !sending.has(transceiver));
  }

  /**
   * Joins. Resolves when the relay has taken the offer.
   *
   * @param {URL} url of the call's participants
   * @param {Promise<RTCIceServer[] | undefined>} servers what can be known of ICE servers
   * @param {number} waitMs how long to wait for that; what comes later is for ICE restarts
   * @throws {TrunklineError}
   */
  async join(url, servers, waitMs) {
    const configured = servers.then((iceServers) => {
      if (this.#closed || !iceServers?.length) return;
      this.#pc.setConfiguration({ ...this.#pc.getConfiguration(), iceServers });
    });
    const [offer] = await Promise.all([
      this.#pc.createOffer(),
      // Before candidates are gathered, which begins with the local description.
      Promise.race([configured.catch(() => {}), pause(waitMs)]),
    ]);
    const sdp = await this.#describe(offer);
    this.#mark('offeredMs');
    const { response, answer } = await sendOffer('POST', url, { token: this.#options.token, offer: sdp });
    this.#mark('answeredMs');
    this.#location = new URL(response.headers.get('location') ?? '', response.url);
    this.#etag = response.headers.get('etag');
    if (this.#closed) {
      // Left while the request was under way.
      endSession(this.#location);
      return;
    }
    await this.#pc.setRemoteDescription({ type: 'answer', sdp: answer });
    await this.#useOneEncoding(sdp, answer);
    this.#openEvents();
  }

  /** Another offer in the same session, after those that are under way. */
  negotiate(options) {
    const run = this.#negotiations.then(() => this.#negotiateNow(options));
    this.#negotiations = run.catch(() => {});
    return run;
  }

  /** Sound is sent with redundancy from now on, or without: who does not take it would not hear anything. */
  async sendRedundancy(redundant) {
    if (this.#redundant === redundant) return;
    this.#redundant = redundant;
    const sound = [...this.senders].filter(([source]) => SOURCES[source].kind === 'audio');
    for (const [, transceiver] of sound) preferRedundancy(transceiver, redundant);
    if (sound.length === 0) return;
    await this.negotiate().catch((error) => {
      // To be tried again when somebody comes or leaves.
      this.#redundant = !redundant;
      throw error;
    });
  }

  /** Tells the relay something, when it can be told: soon, and in order. */
  send(request) {
    if (!this.hasEvents) return;
    this.#requests.push(request);
    this.#sendRequests();
  }

  /** From now on notices are passed on, those first that came before. */
  show() {
    this.#shown = true;
    for (const notice of this.#notices.splice(0)) this.#listener.onNotice(this, notice);
  }

  /** Waits until the connection is there, for so long. */
  async connectedWithin(ms) {
    return this.#within(ms, () => this.state === 'connected');
  }

  /** Waits until so many pictures come, or any sound when none do, for so long. */
  async showsWithin(ms, pictures) {
    return this.#within(ms, async () => {
      const inbound = [...(await this.stats()).values()].filter(({ type }) => type === 'inbound-rtp');
      if (pictures === 0) return inbound.length === 0 || inbound.some(({ packetsReceived }) => packetsReceived > 0);
      return inbound.filter(({ framesDecoded }) => framesDecoded > 0).length >= pictures;
    });
  }

  /** Waits until something is heard that was not among `signs`, for so long. */
  async heardWithin(ms, signs) {
    return this.#within(ms, async () => this.state === 'connected' && (await this.signs()) > signs);
  }

  /** A number that grows whenever anything comes from the relay. */
  async signs() {
    const pairs = (report) => [...report.values()].filter(({ type }) => type === 'candidate-pair');
    try {
      // One receiver's statistics have all candidate pairs of the one transport, and little else.
      let found = pairs((await this.receiving[0]?.receiver.getStats()) ?? new Map());
      if (found.length === 0) found = pairs(await this.#pc.getStats());
      return found.reduce((sum, { bytesReceived = 0, responsesReceived = 0 }) => sum + bytesReceived + responsesReceived, 0);
    } catch {
      // Closed meanwhile.
      return 0;
    }
  }

  stats() {
    return this.#pc.getStats();
  }

  /** Hangs up, quietly. `leave` also tells the relay, which else notices by itself. */
  close({ leave = false } = {}) {
    if (this.#closed) return;
    this.#closed = true;
    // Hanging up first would be heard first, and the relay not know the session any more.
    const told = leave && this.#location ? Promise.race([endSession(this.#location), pause(LEAVE_MS)]) : null;
    if (told) told.then(() => this.#pc.close());
    else this.#pc.close();
    this.#events?.close();
    this.#events = null;
    clearTimeout(this.#requestsTimer);
  }

  #sendRequests() {
    const requests = this.hasEvents ? this.#requests.splice(0, this.#requestsLeft) : [];
    for (const request of requests) this.#events.send(JSON.stringify(request));
    this.#requestsLeft -= requests.length;
    this.#requestsTimer ??= setTimeout(() => {
      this.#requestsTimer = null;
      this.#requestsLeft = REQUESTS_PER_S;
      if (this.#requests.length > 0) this.#sendRequests();
    }, 1_000);
  }

  async #within(ms, holds) {
    const until = performance.now() + ms;
    while (!this.#closed) {
      if (await holds()) return true;
      if (performance.now() >= until || ['failed', 'closed'].includes(this.state)) return false;
      await pause(LOOK_MS);
    }
    return false;
  }

  #mark(name) {
    this.timing[name] = Math.round(performance.now() - this.#started);
  }

  #makePeerConnection(tracks, iceServers) {
    const pc = new RTCPeerConnection({ bundlePolicy: 'max-bundle', rtcpMuxPolicy: 'require', iceServers });
    const { sends, codecs, layers, slots } = this.#options;
    for (const [source, { kind, slides }] of Object.entries(sends ? SOURCES : {})) {
      const track = tracks.get(source) ?? null;
      // A track that comes later needs no negotiation when its section is there and sends already. A screen is
      // different: others see from the section's direction whether one is shared.
      const direction = slides && !track ? 'inactive' : 'sendonly';
      const sendEncodings = encodings(source, codecs, layers);
      const transceiver = pc.addTransceiver(track ?? kind, { direction, sendEncodings });
      this.senders.set(source, transceiver);
      prepare(transceiver, kind, 'send', codecs);
      // At once: a transform that is set after something else was awaited comes too late for Chromium, which then
      // sends in clear.
      this.#encryption?.send(transceiver.sender, kind, source);
    }
    for (const kind of ['audio', 'video']) {
      for (let index = 0; index < slots[kind]; index += 1) {
        const transceiver = pc.addTransceiver(kind, { direction: 'recvonly' });
        prepare(transceiver, kind, 'receive', codecs);
        this.#encryption?.receive(transceiver.receiver, kind, `${kind} ${index}`);
      }
    }
    return pc;
  }

  /** Takes an offer as the local description, and gives its text for the relay. Nothing waits for candidates: the
   * relay learns addresses. */
  async #describe(offer) {
    const raw = this.#encryption ? offerRawPacketization : (sdp) => sdp;
    await this.#pc.setLocalDescription({ type: 'offer', sdp: raw(offer.sdp) });
    const slides = [...this.senders].filter(([source]) => SOURCES[source].slides).map(([, { mid }]) => mid);
    return markSlides(offerSilence(raw(this.#pc.localDescription.sdp)), slides);
  }

  /** Where simulcast was not agreed on only the first encoding is left, and that should be a whole picture. */
  async #useOneEncoding(offer, answer) {
    const hasSimulcast = (sdp, mid) => sections(sdp).find((each) => midOf(each) === mid)?.includes('a=simulcast:');
    for (const [source, { mid, sender }] of this.senders) {
      if (!hasSimulcast(offer, mid) || hasSimulcast(answer, mid)) continue;
      const { scaleResolutionDownBy, maxBitrate } = encodings(source, this.#options.codecs, this.#options.layers).at(-1);
      const parameters = sender.getParameters();
      const [first] = parameters.encodings ?? [];
      if (!first) continue;
      Object.assign(first, { scaleResolutionDownBy, maxBitrate });
      delete first.maxFramerate;
      await sender.setParameters(parameters).catch(() => {});
    }
  }

  async #negotiateNow(options) {
    if (this.#closed || !this.#location) throw new TrunklineError(0, 'not in a call');
    for (const [source, transceiver] of this.senders) {
      if (SOURCES[source].kind === 'video') askForExtensions(transceiver);
    }
    const offer = await this.#describe(await this.#pc.createOffer(options));
    try {
      const { response, answer } = await sendOffer('PATCH', this.#location, { offer, etag: this.#etag });
      this.#etag = response.headers.get('etag') ?? this.#etag;
      await this.#pc.setRemoteDescription({ type: 'answer', sdp: answer });
      await this.#useOneEncoding(offer, answer);
    } catch (error) {
      if (this.#pc.signalingState === 'have-local-offer') await this.#pc.setLocalDescription({ type: 'rollback' });
      throw error;
    }
  }

  #openEvents() {
    const url = new URL(`${this.#location}/events`);
    url.protocol = url.protocol === 'https:' ? 'wss:' : 'ws:';
    const socket = new WebSocket(url);
    this.#events = socket;
    socket.onopen = () => {
      this.#eventsAttempts = 0;
      // A new connection is told everything.
      this.#requests = [];
      this.#listener.onEventsOpen(this);
    };
    socket.onmessage = ({ data }) => this.#onNotice(JSON.parse(data));
    socket.onclose = () => {
      // After `moved` there is nothing more to hear that matters.
      if (socket !== this.#events || this.#closed || this.ended || this.moved) return;
      this.#listener.onEventsLost(this);
      // The first attempt at once: it may be the ingress that is new.
      const wait = this.#eventsAttempts === 0 ? 0 : backoffMs(this.#eventsAttempts);
      this.#eventsAttempts += 1;
      setTimeout(() => {
        if (socket === this.#events && !this.#closed) this.#openEvents();
      }, wait);
    };
  }

  #onNotice(notice) {
    if (this.#closed) return;
    this.moved ||= notice.event === 'moved';
    this.ended ||= notice.event === 'ended';
    // Of this connection's encodings, whether it is shown or not.
    if (notice.event === 'layers') this.#layers.want(notice.sources);
    if (this.#shown) this.#listener.onNotice(this, notice);
    else if (this.#notices.length < NOTICES_MAX) this.#notices.push(notice);
  }
}
