/**
 * SFrame (RFC 9605): frames are encrypted by who sends them and opened by who plays them; what forwards them in
 * between sees neither. One cipher suite: AES_128_GCM_SHA256_128. Only WebCrypto is needed, so this module works in
 * pages, in workers and in Node.js.
 *
 * Everybody in a call shares one base key. Every sending stream draws a random 64-bit key identifier (KID) and counts
 * its frames from zero: a KID gives a key of its own, so no key ever meets a counter twice, also not after a reload.
 *
 * @module sframe
 */

/** The suite's number in the registry of RFC 9605, section 8.1. */
export const CIPHER_SUITE = 0x0004;

/** Bytes of the authentication tag. */
export const TAG_LEN = 16;

/** Bytes of the longest header: one of configuration, eight of KID, eight of counter. */
export const HEADER_LEN_MAX = 17;

/** Bytes a base key may have. Less can be guessed, more adds nothing to a 128-bit cipher. */
export const KEY_LEN_MIN = 16;
export const KEY_LEN_MAX = 64;

/**
 * Keys a receiver remembers. More spares derivations in calls whose streams change often, and costs memory; it must
 * not be less than the streams received at a time.
 */
export const KEYS_MAX = 256;

/**
 * How far a frame may lag behind the newest one opened under its key. It bounds what a relay can play to people
 * again later; less would drop what legitimately comes late: reordered packets, and the frames since the last key
 * frame that a relay sends to somebody who begins to watch.
 */
export const COUNTER_LAG_MAX = { audio: 256n, video: 4096n };

const KEY_LEN = 16;
const SALT_LEN = 12;
const KEY_LABEL = 'SFrame 1.0 Secret key ';
const SALT_LABEL = 'SFrame 1.0 Secret salt ';
const SAFETY_LABEL = 'Trunkline safety code';
const SAFETY_DIGITS = 12;

/**
 * Encodes a header (RFC 9605, section 4.3): values below eight stand in the configuration byte, others follow it in
 * as few bytes as they need.
 *
 * @param {bigint} kid key identifier, 0 to 2^64 - 1
 * @param {bigint} ctr counter, 0 to 2^64 - 1
 * @returns {Uint8Array}
 */
export function encodeHeader(kid, ctr) {
  const kidBytes = kid < 8n ? [] : minimalBytes(kid);
  const ctrBytes = ctr < 8n ? [] : minimalBytes(ctr);
  const kidBits = kidBytes.length === 0 ? Number(kid) : 0x8 | (kidBytes.length - 1);
  const ctrBits = ctrBytes.length === 0 ? Number(ctr) : 0x8 | (ctrBytes.length - 1);
  return Uint8Array.of((kidBits << 4) | ctrBits, ...kidBytes, ...ctrBytes);
}

/**
 * Decodes the header at the start of a frame.
 *
 * @param {Uint8Array} frame
 * @returns {{kid: bigint, ctr: bigint, length: number} | null} null when the frame ends within the header
 */
export function decodeHeader(frame) {
  if (frame.length === 0) return null;
  const kidBits = frame[0] >> 4;
  const ctrBits = frame[0] & 0xf;
  const kidLen = kidBits & 0x8 ? (kidBits & 0x7) + 1 : 0;
  const ctrLen = ctrBits & 0x8 ? (ctrBits & 0x7) + 1 : 0;
  const length = 1 + kidLen + ctrLen;
  if (frame.length < length) return null;
  const kid = kidLen === 0 ? BigInt(kidBits) : readBytes(frame.subarray(1, 1 + kidLen));
  const ctr = ctrLen === 0 ? BigInt(ctrBits) : readBytes(frame.subarray(1 + kidLen, length));
  return { kid, ctr, length };
}

/**
 * Takes a base key in.
 *
 * @param {Uint8Array} bytes {@link KEY_LEN_MIN} to {@link KEY_LEN_MAX} of them
 * @returns {Promise<CryptoKey>} not extractable
 * @throws {RangeError} when it is too short or too long
 */
export async function importBaseKey(bytes) {
  if (bytes.length < KEY_LEN_MIN || bytes.length > KEY_LEN_MAX) {
    throw new RangeError(`an encryption key has ${KEY_LEN_MIN} to ${KEY_LEN_MAX} bytes, not ${bytes.length}`);
  }
  return crypto.subtle.importKey('raw', bytes, 'HKDF', false, ['deriveBits']);
}

/**
 * Derives key and salt of one KID (RFC 9605, section 4.4.2). WebCrypto's HKDF is extract and expand in one.
 *
 * @param {CryptoKey} baseKey from {@link importBaseKey}
 * @param {bigint} kid
 * @returns {Promise<{key: Uint8Array, salt: Uint8Array}>}
 */
export async function deriveKeySalt(baseKey, kid) {
  const [key, salt] = await Promise.all([
    expand(baseKey, label(KEY_LABEL, kid), KEY_LEN),
    expand(baseKey, label(SALT_LABEL, kid), SALT_LEN),
  ]);
  return { key, salt };
}

/**
 * The digits two people compare to be sure that they hold the same key: in groups of four, derived one way.
 *
 * @param {CryptoKey} baseKey from {@link importBaseKey}
 * @returns {Promise<string>} such as `4711 0815 1234`
 */
export async function safetyCode(baseKey) {
  const bytes = await expand(baseKey, new TextEncoder().encode(SAFETY_LABEL), 16);
  const number = readBytes(bytes) % 10n ** BigInt(SAFETY_DIGITS);
  return number.toString().padStart(SAFETY_DIGITS, '0').replace(/\d{4}(?=\d)/g, '$& ');
}

/** One stream's encryption. */
export class Sealer {
  #kid;
  #ctr = 0n;
  #keys;

  /**
   * @param {CryptoKey} baseKey from {@link importBaseKey}
   * @param {bigint} [kid] only tests choose it: a KID must never be used for two streams
   */
  constructor(baseKey, kid = crypto.getRandomValues(new BigUint64Array(1))[0]) {
    this.#kid = kid;
    this.#keys = streamKeys(baseKey, kid, ['encrypt']);
  }

  /**
   * Encrypts one frame, all of it.
   *
   * @param {BufferSource} plaintext
   * @param {{ctr?: bigint, metadata?: Uint8Array}} [fixed] for test vectors only
   * @returns {Promise<Uint8Array>} header, ciphertext and tag
   */
  async seal(plaintext, { ctr = this.#ctr++, metadata = new Uint8Array(0) } = {}) {
    const { key, salt } = await this.#keys;
    const header = encodeHeader(this.#kid, ctr);
    const sealed = await crypto.subtle.encrypt(
      { name: 'AES-GCM', iv: nonce(salt, ctr), additionalData: concat(header, metadata), tagLength: TAG_LEN * 8 },
      key,
      plaintext,
    );
    return concat(header, new Uint8Array(sealed));
  }
}

/** Keys of all streams that are received, derived when a KID is first seen. Share one among all receivers. */
export class KeyRing {
  #baseKey;
  /** @type {Map<bigint, {keys: Promise<object>, newest: bigint}>} the least recently used first */
  #proven = new Map();
  /** The last KID that has opened nothing yet. One only: invented KIDs must not push proven ones out. */
  #candidate = null;

  /** @param {CryptoKey} baseKey from {@link importBaseKey} */
  constructor(baseKey) {
    this.#baseKey = baseKey;
  }

  /** How many KIDs are remembered, for tests. */
  get size() {
    return this.#proven.size;
  }

  /**
   * Opens one frame.
   *
   * @param {Uint8Array} frame header, ciphertext and tag
   * @param {'audio' | 'video'} kind decides how late it may be, see {@link COUNTER_LAG_MAX}
   * @param {Uint8Array} [metadata] for test vectors only
   * @returns {Promise<Uint8Array | null>} null when it does not authenticate, or is too old
   */
  async open(frame, kind, metadata = new Uint8Array(0)) {
    const header = decodeHeader(frame);
    if (header === null || frame.length < header.length + TAG_LEN) return null;
    const stream = this.#stream(header.kid);
    if (header.ctr + COUNTER_LAG_MAX[kind] < stream.newest) return null;
    const { key, salt } = await stream.keys;
    const additionalData = concat(frame.subarray(0, header.length), metadata);
    let plaintext;
    try {
      plaintext = await crypto.subtle.decrypt(
        { name: 'AES-GCM', iv: nonce(salt, header.ctr), additionalData, tagLength: TAG_LEN * 8 },
        key,
        frame.subarray(header.length),
      );
    } catch {
      return null;
    }
    if (header.ctr > stream.newest) stream.newest = header.ctr;
    this.#remember(header.kid, stream);
    return new Uint8Array(plaintext);
  }

  #stream(kid) {
    const known = this.#proven.get(kid);
    if (known !== undefined) return known;
    if (this.#candidate?.kid !== kid) {
      this.#candidate = { kid, stream: { keys: streamKeys(this.#baseKey, kid, ['decrypt']), newest: 0n } };
    }
    return this.#candidate.stream;
  }

  #remember(kid, stream) {
    this.#proven.delete(kid);
    this.#proven.set(kid, stream);
    if (this.#proven.size > KEYS_MAX) this.#proven.delete(this.#proven.keys().next().value);
  }
}

async function streamKeys(baseKey, kid, usages) {
  const { key, salt } = await deriveKeySalt(baseKey, kid);
  return { key: await crypto.subtle.importKey('raw', key, 'AES-GCM', false, usages), salt };
}

async function expand(baseKey, info, length) {
  const parameters = { name: 'HKDF', hash: 'SHA-256', salt: new Uint8Array(0), info };
  return new Uint8Array(await crypto.subtle.deriveBits(parameters, baseKey, length * 8));
}

/** The label, the KID as eight bytes, the cipher suite as two. */
function label(text, kid) {
  const numbers = new DataView(new ArrayBuffer(10));
  numbers.setBigUint64(0, kid);
  numbers.setUint16(8, CIPHER_SUITE);
  return concat(new TextEncoder().encode(text), new Uint8Array(numbers.buffer));
}

/** The salt, combined with the counter by exclusive or (RFC 9605, section 4.4.3). */
function nonce(salt, ctr) {
  const iv = salt.slice();
  const low = new DataView(iv.buffer, SALT_LEN - 8);
  low.setBigUint64(0, low.getBigUint64(0) ^ ctr);
  return iv;
}

function minimalBytes(value) {
  const hex = value.toString(16);
  const even = hex.padStart(hex.length + (hex.length % 2), '0');
  return even.match(/../g).map((byte) => Number.parseInt(byte, 16));
}

function readBytes(bytes) {
  return bytes.reduce((value, byte) => (value << 8n) | BigInt(byte), 0n);
}

function concat(first, second) {
  const joined = new Uint8Array(first.length + second.length);
  joined.set(first);
  joined.set(second, first.length);
  return joined;
}
