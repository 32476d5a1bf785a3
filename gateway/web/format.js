/**
 * Numbers, times and names as people read them. Pure, so that `test/units.js` can try it anywhere.
 *
 * @module format
 */

const SECOND = 1000;
const MINUTE = 60 * SECOND;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;

const whole = new Intl.NumberFormat('en-GB', { maximumFractionDigits: 0 });
const NONE = '–';
/** The last moment that a `Date` holds. */
const MOMENT_MAX = 8.64e15;

/** A count, with separators. */
export function count(value) {
  return value === null || value === undefined ? NONE : whole.format(value);
}

/** A count and its noun: `1 envelope`, `2 envelopes`. */
export function counted(value, one, many = `${one}s`) {
  return `${count(value)} ${value === 1 ? one : many}`;
}

/** What a table says about a name that came from elsewhere; nothing for names that every object knows, like `constructor`. */
export function lookup(table, name) {
  return Object.hasOwn(table, name) ? table[name] : undefined;
}

/** Whether a number is a moment that dates can hold: others may say anything. */
export function isMoment(at) {
  return Number.isFinite(at) && at !== 0 && Math.abs(at) <= MOMENT_MAX;
}

/** A sentence begins with a capital letter. */
export function sentence(text) {
  return text.charAt(0).toUpperCase() + text.slice(1);
}

/** A list in a sentence: `a, b and c`; from `most` on the rest is counted. */
export function list(names, most = 4) {
  if (names.length === 0) return 'none';
  const shown = names.length > most ? [...names.slice(0, most - 1), `${names.length - most + 1} more`] : names;
  return shown.length === 1 ? shown[0] : `${shown.slice(0, -1).join(', ')} and ${shown.at(-1)}`;
}

/** Bytes, in units of 1024. */
export function bytes(value) {
  if (value === null || value === undefined) return NONE;
  let [rest, unit] = [value, 0];
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  while (rest >= 1024 && unit < units.length - 1) [rest, unit] = [rest / 1024, unit + 1];
  return `${unit === 0 || rest >= 100 ? whole.format(rest) : rest.toFixed(1)} ${units[unit]}`;
}

/** A rate per second: small ones keep a decimal, so that they do not look like nothing. */
export function rate(value) {
  if (value === null || value === undefined) return NONE;
  if (value > 0 && value < 0.1) return '< 0.1';
  return value < 10 && value % 1 !== 0 ? value.toFixed(1) : short(value);
}

/** A number in little room: `12`, `1.2 k`, `3.4 M`. */
export function short(value) {
  if (value === null || value === undefined) return NONE;
  if (Math.abs(value) < 10_000) return whole.format(value);
  if (Math.abs(value) < 999_950) return `${trim(value / 1000)} k`;
  return `${trim(value / 1_000_000)} M`;
}

function trim(value) {
  return value >= 100 ? whole.format(value) : value.toFixed(1).replace(/\.0$/, '');
}

/** Milliseconds of a latency. */
export function latency(ms) {
  if (ms === null || ms === undefined) return NONE;
  if (ms === 0) return '0 ms';
  if (ms < 1) return '< 1 ms';
  if (ms < 10) return `${ms.toFixed(1).replace(/\.0$/, '')} ms`;
  return ms < 10_000 ? `${whole.format(ms)} ms` : `${trim(ms / 1000)} s`;
}

/** A share as percent. */
export function percent(share) {
  if (share === null || share === undefined) return NONE;
  const value = share * 100;
  if (value > 0 && value < 0.1) return '< 0.1 %';
  return value >= 10 || value % 1 === 0 ? `${whole.format(value)} %` : `${value.toFixed(1)} %`;
}

/** A length of time in its largest unit, or two where one would be coarse: `42 s`, `5 min`, `3 h 10 min`, `12 days`. */
export function span(ms) {
  if (ms === null || ms === undefined) return NONE;
  if (ms < MINUTE) return `${Math.max(0, Math.floor(ms / SECOND))} s`;
  if (ms < HOUR) return `${Math.floor(ms / MINUTE)} min`;
  if (ms < 2 * DAY) {
    const [hours, minutes] = [Math.floor(ms / HOUR), Math.floor((ms % HOUR) / MINUTE)];
    return minutes > 0 && hours < 10 ? `${hours} h ${minutes} min` : `${hours} h`;
  }
  return `${whole.format(Math.floor(ms / DAY))} days`;
}

/** How long ago. */
export function ago(at, now = Date.now()) {
  if (!at) return NONE;
  const ms = now - at;
  return ms < 2 * SECOND ? 'just now' : `${span(ms)} ago`;
}

/** A length of time that is left, to the nearest of what is told: a week less some seconds is `7 days`. */
export function left(ms) {
  const unit = ms < MINUTE ? SECOND : ms < 2 * DAY - 30 * SECOND ? MINUTE : DAY;
  return span(Math.round(ms / unit) * unit);
}

/** How long until, or since. */
export function until(at, now = Date.now()) {
  return at >= now ? `in ${left(at - now)}` : ago(at, now);
}

/** When something is done again: `in 5 s`, `now`. */
export function soon(at, now = Date.now()) {
  return at - now < SECOND ? 'now' : `in ${span(Math.ceil((at - now) / SECOND) * SECOND)}`;
}

/** Whole days until; below zero when it is past. */
export function daysLeft(at, now = Date.now()) {
  return Math.floor((at - now) / DAY);
}

/** A length of time a person set, in seconds: `30 days`, `8 h`, `never` for none. */
export function duration(seconds) {
  if (seconds === null || seconds === undefined) return NONE;
  const [amount, unit] = splitDuration(seconds);
  return `${whole.format(amount)} ${unit === 'days' && amount === 1 ? 'day' : unit}`;
}

/** Seconds in the largest unit that divides them: `[30, 'days']`. */
export function splitDuration(seconds) {
  for (const [unit, size] of Object.entries(UNITS)) {
    if (seconds >= size && seconds % size === 0) return [seconds / size, unit];
  }
  return [seconds, 's'];
}

/** Units of durations, in seconds, the largest first. */
export const UNITS = { days: 86_400, h: 3_600, min: 60, s: 1 };

/** A moment, in the reader's time zone, to the second. */
export function moment(at) {
  if (!isMoment(at)) return NONE;
  const date = new Date(at);
  const two = (value) => String(value).padStart(2, '0');
  return `${day(at)} ${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
}

/** A day, in the reader's time zone. */
export function day(at) {
  if (!isMoment(at)) return NONE;
  const date = new Date(at);
  const two = (value) => String(value).padStart(2, '0');
  return `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;
}

/** A pin in groups of four, for reading aloud. */
export function pinGroups(pin) {
  return pin.replace(/=+$/, '').match(/.{1,4}/g) ?? [];
}

/** The first of a pin, where there is no room. */
export function pinShort(pin) {
  return `${pin.slice(0, 8)}…`;
}

/** Names in a text: separated by spaces, commas or lines; each once, in lower case unless `keepCase`. */
export function words(text, keepCase = false) {
  const found = text.split(/[\s,;]+/).filter((word) => word !== '').map((word) => (keepCase ? word : word.toLowerCase()));
  return [...new Set(found)];
}

/** Whether a text is a domain name, as the gateway takes them. */
export function isDomain(text) {
  return text.length <= 253 && /^(?!-)[a-z0-9_-]{1,63}(?<!-)(\.(?!-)[a-z0-9_-]{1,63}(?<!-))*$/i.test(text);
}

/** Whether a text is an address, as the gateway takes them. */
export function isAddress(text) {
  const at = text.lastIndexOf('@');
  return at > 0 && text.length <= 320 && !/[\s@]/.test(text.slice(0, at)) && isDomain(text.slice(at + 1));
}

/** Whether a text is a network's id. */
export function isNetworkId(text) {
  return /^[a-z0-9_-]{1,64}$/.test(text);
}

/** Whether a text is host:port. */
export function isEndpoint(text) {
  const [, host, port] = /^(.+):(\d{1,5})$/.exec(text) ?? [];
  return host !== undefined && Number(port) > 0 && Number(port) < 65_536 && (/^\[[0-9a-f:.]+\]$/i.test(host) || isDomain(host));
}

/** Whether a peer that is not connected is so because its operator paused the peering. */
export function isPausedThere({ state, link, last_error: text }) {
  return state !== 'paused' && link !== 'up' && link !== 'alarm' && /^the peer closed the link \(paused\)/.test(text ?? '');
}

/**
 * What went wrong with a link last, as people understand it. Of a pause it says who paused: the gateway hands on the
 * words of either side, which call the one who speaks "its operator".
 */
export function errorWords({ domain, state, last_error: text }) {
  if (!text) return text;
  if (/^the peer closed the link \(paused\)/.test(text)) return `paused by ${domain}’s operator`;
  if (!/^we (refused the peer's link|closed the link): this peering is paused by its operator$/.test(text)) return text;
  return state === 'paused' || state === undefined ? 'paused here' : 'was paused here when it was last tried';
}
