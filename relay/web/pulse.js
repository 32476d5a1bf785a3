/**
 * Notices that a steady stream stopped. Used by `trunkline-client.js`, because browsers take long to.
 *
 * @module pulse
 */

/** How long nothing may come after something came all the time. Less takes a hiccup for the end. */
const QUIET_MS = 1_500;
/** Looks in a row at which something was new, that make a steady stream: a connection on which only connectivity checks
 * come, each two and a half seconds, is none. */
const STEADY_LOOKS = 4;
/** What counts at most between two looks: pages sleep, and have not looked then. */
const LOOK_MS_MAX = 1_000;

export class Pulse {
  #signs = null;
  #looked = 0;
  #steady = 0;
  #quietMs = 0;

  /** Begins anew: only what is steady from now on can stop. */
  stop() {
    this.#signs = null;
    this.#steady = 0;
    this.#quietMs = 0;
  }

  /**
   * Looks, about twice a second.
   *
   * @param {number} now milliseconds
   * @param {number} signs grows whenever something comes
   * @returns {boolean} whether a steady stream has stopped; said once
   */
  look(now, signs) {
    const isNew = this.#signs !== null && signs > this.#signs;
    const since = Math.min(now - this.#looked, LOOK_MS_MAX);
    this.#quietMs = isNew || this.#signs === null ? 0 : this.#quietMs + since;
    this.#signs = signs;
    this.#looked = now;
    if (isNew) this.#steady += 1;
    else if (this.#steady < STEADY_LOOKS) this.#steady = 0;
    if (this.#steady < STEADY_LOOKS || this.#quietMs < QUIET_MS) return false;
    this.stop();
    return true;
  }
}
