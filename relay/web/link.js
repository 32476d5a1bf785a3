/**
 * Links to calls: `/call?call=<id>&token=<join token>#key=<base64url>`. What stands behind `#` never reaches a
 * server; call and token may stand there too. Without a call, the one the token is for is meant.
 *
 * @module link
 */

/** Bytes of a key made here. */
const KEY_LEN = 32;

/**
 * @typedef {object} Invitation
 * @property {string} callId empty when the link has none
 * @property {string} token
 * @property {string} key base64url, empty for a call without end-to-end encryption
 */

/**
 * Reads an invitation from an address.
 *
 * @param {URL | Location} url
 * @returns {Invitation}
 */
export function readInvitation(url) {
  const query = new URLSearchParams(url.search);
  const fragment = new URLSearchParams(url.hash.replace(/^#/, ''));
  const of = (name) => fragment.get(name) ?? query.get(name) ?? '';
  const token = of('token');
  return { callId: of('call') || (readToken(token).callId ?? ''), token, key: fragment.get('key') ?? '' };
}

/**
 * The address of an invitation, for the address bar: a reload finds everything there.
 *
 * @param {Invitation} invitation
 * @returns {string}
 */
export function writeInvitation({ callId, token, key }) {
  const query = new URLSearchParams({ call: callId, token });
  return `?${query}${key ? `#key=${key}` : ''}`;
}

/**
 * What a join token (a JWT) says about its bearer. It is not verified here: the relay does that.
 *
 * @param {string} token
 * @returns {{participant: ?string, callId: ?string, role: ?string}}
 */
export function readToken(token) {
  const text = (claim) => (typeof claim === 'string' ? claim : null);
  try {
    const claims = JSON.parse(new TextDecoder().decode(decodeBase64(token.split('.')[1])));
    return { participant: text(claims.sub), callId: text(claims.call), role: text(claims.role) };
  } catch {
    return { participant: null, callId: null, role: null };
  }
}

/** A new random key as text. */
export function makeKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(KEY_LEN));
  return btoa(String.fromCharCode(...bytes)).replace(/\+/g, '-').replace(/\//g, '_').replace(/=+$/, '');
}

/**
 * Decodes base64url, and base64.
 *
 * @param {string} text
 * @returns {Uint8Array}
 * @throws {DOMException} when it is neither
 */
export function decodeBase64(text) {
  return Uint8Array.from(atob(text.replace(/-/g, '+').replace(/_/g, '/')), (character) => character.charCodeAt(0));
}
