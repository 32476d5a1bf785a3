/**
 * Claims of `sealed.js`, and the vectors that other implementations are held against (`loadtest/tests/data/sealed.json`).
 * Runs in any browser, and in Node:
 * `node -e "import('./loadtest/web/test/sealed.js').then(async ({ run }) => console.log(await run()))"`
 *
 * @module test/sealed
 */
import * as sealed from '../sealed.js';

/** Key pairs of the vectors, and of nobody. */
const ANN = {
  d: 'WTu55pkk9PMqEx-GaKQKhN4htR4hw_ShmZGGb6g9Dhk',
  x: '7gHqPsjC84twMitSswP8Z6CPSi8B8eEFQsX-ZgEYjHI',
  y: 'F-HtrMxYlaRFYxZxZYtbw_fTB-TQCz-d2MxvjRwP984',
};
const BEN = {
  d: 'oup8TthdGa3dmcVbSPY1g382IsRD9zmuddJhHwUIkEo',
  x: 'Eipikfxzuxlne_uQLk6l3OwkD2zuvmYV3S4CGSek8xI',
  y: '0k_PM8hd6gsjPPFXsDuZczyBOagegwVXCqwSKItQSaU',
};

/** Makes the vectors. They are the same each time. */
export async function vectors() {
  const [ann, ben] = [await identity(ANN), await identity(BEN)];
  const [from, to, counter] = ['ann@alpha.test', 'ben@beta.test', 258];
  const conversation = await sealed.conversationOf(from, to);
  const bound = { kind: 'message', conversation, from, to, id: '8c0d5c3e-7d4b-4f4e-9a39-0d5d7bfb4b11' };
  const plain = JSON.stringify({ text: 'Grüße 👋' });
  const salt = Uint8Array.from({ length: 32 }, (_, at) => 7 * at);
  const payload = await sealed.seal(ann, ben.publicKey, bound, counter, plain, salt);
  const person = (keys, { publicKey }) => ({ private: keys.d, public: sealed.toBase64Url(publicKey) });
  const safety = await sealed.safetyNumber(
    { address: from, publicKey: ann.publicKey },
    { address: to, publicKey: ben.publicKey },
  );
  return {
    ann: person(ANN, ann), ben: person(BEN, ben), bound, counter, plain, payload: sealed.toBase64Url(payload), safety,
  };
}

/** Runs all claims. @returns {Promise<string[]>} those that do not hold */
export async function run() {
  const failures = [];
  const claim = (text, holds) => holds || failures.push(text);
  const refuses = async (attempt) => attempt.then(() => false, () => true);
  const [ann, ben] = [await sealed.makeIdentity(), await sealed.makeIdentity()];
  const bound = { kind: 'message', conversation: 'c', from: 'ann@alpha.test', to: 'ben@beta.test', id: 'i' };
  const payload = await sealed.seal(ann, ben.publicKey, bound, 1, 'hello');
  const { counter, text } = await sealed.open(ben, ann.publicKey, bound, payload);
  claim('what is sealed opens', counter === 1 && text === 'hello');
  for (const name of Object.keys(bound)) {
    const other = { ...bound, [name]: `${bound[name]}x` };
    claim(`${name} is bound`, await refuses(sealed.open(ben, ann.publicKey, other, payload)));
  }
  for (let at = 0; at < payload.length; at += 1) {
    const changed = payload.slice();
    changed[at] ^= 1;
    claim(`byte ${at} is authenticated`, await refuses(sealed.open(ben, ann.publicKey, bound, changed)));
  }
  const notice = await sealed.readKeyNotice(sealed.writeKeyNotice(ann.publicKey, true));
  claim('a key notice reads as it was written', notice.ask && sealed.toBase64(notice.publicKey) === sealed.toBase64(ann.publicKey));
  const noPoint = ann.publicKey.slice();
  noPoint[64] ^= 1;
  claim('what is no point of the curve is no key', await refuses(sealed.readKeyNotice(sealed.writeKeyNotice(noPoint, false))));
  return failures;
}

async function identity(keys) {
  const jwk = { kty: 'EC', crv: 'P-256', ...keys };
  const privateKey = await crypto.subtle.importKey('jwk', jwk, { name: 'ECDH', namedCurve: 'P-256' }, false, ['deriveBits']);
  const publicKey = Uint8Array.from([4, ...sealed.fromBase64(keys.x), ...sealed.fromBase64(keys.y)]);
  return { privateKey, publicKey };
}
