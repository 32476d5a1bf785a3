/**
 * Requests to a relay's HTTP API. Used by `trunkline-client.js`.
 *
 * @module api
 */

/** How long one request may take. */
const REQUEST_TIMEOUT_MS = 10_000;

/** Back-off between attempts doubles from the first to the last. Half of it is random: not all come back at once. */
const BACKOFF_FIRST_MS = 100;
const BACKOFF_LAST_MS = 15_000;

/** A request the relay did not grant. */
export class TrunklineError extends Error {
  /**
   * @param {number} status of HTTP; 0 when there was no answer
   * @param {string} message what the relay said
   */
  constructor(status, message) {
    super(message);
    this.name = 'TrunklineError';
    /** Status of HTTP; 0 when there was no answer. */
    this.status = status;
  }
}

/**
 * Sends an offer.
 *
 * @param {'POST' | 'PATCH'} method
 * @param {URL} url
 * @param {{offer: string, token?: string, etag?: ?string}} what `token`: to join with; a session's own address needs
 *   none, and outlives the token. `etag`: that of the session, when there is one
 * @returns {Promise<{response: Response, answer: string}>}
 * @throws {TrunklineError}
 */
export async function sendOffer(method, url, { offer, token, etag }) {
  const headers = { 'content-type': 'application/sdp' };
  if (token) headers.authorization = `Bearer ${token}`;
  if (etag) headers['if-match'] = etag;
  let response;
  let answer;
  try {
    response = await fetch(url, { method, headers, body: offer, signal: AbortSignal.timeout(REQUEST_TIMEOUT_MS) });
    answer = await response.text();
  } catch {
    throw new TrunklineError(0, 'the relay cannot be reached');
  }
  if (!response.ok) throw new TrunklineError(response.status, problem(answer) ?? response.statusText);
  return { response, answer };
}

/**
 * Asks which ICE servers to use (RFC 9725, section 4.6).
 *
 * @param {URL} url of the call's participants
 * @param {string} token a join token
 * @returns {Promise<RTCIceServer[] | undefined>} undefined when that cannot be known: a join does without them
 */
export async function askIceServers(url, token) {
  try {
    const headers = { authorization: `Bearer ${token}` };
    const response = await fetch(url, { method: 'OPTIONS', headers, signal: AbortSignal.timeout(REQUEST_TIMEOUT_MS) });
    return response.ok ? parseIceServers(response.headers.get('link') ?? '') : undefined;
  } catch {
    return undefined;
  }
}

/**
 * ICE servers in `Link` headers (RFC 8288), as many as there are, joined by commas.
 *
 * @param {string} text
 * @returns {RTCIceServer[]}
 */
export function parseIceServers(text) {
  const servers = [];
  // A target, and parameters whose values may be quoted; commas and semicolons may stand in both.
  for (const [, target, rest] of text.matchAll(/<([^<>]*)>((?:\s*;\s*[\w!#$&+^`|~.*-]+(?:\s*=\s*(?:"(?:[^"\\]|\\.)*"|[^\s",;]*))?)*)/g)) {
    const values = new Map();
    for (const [, name, quoted, plain] of rest.matchAll(/;\s*([\w-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s",;]*))/g)) {
      const key = name.toLowerCase();
      // The first of each counts (RFC 8288, section 3).
      if (!values.has(key)) values.set(key, quoted === undefined ? plain : quoted.replace(/\\(.)/g, '$1'));
    }
    const kinds = (values.get('rel') ?? '').toLowerCase().split(/\s+/);
    if (!kinds.includes('ice-server') || !/^(stun|turn)s?:./i.test(target)) continue;
    const { username, credential, type = 'password' } = {
      username: values.get('username'), credential: values.get('credential'), type: values.get('credential-type'),
    };
    if (/^stun/i.test(target)) servers.push({ urls: target });
    // A browser refuses the whole configuration when one TURN server lacks these.
    else if (username !== undefined && credential !== undefined && type === 'password') {
      servers.push({ urls: target, username, credential });
    }
  }
  return servers;
}

/**
 * Ends a session. Works also while the page is being closed, and tells nobody when it fails: the relay notices.
 *
 * @param {URL} url
 * @returns {Promise<void>} once it is answered, or cannot be
 */
export function endSession(url) {
  return fetch(url, { method: 'DELETE', keepalive: true }).then(() => {}, () => {});
}

/**
 * How long to wait before an attempt.
 *
 * @param {number} attempt 1 after the first failure
 * @returns {number}
 */
export function backoffMs(attempt) {
  const full = Math.min(BACKOFF_FIRST_MS * 2 ** (attempt - 1), BACKOFF_LAST_MS);
  return full / 2 + (Math.random() * full) / 2;
}

/**
 * Waits.
 *
 * @param {number} ms
 * @returns {Promise<void>}
 */
export function pause(ms) {
  return new Promise((resolve) => {
    setTimeout(resolve, ms);
  });
}

/** The text of a problem document (RFC 9457), if it is one. */
function problem(text) {
  try {
    const { detail, title } = JSON.parse(text);
    return detail ?? title;
  } catch {
    return undefined;
  }
}
