/**
 * Who is pinned to which slot, and how high each slot's picture is shown: what a relay is told, and told again when the
 * connection was made anew. Used by `trunkline-client.js`.
 *
 * @module pins
 */
export class Pins {
  /** @type {Map<string, {participant: string, source?: string}>} by slot */
  #pins = new Map();
  /** @type {Map<string, number>} by slot, in pixels */
  #heights = new Map();

  /** Pins a participant, or without one nobody any more. The height stays when none is given. */
  set({ slot, participant, source, height }) {
    if (participant) this.#pins.set(slot, { participant, source });
    else this.#pins.delete(slot);
    if (height) this.#heights.set(slot, height);
  }

  /**
   * @param {string} slot
   * @param {number} height
   * @returns {boolean} whether that is new
   */
  setHeight(slot, height) {
    if (this.#heights.get(slot) === height) return false;
    this.#heights.set(slot, height);
    return true;
  }

  /** Forgets pins of those who are not there any more, as the relay does. */
  retain(isThere) {
    for (const [slot, { participant }] of this.#pins) {
      if (!isThere(participant)) this.#pins.delete(slot);
    }
  }

  /** What the relay is told of a slot: with nobody pinned, the height alone. */
  request(slot) {
    const { participant = null, source = null } = this.#pins.get(slot) ?? {};
    return { pin: { slot, participant, source, height: this.#heights.get(slot) ?? null } };
  }

  /** What a relay is told that knows nothing yet. */
  requests() {
    return [...new Set([...this.#pins.keys(), ...this.#heights.keys()])].map((slot) => this.request(slot));
  }
}
