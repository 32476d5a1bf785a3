/**
 * What `sframe.js` promises. `run()` gives the claims that do not hold; it needs a browser, or Node.js 20:
 * `node -e "import('./relay/web/test/sframe.js').then(async ({ run }) => console.log(await run()))"`.
 * The vectors are those of RFC 9605, appendix C.
 */
import {
  KEYS_MAX,
  KeyRing,
  Sealer,
  decodeHeader,
  deriveKeySalt,
  encodeHeader,
  importBaseKey,
  safetyCode,
} from '../sframe.js';

const claims = [];
const test = (claim, body) => claims.push([claim, body]);

/**
 * Tries every claim.
 *
 * @returns {Promise<{held: number, failures: string[]}>}
 */
export async function run() {
  const failures = [];
  for (const [claim, body] of claims) {
    try {
      await body();
    } catch (error) {
      failures.push(`${claim}: ${error.message}`);
    }
  }
  return { held: claims.length - failures.length, failures };
}

const bytes = (text) => Uint8Array.from(text.match(/../g) ?? [], (byte) => Number.parseInt(byte, 16));
const hex = (array) => [...array].map((byte) => byte.toString(16).padStart(2, '0')).join('');

function equal(found, expected, about = '') {
  if (found !== expected) throw new Error(`${about} expected ${expected}, found ${found}`);
}

async function opens(ring, frame, kind, plaintext, metadata) {
  const opened = await ring.open(frame, kind, metadata);
  equal(opened && hex(opened), hex(plaintext));
}

async function staysShut(ring, frame, kind, about) {
  equal(await ring.open(frame, kind), null, about);
}

async function refused(promise) {
  const error = await promise.then(() => null, (reason) => reason);
  equal(error instanceof RangeError, true, `RangeError, not ${error}`);
}

const headers = [
  [0x0n, 0x0001000000000000n, '0e01000000000000'],
  [0x0n, 0x00ffffffffffffffn, '0effffffffffffff'],
  [0x0n, 0x0100000000000000n, '0f0100000000000000'],
  [0x0n, 0xffffffffffffffffn, '0fffffffffffffffff'],
  [0x1n, 0x0n, '10'],
  [0x1n, 0x1n, '11'],
  [0x1n, 0xffn, '18ff'],
  [0x1n, 0x100n, '190100'],
  [0x1n, 0xffffn, '19ffff'],
  [0x1n, 0x10000n, '1a010000'],
  [0x1n, 0xffffffn, '1affffff'],
  [0x1n, 0x1000000n, '1b01000000'],
  [0xffn, 0x0n, '80ff'],
  [0xffn, 0x1n, '81ff'],
  [0xffn, 0xffn, '88ffff'],
  [0xffn, 0x100n, '89ff0100'],
  [0x100n, 0x0n, '900100'],
  [0x100n, 0xffn, '980100ff'],
  [0x100n, 0x100n, '9901000100'],
  [0xffffn, 0x1000000n, '9bffff01000000'],
  [0x10000n, 0x10000n, 'aa010000010000'],
  [0xffffffn, 0xffn, 'a8ffffffff'],
  [0x1000000n, 0x100000000n, 'bc010000000100000000'],
  [0xffffffffn, 0x1n, 'b1ffffffff'],
  [0x100000000n, 0xffffn, 'c90100000000ffff'],
  [0xffffffffffn, 0x10000n, 'caffffffffff010000'],
  [0x0001000000000000n, 0x0100000000000000n, 'ef010000000000000100000000000000'],
  [0x00ffffffffffffffn, 0x100n, 'e9ffffffffffffff0100'],
  [0x0100000000000000n, 0x0n, 'f00100000000000000'],
  [0xffffffffffffffffn, 0x0100000000000000n, 'ffffffffffffffffff0100000000000000'],
  [0xffffffffffffffffn, 0xffffffffffffffffn, 'ffffffffffffffffffffffffffffffffff'],
];

// Appendix C.3, cipher suite 0x0004.
const vector = {
  kid: 0x0123n,
  ctr: 0x4567n,
  baseKey: bytes('000102030405060708090a0b0c0d0e0f'),
  key: 'd34f547f4ca4f9a7447006fe7fcbf768',
  salt: '75234edefe07819026751816',
  metadata: bytes('4945544620534672616d65205747'),
  plaintext: bytes('64726166742d696574662d736672616d652d656e63'),
  ciphertext: '9901234567b7412c2513a1b66dbb48841bbaf17f598751176ad847681a69c6d0b091c07018ce4adb34eb',
};

test('headers are those of the RFC, both ways', () => {
  for (const [kid, ctr, expected] of headers) {
    equal(hex(encodeHeader(kid, ctr)), expected);
    const header = decodeHeader(bytes(`${expected}00`));
    equal(header.kid, kid, expected);
    equal(header.ctr, ctr, expected);
    equal(header.length, expected.length / 2, expected);
  }
});

test('a frame that ends within its header is none', () => {
  for (const text of ['', '80', '88ff', 'ff0100000000000000ffffffffffffff']) {
    equal(decodeHeader(bytes(text)), null, text);
  }
});

test('keys and salts are those of the RFC', async () => {
  const { key, salt } = await deriveKeySalt(await importBaseKey(vector.baseKey), vector.kid);
  equal(hex(key), vector.key);
  equal(hex(salt), vector.salt);
});

test('the ciphertext is that of the RFC, and opens', async () => {
  const baseKey = await importBaseKey(vector.baseKey);
  const sealer = new Sealer(baseKey, vector.kid);
  const sealed = await sealer.seal(vector.plaintext, { ctr: vector.ctr, metadata: vector.metadata });
  equal(hex(sealed), vector.ciphertext);
  await opens(new KeyRing(baseKey), sealed, 'video', vector.plaintext, vector.metadata);
});

test('every frame of a stream has another counter, and every stream another key', async () => {
  const baseKey = await importBaseKey(vector.baseKey);
  const seen = new Set();
  for (let stream = 0; stream < 20; stream += 1) {
    const sealer = new Sealer(baseKey);
    for (let frame = 0; frame < 20; frame += 1) {
      const { kid, ctr } = decodeHeader(await sealer.seal(vector.plaintext));
      equal(ctr, BigInt(frame));
      seen.add(`${kid} ${ctr}`);
    }
  }
  equal(seen.size, 400);
});

test('nothing opens with another key, with a changed byte, or cut short', async () => {
  const baseKey = await importBaseKey(vector.baseKey);
  const sealed = await new Sealer(baseKey).seal(vector.plaintext);
  const other = new KeyRing(await importBaseKey(bytes('ff'.repeat(16))));
  await staysShut(other, sealed, 'video');
  const ring = new KeyRing(baseKey);
  for (let at = 0; at < sealed.length; at += 1) {
    const changed = sealed.slice();
    changed[at] ^= 1;
    await staysShut(ring, changed, 'video', `byte ${at}`);
    await staysShut(ring, sealed.subarray(0, at), 'video', `length ${at}`);
  }
  equal(ring.size, 0, 'what opened nothing is not remembered');
  await opens(ring, sealed, 'video', vector.plaintext);
});

test('frames far behind the newest are not played again', async () => {
  const baseKey = await importBaseKey(vector.baseKey);
  const sealer = new Sealer(baseKey, 9n);
  const ring = new KeyRing(baseKey);
  const frame = (ctr) => sealer.seal(vector.plaintext, { ctr });
  await opens(ring, await frame(1000n), 'audio', vector.plaintext);
  await opens(ring, await frame(744n), 'audio', vector.plaintext);
  await staysShut(ring, await frame(743n), 'audio', 'too late');
});

test('a bounded number of keys is remembered', async () => {
  const baseKey = await importBaseKey(vector.baseKey);
  const ring = new KeyRing(baseKey);
  for (let kid = 0n; kid < KEYS_MAX + 10; kid += 1n) {
    await opens(ring, await new Sealer(baseKey, kid).seal(vector.plaintext), 'audio', vector.plaintext);
  }
  equal(ring.size, KEYS_MAX);
});

test('a safety code has twelve digits and belongs to one key', async () => {
  const code = await safetyCode(await importBaseKey(vector.baseKey));
  equal(/^\d{4} \d{4} \d{4}$/.test(code), true, code);
  equal(code, await safetyCode(await importBaseKey(vector.baseKey)));
  equal(code === (await safetyCode(await importBaseKey(bytes('ff'.repeat(16))))), false, 'another key');
});

test('keys that are too short or too long are refused', async () => {
  await refused(importBaseKey(new Uint8Array(15)));
  await refused(importBaseKey(new Uint8Array(65)));
});
