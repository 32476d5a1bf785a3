/**
 * End-to-end encryption of messages, with WebCrypto. The format stands here and in docs/decisions/0018:
 *
 *     payload   version 1 (1 byte) | counter (8, big-endian) | salt (32) | AES-256-GCM ciphertext and tag
 *     key, nonce = HKDF-SHA256(ECDH P-256, salt, "trunkline-demo/1 seal" | sender's key | recipient's key), 32 + 12 bytes
 *     bound     the first 41 bytes, then kind, conversation, from, to and id, each after its length (4, big-endian)
 *
 * It is made for a demonstration: no forward secrecy, and no protection of a stolen device.
 *
 * @module sealed
 */

const VERSION = 1;
const SALT_BYTES = 32;
const HEADER_BYTES = 1 + 8 + SALT_BYTES;
/** Bytes of a public key: an uncompressed point. */
const PUBLIC_BYTES = 65;
/** Groups of a safety number. Fewer could be searched for by somebody in between. */
const SAFETY_GROUPS = 12;
const CURVE = { name: 'ECDH', namedCurve: 'P-256' };

const encoder = new TextEncoder();

/**
 * @typedef {object} Identity
 * @property {CryptoKey} privateKey cannot be exported
 * @property {Uint8Array} publicKey
 */

/**
 * @typedef {object} Bound what an envelope says about its payload, all of which is bound to it
 * @property {string} kind
 * @property {string} conversation
 * @property {string} from
 * @property {string} to
 * @property {string} id
 */

/** A new identity, whose private key never leaves this browser. @returns {Promise<Identity>} */
export async function makeIdentity() {
  const { privateKey, publicKey } = await crypto.subtle.generateKey(CURVE, false, ['deriveBits']);
  return { privateKey, publicKey: new Uint8Array(await crypto.subtle.exportKey('raw', publicKey)) };
}

/**
 * Seals for another person.
 *
 * @param {Identity} own
 * @param {Uint8Array} recipient public key
 * @param {Bound} bound
 * @param {number} counter higher than any before between the two in this direction
 * @param {string} text
 * @param {Uint8Array} [salt] random; given by tests only
 * @returns {Promise<Uint8Array>}
 */
export async function seal(own, recipient, bound, counter, text, salt = crypto.getRandomValues(new Uint8Array(SALT_BYTES))) {
  const header = new Uint8Array(HEADER_BYTES);
  header[0] = VERSION;
  new DataView(header.buffer).setBigUint64(1, BigInt(counter));
  header.set(salt, 9);
  const { key, iv } = await derive(own, recipient, salt, own.publicKey, recipient, 'encrypt');
  const additionalData = boundBytes(header, bound);
  const sealed = await crypto.subtle.encrypt({ name: 'AES-GCM', iv, additionalData }, key, encoder.encode(text));
  return concat(header, new Uint8Array(sealed));
}

/**
 * Opens what another person sealed. Whether it came before is for the caller to see from the counter.
 *
 * @param {Identity} own
 * @param {Uint8Array} sender public key
 * @param {Bound} bound
 * @param {Uint8Array} payload
 * @returns {Promise<{counter: number, text: string}>}
 * @throws {Error} when it was changed, or is not what its envelope says
 */
export async function open(own, sender, bound, payload) {
  if (payload.length < HEADER_BYTES || payload[0] !== VERSION) throw new Error('The payload is not of this format.');
  const header = payload.slice(0, HEADER_BYTES);
  const counter = Number(new DataView(header.buffer).getBigUint64(1));
  if (!Number.isSafeInteger(counter)) throw new Error('The payload is not of this format.');
  const { key, iv } = await derive(own, sender, header.slice(9), sender, own.publicKey, 'decrypt');
  const additionalData = boundBytes(header, bound);
  const plain = await crypto.subtle.decrypt({ name: 'AES-GCM', iv, additionalData }, key, payload.slice(HEADER_BYTES));
  return { counter, text: new TextDecoder('utf-8', { fatal: true }).decode(plain) };
}

/** The conversation of two people: the same for both, and telling nobody who they are. */
export async function conversationOf(one, other) {
  const fields = ['trunkline-demo/1 conversation', ...[one, other].sort(byBytes)];
  const hash = await crypto.subtle.digest('SHA-256', framed(fields.map((field) => encoder.encode(field))));
  return toBase64Url(new Uint8Array(hash).slice(0, 16));
}

/**
 * What two people compare to know that nobody is in between.
 *
 * @param {{address: string, publicKey: Uint8Array}} one
 * @param {{address: string, publicKey: Uint8Array}} other
 * @returns {Promise<string>}
 */
export async function safetyNumber(one, other) {
  const people = [one, other].sort((first, second) => byBytes(first.address, second.address));
  const fields = people.flatMap(({ address, publicKey }) => [encoder.encode(address), publicKey]);
  const bytes = framed([encoder.encode('trunkline-demo/1 safety'), ...fields]);
  const hash = new Uint8Array(await crypto.subtle.digest('SHA-512', bytes));
  const groups = Array.from({ length: SAFETY_GROUPS }, (_, at) => {
    const value = hash.slice(5 * at, 5 * at + 5).reduce((sum, byte) => sum * 256 + byte, 0);
    return String(value % 100_000).padStart(5, '0');
  });
  return groups.join(' ');
}

/** A public key as others are told it. */
export function writeKeyNotice(publicKey, ask) {
  return encoder.encode(JSON.stringify({ v: VERSION, key: toBase64Url(publicKey), ask }));
}

/**
 * Reads what {@link writeKeyNotice} wrote.
 *
 * @param {Uint8Array} payload
 * @returns {Promise<{publicKey: Uint8Array, ask: boolean}>}
 * @throws {Error} when it is none, or its key is no point of the curve
 */
export async function readKeyNotice(payload) {
  const { v, key, ask } = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(payload));
  const publicKey = fromBase64(String(key));
  if (v !== VERSION || publicKey.length !== PUBLIC_BYTES) throw new Error('This is no public key.');
  await importPublic(publicKey);
  return { publicKey, ask: ask === true };
}

async function derive(own, other, salt, sender, recipient, usage) {
  const secret = await crypto.subtle.deriveBits({ name: 'ECDH', public: await importPublic(other) }, own.privateKey, 256);
  const base = await crypto.subtle.importKey('raw', secret, 'HKDF', false, ['deriveBits']);
  const info = concat(encoder.encode('trunkline-demo/1 seal'), sender, recipient);
  const bits = await crypto.subtle.deriveBits({ name: 'HKDF', hash: 'SHA-256', salt, info }, base, 8 * 44);
  const key = await crypto.subtle.importKey('raw', bits.slice(0, 32), 'AES-GCM', false, [usage]);
  return { key, iv: new Uint8Array(bits, 32, 12) };
}

function importPublic(bytes) {
  return crypto.subtle.importKey('raw', bytes, CURVE, false, []);
}

function boundBytes(header, { kind, conversation, from, to, id }) {
  return concat(header, framed([kind, conversation, from, to, id].map((field) => encoder.encode(field))));
}

/** Each field after its length. */
function framed(fields) {
  return concat(...fields.flatMap((field) => {
    const length = new Uint8Array(4);
    new DataView(length.buffer).setUint32(0, field.length);
    return [length, field];
  }));
}

function concat(...parts) {
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  parts.reduce((at, part) => {
    whole.set(part, at);
    return at + part.length;
  }, 0);
  return whole;
}

/** Addresses are ASCII, of which code units and bytes sort alike. */
function byBytes(one, other) {
  if (one === other) return 0;
  return one < other ? -1 : 1;
}

/** Bytes as base64. */
export function toBase64(bytes) {
  let text = '';
  for (const byte of bytes) text += String.fromCharCode(byte);
  return btoa(text);
}

/** Bytes as base64url without padding. */
export function toBase64Url(bytes) {
  return toBase64(bytes).replace(/\+/g, '-').replace(/\//g, '_').replace(/=+$/, '');
}

/** Bytes of base64 and base64url. */
export function fromBase64(text) {
  return Uint8Array.from(atob(text.replace(/-/g, '+').replace(/_/g, '/')), (character) => character.charCodeAt(0));
}
