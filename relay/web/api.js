/**
 * Requests to a relay's HTTP API. Used by `trunkline-client.js`.
 *
 * @module api
 */

/** How long one request may take. */
const REQUEST_TIMEOUT_MS = 10_000;

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
 * @param {{token: string, offer: string, etag?: ?string}} what `etag`: that of the session, when there is one
 * @returns {Promise<{response: Response, answer: string}>}
 * @throws {TrunklineError}
 */
export async function sendOffer(method, url, { token, offer, etag }) {
  const headers = { authorization: `Bearer ${token}`, 'content-type': 'application/sdp' };
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
 * Ends a session. Works also while the page is being closed, and tells nobody when it fails: the relay notices.
 *
 * @param {URL} url
 * @param {string} token
 */
export function endSession(url, token) {
  const headers = { authorization: `Bearer ${token}` };
  fetch(url, { method: 'DELETE', headers, keepalive: true }).catch(() => {});
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
