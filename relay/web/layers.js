/**
 * Sends what somebody looks at, and nothing else: switches the encodings of simulcast on and off as the relay's
 * `layers` events say. Used by `session.js`.
 *
 * @module layers
 */

/** Attempts at one change: parameters may not be settled while a negotiation is under way. */
const ATTEMPTS_MAX = 3;

/**
 * @typedef {object} WantedLayers what is wanted of a source
 * @property {string} source
 * @property {?number} height the largest that anybody has room for, in pixels; null: as large as it can be
 * @property {Array<{rid: string, wanted: boolean}>} encodings empty when it has one without a name
 */

/** What is wanted of everything a session sends. */
export class Layers {
  /** @type {(source: string) => RTCRtpSender | undefined} */
  #senderOf;
  /** @type {Map<string, Map<string, boolean>>} whether an encoding is wanted, by source and name */
  #wanted = new Map();
  /** A sender takes one change at a time: those for one source wait for each other. */
  #changes = new Map();

  /** @param {(source: string) => RTCRtpSender | undefined} senderOf */
  constructor(senderOf) {
    this.#senderOf = senderOf;
  }

  /**
   * Takes what a `layers` event says. Sources that are not named stay as they are.
   *
   * @param {WantedLayers[]} sources
   * @returns {Promise<void>} when all of it is done, or was overtaken by what came later
   */
  async want(sources) {
    for (const { source, encodings } of sources) {
      // An encoding without a name is all there is: it goes on.
      if (encodings.length === 0) continue;
      this.#wanted.set(source, new Map(encodings.map(({ rid, wanted }) => [rid, wanted])));
      const change = (this.#changes.get(source) ?? Promise.resolve()).then(() => this.#apply(source));
      this.#changes.set(source, change);
    }
    await Promise.all(this.#changes.values());
  }

  async #apply(source) {
    for (let attempt = 0; attempt < ATTEMPTS_MAX; attempt += 1) {
      const sender = this.#senderOf(source);
      const parameters = sender?.getParameters();
      // The latest word counts, also when several came while a change was under way.
      const wanted = this.#wanted.get(source);
      const differs = ({ rid, active }) => wanted.has(rid) && wanted.get(rid) !== active;
      if (!parameters?.encodings?.some(differs)) return;
      for (const encoding of parameters.encodings) encoding.active = wanted.get(encoding.rid) ?? encoding.active;
      try {
        await sender.setParameters(parameters);
        return;
      } catch {
        // Read anew and tried again: something else changed the sender between reading and writing.
      }
    }
  }
}
