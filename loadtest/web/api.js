/**
 * The messaging server, as its page speaks to it: JSON, and server-sent events. The secret of the page's link goes along
 * as a bearer token, which no other page can send.
 *
 * @module api
 */

/** First and longest pause before the events are asked for again. */
const RETRY_FIRST_MS = 250;
const RETRY_LAST_MS = 5_000;
/** The server says something at least every 15 seconds. */
const SILENCE_MS = 40_000;

/** A refusal of the server, or of the gateway or relay behind it. */
export class Refusal extends Error {
  /**
   * @param {number} status 0 when there was no answer
   * @param {string} reason the last part of the problem's type
   * @param {string} detail a sentence
   */
  constructor(status, reason, detail) {
    super(detail);
    this.name = 'Refusal';
    this.status = status;
    this.reason = reason;
  }

  /** Whether the same may work in a moment. */
  get passes() {
    return this.status === 0 || this.status === 429 || (this.status >= 500 && this.status !== 507);
  }
}

export class Server {
  #token;

  /** @param {string} token from the link */
  constructor(token) {
    this.#token = token;
  }

  /** @returns {Promise<{address: string, domain: string, contacts: string[], call_page: string}>} who this page is for */
  me() {
    return this.#ask('GET', '/api/me');
  }

  /** @param {{id: string, to: string, kind: string, conversation: string, ttl_s?: number, payload: string}} draft */
  submit(draft) {
    return this.#ask('POST', '/api/envelopes', draft);
  }

  /** @returns {Promise<{call_id: string, calluri: string, page: string, token: string}>} a new call of one's own */
  startCall() {
    return this.#ask('POST', '/api/calls');
  }

  /** @returns {Promise<{token: string}>} what lets somebody into a call of one's own */
  invite(callId, participant) {
    return this.#ask('POST', `/api/calls/${encodeURIComponent(callId)}/tokens`, { participant });
  }

  /** Ends a call of one's own. */
  endCall(callId) {
    return this.#ask('DELETE', `/api/calls/${encodeURIComponent(callId)}`);
  }

  /**
   * Follows what happens, for ever, and comes back by itself.
   *
   * @param {() => number} after the last event that was kept
   * @param {(event: {event: string, data: object}) => void} onEvent
   * @param {(state: 'connected' | 'reconnecting' | 'replaced' | 'refused') => void} onState the last two are final
   */
  async follow(after, onEvent, onState) {
    for (let attempt = 0; ; attempt += 1) {
      try {
        const silence = new AbortController();
        const response = await this.#fetch('GET', `/api/events?after=${after()}`, undefined, silence.signal);
        onState('connected');
        attempt = 0;
        for await (const event of events(response.body, silence)) {
          if (event.event === 'replaced') return onState('replaced');
          onEvent(event);
        }
      } catch (error) {
        if (error instanceof Refusal && error.status === 401) return onState('refused');
      }
      onState('reconnecting');
      const full = Math.min(RETRY_FIRST_MS * 2 ** attempt, RETRY_LAST_MS);
      await new Promise((resolve) => {
        setTimeout(resolve, full / 2 + (Math.random() * full) / 2);
      });
    }
  }

  async #ask(method, path, body) {
    const response = await this.#fetch(method, path, body);
    return response.status === 204 ? null : response.json();
  }

  async #fetch(method, path, body, signal) {
    const headers = { Authorization: `Bearer ${this.#token}` };
    if (body !== undefined) headers['Content-Type'] = 'application/json';
    let response;
    try {
      response = await fetch(path, { method, headers, signal, body: body && JSON.stringify(body), cache: 'no-store' });
    } catch {
      throw new Refusal(0, 'away', 'The messaging server cannot be reached.');
    }
    if (response.ok) return response;
    const { type = '', detail, title } = await response.json().catch(() => ({}));
    throw new Refusal(response.status, type.split(':').at(-1), detail ?? title ?? `The answer was ${response.status}.`);
  }
}

/** Server-sent events (WHATWG HTML, section 9.2) of a body; ends it when nothing comes. */
async function* events(body, silence) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = '';
  let timer;
  try {
    for (;;) {
      clearTimeout(timer);
      timer = setTimeout(() => silence.abort(), SILENCE_MS);
      const { done, value } = await reader.read();
      if (done) return;
      const blocks = (text + value).split('\n\n');
      text = blocks.pop();
      for (const block of blocks) {
        const field = (name) =>
          block.split('\n').filter((line) => line.startsWith(`${name}:`)).map((line) => line.slice(name.length + 1).trimStart()).join('\n');
        if (field('data')) yield { event: field('event') || 'message', data: JSON.parse(field('data')) };
      }
    }
  } finally {
    clearTimeout(timer);
    reader.cancel().catch(() => {});
  }
}
