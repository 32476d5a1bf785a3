/**
 * The admin API. Everything the console knows and does goes through here.
 *
 * @module api
 */

const BASE = '/admin/v1';
/** How long an answer may take. Verifying a long audit log is the slowest. */
const TIMEOUT_MS = 60_000;

/** What the API refused, or why it could not be asked. */
export class ApiError extends Error {
  /**
   * @param {number} status 0 when there was no answer
   * @param {string} type the last part of the problem's type
   * @param {string} detail what is wrong and what to do
   * @param {?number} retryAfterS when to try again
   */
  constructor(status, type, detail, retryAfterS = null) {
    super(detail);
    Object.assign(this, { status, type, detail, retryAfterS });
  }
}

/** Tells of `unauthenticated` ({detail: ApiError}), `locked` (a step before anything else), `lost` and `found`. */
class Api extends EventTarget {
  /** Sent along with whatever changes something. */
  csrf = null;
  #reachable = true;

  /**
   * Asks.
   *
   * @param {string} method
   * @param {string} path below `/admin/v1`
   * @param {Object} [body]
   * @param {{signal?: AbortSignal, quiet?: boolean}} [options] quiet: the caller deals with 401 itself
   * @returns {Promise<*>} the answer's JSON or text, undefined when it has no body
   * @throws {ApiError}
   */
  async ask(method, path, body, { signal, quiet = false } = {}) {
    const headers = {};
    if (body !== undefined) headers['Content-Type'] = 'application/json';
    if (method !== 'GET' && this.csrf) headers['X-Trunkline-Csrf'] = this.csrf;
    const limit = AbortSignal.timeout(TIMEOUT_MS);
    let response;
    try {
      response = await fetch(`${BASE}${path}`, {
        method,
        headers,
        body: body === undefined ? undefined : JSON.stringify(body),
        credentials: 'same-origin',
        cache: 'no-store',
        signal: signal ? AbortSignal.any([signal, limit]) : limit,
      });
    } catch (error) {
      if (signal?.aborted) throw error;
      this.#reach(false);
      const slow = error.name === 'TimeoutError';
      throw new ApiError(0, 'unreachable', slow
        ? 'The gateway did not answer within a minute. It may still be at work: look again before you repeat this.'
        : 'The gateway cannot be reached. Check that it runs and that your connection holds.');
    }
    this.#reach(true);
    if (response.status === 204) return undefined;
    const text = await response.text();
    if (response.ok) return isJson(response) ? JSON.parse(text) : text;
    const error = problemOf(response, text);
    if (error.status === 401 && !quiet) this.dispatchEvent(new CustomEvent('unauthenticated', { detail: error }));
    if (MUST.has(error.type)) this.dispatchEvent(new CustomEvent('locked', { detail: error }));
    throw error;
  }

  get(path, options) {
    return this.ask('GET', path, undefined, options);
  }

  post(path, body, options) {
    return this.ask('POST', path, body, options);
  }

  put(path, body, options) {
    return this.ask('PUT', path, body, options);
  }

  delete(path, options) {
    return this.ask('DELETE', path, undefined, options);
  }

  #reach(reachable) {
    if (reachable === this.#reachable) return;
    this.#reachable = reachable;
    this.dispatchEvent(new Event(reachable ? 'found' : 'lost'));
  }
}

/** Problems that mean: something else comes first. */
const MUST = new Set(['password-change-needed', 'totp-enrolment-needed']);

function isJson(response) {
  return /\bjson\b/.test(response.headers.get('Content-Type') ?? '');
}

/**
 * A problem document (RFC 9457) as an error; anything else as one that says so.
 *
 * @param {Response} response
 * @param {string} text
 * @returns {ApiError}
 */
export function problemOf(response, text) {
  const retry = Number.parseInt(response.headers.get('Retry-After') ?? '', 10);
  const retryAfterS = Number.isFinite(retry) ? retry : null;
  try {
    const { type, title, detail } = JSON.parse(text);
    return new ApiError(response.status, String(type).split(':').at(-1), detail ?? title, retryAfterS);
  } catch {
    const detail = `The answer was ${response.status} without a reason. Something between you and the gateway may be at fault.`;
    return new ApiError(response.status, 'unknown', detail, retryAfterS);
  }
}

/** A name as part of a path. */
export const segment = (name) => encodeURIComponent(name);

export const api = new Api();
