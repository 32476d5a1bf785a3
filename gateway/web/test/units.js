/**
 * What the parts promise that need no page. `run()` gives the claims that do not hold; it needs a browser, or
 * Node.js 20: `node -e "import('./gateway/web/test/units.js').then(async ({ run }) => console.log(await run()))"`.
 */
import { problemOf } from '../api.js';
import { attention } from '../attention.js';
import { blame } from '../form.js';
import * as format from '../format.js';
import { sum } from '../live.js';
import { passwordRules } from '../password.js';
import { qrPath } from '../qr.js';
import { area, ceiling, condense, path, ticks } from '../scale.js';

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

function equal(found, expected) {
  const [left, right] = [JSON.stringify(found), JSON.stringify(expected)];
  if (left !== right) throw new Error(`${left} is not ${right}`);
}

const DAY = 86_400_000;
const NOW = 1_795_298_625_000;

test('bytes and rates keep a decimal only where it tells something', () => {
  equal([0, 1023, 1024, 1536, 150 * 1024, 3 * 1024 ** 3].map(format.bytes), ['0 B', '1,023 B', '1.0 KiB', '1.5 KiB', '150 KiB', '3.0 GiB']);
  equal([0, 0.04, 0.5, 7, 42.4, 12_345, 2_000_000, null].map(format.rate), ['0', '< 0.1', '0.5', '7', '42', '12.3 k', '2 M', '–']);
  equal([0, 0.0004, 0.013, 0.5, 1, null].map(format.percent), ['0 %', '< 0.1 %', '1.3 %', '50 %', '100 %', '–']);
  equal([0, 0.3, 4.2, 250, 12_000, null].map(format.latency), ['0 ms', '< 1 ms', '4.2 ms', '250 ms', '12 s', '–']);
});

test('spans are told in one unit, or two where one is coarse', () => {
  equal([-5, 900, 59_000, 125_000, 3_600_000, 5_400_000, 11 * 3_600_000 + 60_000, 3 * DAY].map(format.span), ['0 s', '0 s', '59 s', '2 min', '1 h', '1 h 30 min', '11 h', '3 days']);
  equal([format.ago(NOW - 500, NOW), format.ago(NOW - 61_000, NOW), format.until(NOW + 61_000, NOW)], ['just now', '1 min ago', 'in 1 min']);
  equal([format.daysLeft(NOW + 3 * DAY + 1, NOW), format.daysLeft(NOW - 1, NOW)], [3, -1]);
});

test('a duration is split into the largest unit that divides it', () => {
  equal([86_400, 90_000, 3_600, 90, 61, 0].map(format.splitDuration), [[1, 'days'], [25, 'h'], [1, 'h'], [90, 's'], [61, 's'], [0, 's']]);
  equal([86_400, 172_800, 5_400].map(format.duration), ['1 day', '2 days', '90 min']);
});

test('what is left is told to the nearest, and what comes at once is now', () => {
  equal([7 * DAY - 5_000, DAY - 5_000, 2 * DAY - 5_000, 90_000, 49_400].map(format.left), ['7 days', '24 h', '2 days', '2 min', '49 s']);
  equal([NOW - 5, NOW + 400, NOW + 1_000, NOW + 8_200].map((at) => format.soon(at, NOW)), ['now', 'now', 'in 1 s', 'in 9 s']);
});

test('a moment that no date can hold is none', () => {
  for (const at of [9e15, Number.MAX_SAFE_INTEGER * 4, -9e15, NaN, null, undefined, 0, 'soon']) equal([format.isMoment(at), format.moment(at), format.day(at)], [false, '–', '–']);
  equal(format.isMoment(NOW), true);
});

test('names that every object knows are not in a table', () => {
  equal(['constructor', '__proto__', 'toString', 'a', undefined].map((name) => format.lookup({ a: 1 }, name) ?? null), [null, null, null, 1, null]);
});

test('a pause says whose it is, and is no problem', () => {
  const there = { domain: 'b.test', state: 'active', link: 'down', last_error: 'the peer closed the link (paused): this peering is paused by its operator' };
  const here = { domain: 'b.test', state: 'paused', link: 'down', last_error: "we refused the peer's link: this peering is paused by its operator" };
  equal([there, here, { ...here, state: 'active' }, { ...here, last_error: 'no answer' }, { last_error: null }].map(format.errorWords),
    ['paused by b.test’s operator', 'paused here', 'was paused here when it was last tried', 'no answer', null]);
  equal([there, here, { ...there, link: 'up' }, { ...there, last_error: 'no answer' }].map(format.isPausedThere), [true, false, false, false]);
});

test('an axis is not made for few values far above the others', () => {
  const usual = Array.from({ length: 99 }, (_, index) => 10 + (index % 5));
  equal([ceiling([...usual, 68_000]), ceiling([...usual, 20]), ceiling([3, 9]), ceiling([]), ceiling([...usual.map(() => 0), 5])], [14, 20, 9, 0, 5]);
});

test('names in a sentence are counted when there are many', () => {
  equal([[], ['a'], ['a', 'b'], ['a', 'b', 'c', 'd', 'e', 'f']].map((names) => format.list(names)), ['none', 'a', 'a and b', 'a, b, c and 3 more']);
});

test('domains, addresses, networks and endpoints are taken as the gateway takes them', () => {
  equal(['a.test', 'xn--a.test', '-a.test', 'a..test', 'a test', ''].map(format.isDomain), [true, true, false, false, false, false]);
  equal(['a@b.test', 'a@b@c.test', '@b.test', 'a b@c.test', 'a@'].map(format.isAddress), [true, false, false, false, false]);
  equal(['main', 'a_b-1', 'Main', ''].map(format.isNetworkId), [true, true, false, false]);
  equal(['a.test:1', '[2001:db8::1]:8443', '192.0.2.1:8443', 'a.test', 'a.test:0', 'a.test:70000'].map(format.isEndpoint), [true, true, true, false, false, false]);
});

test('lists are read from any separators, each name once', () => {
  equal(format.words(' A.test, b.test\n\na.test;c.test '), ['a.test', 'b.test', 'c.test']);
  equal(format.words('Ann@a.test ann@a.test', true), ['Ann@a.test', 'ann@a.test']);
});

test('an axis ends at a round number that is not below the highest value', () => {
  equal(ticks(100), [0, 50, 100]);
  equal(ticks(47), [0, 20, 40, 60]);
  equal(ticks(0, true), [0, 1, 2, 3]);
  for (let most = 0.013; most < 1e7; most *= 1.7) {
    const marks = ticks(most);
    if (marks.at(-1) < most || marks.length > 5 || marks.length < 3) throw new Error(`${most}: ${marks}`);
  }
});

test('gaps interrupt a line and its area', () => {
  equal(path([[0, 1], [1, 2], null, [3, 4]]), 'M0.0 1.0L1.0 2.0M3.0 4.0');
  equal(area([[0, 1], [1, 2], null, [3, 4]], 9), 'M0.0 1.0L1.0 2.0L1.0 9L0.0 9Z');
});

test('condensed samples keep their means, and their groups as time goes on', () => {
  const samples = Array.from({ length: 600 }, (_, index) => ({ at: NOW + index * 2000, sent: index, latency_ms: index % 2 ? null : 10 }));
  const few = condense(samples, 150);
  if (few.length > 151) throw new Error(`${few.length} points`);
  equal(few.at(10).latency_ms, 10);
  const later = condense([...samples.slice(1), { at: NOW + 600 * 2000, sent: 600, latency_ms: null }], 150);
  equal(later.at(10).sent, few.find(({ at }) => at === later.at(10).at).sent);
});

test('the sum over peers takes growth, ignores newcomers’ past, and survives counters that begin anew', () => {
  const peer = (domain, sent, latency) => ({ domain, sent, received: 0, refused: 0, depth: 1, bytes: 2, oldest: null, latency_ms: latency });
  const before = [peer('a', 10, 5), peer('b', 50, null)];
  const total = sum(before, [peer('a', 14, 5), peer('b', 3, 15), peer('c', 900, null)]);
  equal([total.sent, total.depth, total.latency_ms], [4, 3, 10]);
});

test('problems find their field, in any of the forms the gateway writes', () => {
  const names = ['domain', 'endpoints', 'blocked'];
  equal(blame('endpoints[2]: expected host:port', names), { name: 'endpoints', text: 'Expected host:port' });
  equal(blame('`policy.blocked`: at most 100', names), { name: 'blocked', text: 'At most 100' });
  equal(blame('other: no', names), { name: null, text: 'Other: no' });
  equal(blame('there is a network `a` already', names), { name: null, text: 'There is a network `a` already' });
});

test('a problem document becomes an error; anything else says that it is none', () => {
  const answer = (status, headers = {}) => ({ status, headers: new Headers(headers) });
  const error = problemOf(answer(429, { 'Retry-After': '7' }), '{"type":"urn:trunkline:problem:too-many-requests","title":"t","detail":"wait"}');
  equal([error.type, error.detail, error.retryAfterS], ['too-many-requests', 'wait', 7]);
  equal(problemOf(answer(502), '<html>').type, 'unknown');
});

test('a password must be long enough, new, not the name, and entered twice', () => {
  const met = (entered) => passwordRules({ name: 'admin', old: 'old', fresh: '', repeated: '', ...entered }).map((rule) => rule.met);
  equal(met({}), [false, false, false, false]);
  equal(met({ fresh: 'correct horse', repeated: 'correct horse' }), [true, true, true, true]);
  equal(met({ fresh: 'ADMIN', repeated: 'x' }), [false, true, false, false]);
});

test('a QR code is drawn by runs', () => {
  equal(qrPath(['0110', '0000', '1001']), 'M1 0h2v1h-2zM0 2h1v1h-1zM3 2h1v1h-1z');
});

test('what needs attention comes in order of gravity, and a healthy deployment needs none', () => {
  const peer = (domain, extra) => ({ domain, state: 'active', link: 'up', outbox: { depth: 0, oldest: null }, claimed_domains: null, since: NOW, ...extra });
  const identity = { mode: 'pinned', current: { not_after: NOW + 90 * DAY }, next: null };
  const data = (peers, extra) => ({ status: { ready: true }, peers, identity, relays: [], ...extra });
  equal(attention(data([peer('a.test')]), NOW), []);
  const found = attention(data([
    peer('a.test', { state: 'invited', link: 'down' }),
    peer('b.test', { state: 'paused', link: 'down' }),
    peer('c.test', { link: 'down', since: NOW - 60_000, outbox: { depth: 1, oldest: NOW - 30_000 } }),
    peer('d.test', { link: 'alarm' }),
    peer('e.test', { claimed_domains: [] }),
    peer('f.test', { link: 'down', last_error: 'the peer closed the link (paused): this peering is paused by its operator' }),
  ], { relays: [{ name: 'r', state: 'down', error: 'gone' }] }), NOW);
  equal(found.map(({ key }) => key), ['down:c.test', 'alarm:d.test', 'relay:r', 'paused:b.test', 'claim:e.test', 'invited:a.test', 'paused-there:f.test']);
  equal(found[0].text, 'c.test is not connected for 1 min. 1 envelope waits, the oldest for 30 s.');
});
