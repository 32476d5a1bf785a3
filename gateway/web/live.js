/**
 * What happens as it happens: the event stream, and the last twenty minutes of numbers.
 *
 * @module live
 */
import { api, segment } from './api.js';

/** What the gateway tells. A browser hears named events only when asked for by name. */
const KINDS = [
  'sample', 'audit', 'missed', 'link.up', 'link.down', 'peer.rotated', 'peer.claim', 'peer.epoch', 'peer.ready',
  'peer.key-ready', 'alarm.watermark', 'storage.low', 'storage.ok', 'store.failed',
];
/** A sample comes every two seconds. Silence for longer than this means that the connection is dead. */
const SILENCE_MS = 9_000;
/** Waits before another attempt, the last again and again. */
const BACKOFF_MS = [500, 1_000, 2_000, 5_000, 10_000];
/** Samples that are kept: twenty minutes. */
const SAMPLES_MAX = 600;

/**
 * Tells of `sample` (detail: the sample), `change` (detail: the event; something else than numbers changed, or
 * may have), and `state`.
 */
class Live extends EventTarget {
  /** `off`, `connecting`, `live` or `reconnecting`. */
  state = 'off';
  /** The newest sample. */
  sample = null;
  #source = null;
  #attempt = 0;
  #timer = null;
  #watch = null;
  /** History by domain, '' for all. */
  #series = new Map();

  start() {
    if (this.state !== 'off') return;
    this.#say('connecting');
    this.#connect();
  }

  stop() {
    this.#close();
    clearTimeout(this.#timer);
    this.sample = null;
    this.#series.clear();
    this.#attempt = 0;
    this.#say('off');
  }

  /**
   * The history of a peer, or of all. Empty until it is here; a `sample` follows within two seconds.
   *
   * @param {string} [domain]
   * @returns {{everyS: number, loaded: boolean, samples: Object[]}}
   */
  history(domain = '') {
    let series = this.#series.get(domain);
    if (!series) {
      series = { everyS: 2, loaded: false, samples: [], counters: null };
      this.#series.set(domain, series);
      this.#fill(domain, series);
    }
    return series;
  }

  async #fill(domain, series) {
    try {
      const { every_s: everyS, samples } = await api.get(domain ? `/history?peer=${segment(domain)}` : '/history');
      const newer = series.samples.filter(({ at }) => at > (samples.at(-1)?.at ?? 0));
      series.everyS = everyS;
      series.samples = [...samples, ...newer].slice(-SAMPLES_MAX);
      series.loaded = true;
      this.dispatchEvent(new CustomEvent('history', { detail: domain }));
    } catch {
      // Charts then begin with what comes from now on.
      series.loaded = true;
    }
  }

  #connect() {
    this.#close();
    const source = new EventSource('/admin/v1/events');
    this.#source = source;
    source.onopen = () => this.#heard(source);
    source.onerror = () => this.#lost(source);
    for (const kind of KINDS) {
      source.addEventListener(kind, (event) => {
        this.#heard(source);
        this.#take(kind, event.data);
      });
    }
    this.#heard(source, true);
  }

  #close() {
    clearTimeout(this.#watch);
    this.#source?.close();
    this.#source = null;
  }

  #heard(source, opening = false) {
    if (source !== this.#source) return;
    clearTimeout(this.#watch);
    this.#watch = setTimeout(() => this.#lost(source), SILENCE_MS);
    if (opening) return;
    this.#attempt = 0;
    if (this.state === 'live') return;
    const again = this.state === 'reconnecting';
    this.#say('live');
    if (!again) return;
    // What happened meanwhile was not told.
    for (const [domain, series] of this.#series) this.#fill(domain, series);
    this.dispatchEvent(new CustomEvent('change', { detail: { kind: 'missed' } }));
  }

  #lost(source) {
    if (source !== this.#source) return;
    this.#close();
    this.#say('reconnecting');
    const wait = BACKOFF_MS[Math.min(this.#attempt, BACKOFF_MS.length - 1)];
    this.#attempt += 1;
    this.#timer = setTimeout(async () => {
      try {
        // An event stream does not say why it was refused; this does, and a session that ended leads to the log-in.
        await api.get('/session');
      } catch {
        // Not there yet: the attempt that follows fails too, and the next waits longer.
      }
      if (this.state === 'reconnecting') this.#connect();
    }, wait);
  }

  #take(kind, data) {
    if (kind === 'missed') {
      this.dispatchEvent(new CustomEvent('change', { detail: { kind } }));
      return;
    }
    let event;
    try {
      event = JSON.parse(data);
    } catch {
      return;
    }
    if (kind !== 'sample') {
      this.dispatchEvent(new CustomEvent('change', { detail: { kind, ...event } }));
      return;
    }
    const before = this.sample;
    this.sample = event;
    this.#append(before, event);
    this.dispatchEvent(new CustomEvent('sample', { detail: event }));
  }

  #append(before, now) {
    for (const [domain, series] of this.#series) {
      const sample = domain === '' ? sum(before?.peers, now.peers) : difference(find(before, domain), find(now, domain));
      if (!sample || now.at_ms <= (series.samples.at(-1)?.at ?? 0)) continue;
      const { oldest, ...numbers } = sample;
      series.samples.push({ at: now.at_ms, ...numbers, oldest_age_s: oldest ? Math.max(0, (now.at_ms - oldest) / 1000) : 0 });
      if (series.samples.length > SAMPLES_MAX) series.samples.shift();
    }
  }

  #say(state) {
    if (state === this.state) return;
    this.state = state;
    this.dispatchEvent(new Event('state'));
  }
}

const find = (sample, domain) => sample?.peers.find((peer) => peer.domain === domain);

/** What a peer did between two samples, whose counters only grow; a counter that fell belongs to a new process. */
function difference(before, now) {
  if (!now || !before) return null;
  const grown = (name) => Math.max(0, now[name] - before[name]);
  return {
    sent: grown('sent'), received: grown('received'), refused: grown('refused'),
    depth: now.depth, bytes: now.bytes, oldest: now.oldest, latency_ms: now.latency_ms,
  };
}

/**
 * The sum over all peers. Latency is the mean of those who have one.
 *
 * @param {?Object[]} before
 * @param {Object[]} now
 */
export function sum(before, now) {
  if (!before) return null;
  const earlier = new Map(before.map((peer) => [peer.domain, peer]));
  const total = { sent: 0, received: 0, refused: 0, depth: 0, bytes: 0, oldest: null, latency_ms: null };
  const latencies = [];
  for (const peer of now) {
    const part = difference(earlier.get(peer.domain) ?? peer, peer);
    for (const name of ['sent', 'received', 'refused', 'depth', 'bytes']) total[name] += part[name];
    if (part.oldest && (total.oldest === null || part.oldest < total.oldest)) total.oldest = part.oldest;
    if (part.latency_ms !== null && part.latency_ms !== undefined) latencies.push(part.latency_ms);
  }
  if (latencies.length > 0) total.latency_ms = latencies.reduce((all, ms) => all + ms, 0) / latencies.length;
  return total;
}

export const live = new Live();
