/**
 * The worker in which frames are encrypted and opened, between encoder and packetizer, and between depacketizer and
 * decoder. `trunkline-client.js` makes one per call.
 *
 * Messages in: `{baseKey: CryptoKey}` first, `{stats: id}` any time. Messages out: `{stats: id, sealed, opened,
 * dropped}`, and `{failing: label, state: boolean}` when a stream begins or ceases to be unreadable.
 * A transform's options are `{direction: 'send' | 'receive', kind: 'audio' | 'video', label: string}`.
 */
import { KeyRing, Sealer } from './sframe.js';

/** Frames in a row that do not open before a stream is called unreadable. More is slower to tell, less cries wolf. */
const FAILING_AFTER = 10;

const counts = { sealed: 0, opened: 0, dropped: 0 };

let giveKey;
/** Frames that come before the key wait for it. */
const baseKey = new Promise((resolve) => {
  giveKey = resolve;
});
const keyRing = baseKey.then((key) => new KeyRing(key));

self.onmessage = ({ data }) => {
  if (data.baseKey) giveKey(data.baseKey);
  if (data.stats !== undefined) self.postMessage({ stats: data.stats, ...counts });
};

self.onrtctransform = ({ transformer }) => {
  const { direction, kind, label } = transformer.options;
  const transform = direction === 'send' ? sealing() : opening(kind, label);
  // It ends with its sender or receiver; there is nobody to tell.
  transformer.readable.pipeThrough(transform).pipeTo(transformer.writable).catch(() => {});
};

function sealing() {
  const sealer = baseKey.then((key) => new Sealer(key));
  return new TransformStream({
    async transform(frame, controller) {
      const sealed = await (await sealer).seal(frame.data);
      frame.data = sealed.buffer;
      counts.sealed += 1;
      controller.enqueue(frame);
    },
  });
}

function opening(kind, label) {
  let failures = 0;
  const tell = (state) => self.postMessage({ failing: label, state });
  return new TransformStream({
    async transform(frame, controller) {
      const plaintext = await (await keyRing).open(new Uint8Array(frame.data), kind);
      if (plaintext === null) {
        counts.dropped += 1;
        failures += 1;
        if (failures === FAILING_AFTER) tell(true);
        return;
      }
      if (failures >= FAILING_AFTER) tell(false);
      failures = 0;
      frame.data = plaintext.buffer;
      counts.opened += 1;
      controller.enqueue(frame);
    },
  });
}
