/**
 * End-to-end encryption of a call's media: one worker, and a transform for every sender and receiver. Used by
 * `trunkline-client.js`; what happens in the worker stands in `sframe-worker.js`.
 *
 * @module encryption
 */
import { importBaseKey } from './sframe.js';

/** Whether this browser can encrypt frames. */
export function canEncrypt() {
  return 'RTCRtpScriptTransform' in globalThis;
}

/** The encryption of one call. */
export class FrameEncryption {
  #worker;
  #waiting = new Map();
  #asked = 0;

  /**
   * @param {Uint8Array} key base key, 16 to 64 random bytes
   * @param {(label: string, state: boolean) => void} onFailing told when frames of a receiver, named as in
   *   {@link FrameEncryption#receive}, cannot be opened any more, or can again
   * @throws {RangeError} when the key is too short or too long
   * @throws {Error} when this browser cannot encrypt
   */
  static async start(key, onFailing) {
    if (!canEncrypt()) throw new Error('this browser cannot encrypt calls end to end');
    return new FrameEncryption(await importBaseKey(key), onFailing);
  }

  /** @private see {@link FrameEncryption.start} */
  constructor(baseKey, onFailing) {
    this.#worker = new Worker(new URL('./sframe-worker.js', import.meta.url), { type: 'module', name: 'sframe' });
    this.#worker.postMessage({ baseKey });
    this.#worker.onmessage = ({ data: { stats, failing, state, ...counts } }) => {
      if (failing !== undefined) onFailing(failing, state);
      this.#waiting.get(stats)?.(counts);
      this.#waiting.delete(stats);
    };
  }

  /**
   * Encrypts all that a sender sends. Call it in the same task in which the transceiver was made: Chromium ignores
   * transforms that come later, and sends in clear.
   *
   * @param {RTCRtpSender} sender
   * @param {'audio' | 'video'} kind
   * @param {string} label
   */
  send(sender, kind, label) {
    sender.transform = new RTCRtpScriptTransform(this.#worker, { direction: 'send', kind, label });
  }

  /**
   * Lets only frames that open through to what a receiver plays.
   *
   * @param {RTCRtpReceiver} receiver
   * @param {'audio' | 'video'} kind
   * @param {string} label
   */
  receive(receiver, kind, label) {
    receiver.transform = new RTCRtpScriptTransform(this.#worker, { direction: 'receive', kind, label });
  }

  /**
   * Counts frames since the call began.
   *
   * @returns {Promise<?{sealed: number, opened: number, dropped: number}>} null when it was stopped meanwhile
   */
  counts() {
    this.#asked += 1;
    const stats = this.#asked;
    this.#worker.postMessage({ stats });
    return new Promise((resolve) => {
      this.#waiting.set(stats, resolve);
    });
  }

  /** Ends it. */
  stop() {
    this.#worker.terminate();
    for (const settle of this.#waiting.values()) settle(null);
    this.#waiting.clear();
  }
}
