/**
 * What the page says about states and reasons, in sentences.
 *
 * @module words
 */

/** Names of reasons, as docs/API.md lists them under Problems. */
const REASONS = {
  'sender-domain': 'your address does not belong to your deployment',
  'unknown-domain': 'your deployment is not peered with theirs',
  'federation-disabled': 'one of the two networks does not federate',
  'not-permitted': 'one of the two networks is restricted, and does not permit the other',
  guest: 'guests may not write there',
  blocked: 'one of the two addresses is blocked',
  quota: 'too much waits for their deployment already',
  'disk-full': 'your deployment has no room left on its disk',
  storage: 'your deployment can store nothing just now',
  expired: 'its time was over',
  purged: 'an operator threw it away',
};

/** A reason as part of a sentence. */
export function reasonText(reason) {
  return REASONS[reason] ?? (reason || 'no reason was given');
}

/** Milliseconds apart from which the times of writing and of arrival are both said. */
const LATE_MS = 60_000;
/** From here on the day is said, too. */
const DAY_MS = 12 * 3_600_000;
/** As in the consoles: 24 hours, midnight is 00:00. */
const TIME = { hour: '2-digit', minute: '2-digit', hourCycle: 'h23' };

/**
 * When a message came, and when it was written if that is another time.
 *
 * @param {{at: number, sent?: ?number}} message
 */
export function timeText({ at, sent }) {
  const text = new Date(at).toLocaleTimeString([], TIME);
  // What another page says need not be a time.
  if (!Number.isFinite(sent) || Number.isNaN(new Date(sent).getTime()) || Math.abs(at - sent) <= LATE_MS) return text;
  const day = Math.abs(at - sent) > DAY_MS ? { day: 'numeric', month: 'short' } : {};
  return `${text}, sent ${new Date(sent).toLocaleString([], { ...TIME, ...day })}`;
}

/**
 * The mark of one's own message.
 *
 * @returns {{icon: string, text: string, bad: boolean}}
 */
export function mark({ state, reason }, contact) {
  const domain = contact.address.split('@')[1];
  const marks = {
    waiting: ['clock', contact.newKey ? 'Waiting until you accept the new key' : `Waiting until ${contact.name} opens the page`],
    sending: ['clock', 'Sending'],
    sent: ['sent', `Waiting for ${domain}`],
    delivered: ['delivered', 'Delivered'],
    refused: ['refused', `Refused: ${reasonText(reason)}`, true],
    expired: ['clock', `Expired: ${domain} was not reached in time`, true],
    purged: ['refused', 'Thrown away by an operator', true],
    failed: ['warning', `Not sent: ${reason}`, true],
  };
  const [icon, text, bad = false] = marks[state] ?? ['warning', state, true];
  return { icon, text, bad };
}
