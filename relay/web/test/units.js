/**
 * What the small parts promise that need no call. `run()` gives the claims that do not hold; it needs a browser, or
 * Node.js 20: `node -e "import('./relay/web/test/units.js').then(async ({ run }) => console.log(await run()))"`.
 */
import { backoffMs, parseIceServers } from '../api.js';
import { Pulse } from '../pulse.js';
import { callTitle } from '../tiles.js';

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

const turn = (urls, username, credential) => ({ urls, username, credential });

test('ICE servers are read from several links, in any order of parameters', () => {
  const text = '<turns:relay.test:443?transport=tcp>; rel="ice-server"; username="1795298625:x"; credential="s3/+=";'
    + ' credential-type="password", <stun:relay.test>; rel=ice-server,'
    + '<turn:[2001:db8::1]:443?transport=tcp>;credential=c;username=u;REL="next ice-server"';
  equal(parseIceServers(text), [
    turn('turns:relay.test:443?transport=tcp', '1795298625:x', 's3/+='),
    { urls: 'stun:relay.test' },
    turn('turn:[2001:db8::1]:443?transport=tcp', 'u', 'c'),
  ]);
});

test('quoted values may hold commas, semicolons, brackets and escaped quotes', () => {
  const text = '<turn:a.test>; rel="ice-server"; username="a,b;c<d>"; credential="say \\"hi\\\\"';
  equal(parseIceServers(`${text}"`), [turn('turn:a.test', 'a,b;c<d>', 'say "hi\\')]);
});

test('what is no ICE server, or one that a browser would refuse, is left out', () => {
  for (const text of [
    '',
    'nonsense',
    '<https://a.test>; rel="ice-server"',
    '<stun:a.test>; rel="preconnect"',
    '<stun:a.test>',
    '<turn:a.test>; rel="ice-server"',
    '<turn:a.test>; rel="ice-server"; username="u"',
    '<turn:a.test>; rel="ice-server"; username="u"; credential="c"; credential-type="oauth"',
    '<turn:a.test; rel="ice-server"; username="u"; credential="c"',
  ]) {
    equal(parseIceServers(text), []);
  }
});

test('a long hostile header takes no long time', () => {
  const began = performance.now();
  for (const part of ['<', ';', '<a>;', '<a>; b="', '<a>; b="\\', '<a> ; ']) parseIceServers(part.repeat(20_000));
  if (performance.now() - began > 2_000) throw new Error(`${performance.now() - began} ms`);
});

test('a call is called by up to three of the others', () => {
  equal([[], ['ann@alpha.test'], ['Guest 1', 'ben@beta.test'], ['a', 'b', 'c'], ['a', 'b', 'c', 'd'], ['a', 'b', 'c', 'd', 'e']].map(callTitle), [
    'Call', 'Call with Ann', 'Call with Guest 1 and Ben', 'Call with a, b and c', 'Call with a, b, c and 1 other',
    'Call with a, b, c and 2 others',
  ]);
  equal(callTitle(['@', '@beta.test', '']), 'Call with @, @beta.test and ');
});

test('the first wait is short, each is longer than half of the one before, and none is long', () => {
  for (let attempt = 1; attempt < 30; attempt += 1) {
    const full = Math.min(100 * 2 ** (attempt - 1), 15_000);
    const wait = backoffMs(attempt);
    if (wait < full / 2 || wait > full) throw new Error(`attempt ${attempt}: ${wait} ms`);
  }
});

/** Looks each half second at signs that grow by these steps; the looks at which it was said that they stopped. */
function stops(steps, everyMs = 500) {
  const pulse = new Pulse();
  let signs = 0;
  return steps.map((step, at) => {
    signs += step;
    return pulse.look(at * everyMs, signs) ? at : null;
  }).filter((at) => at !== null);
}

test('a steady stream that stops is noticed after a second and a half, and once', () => {
  equal(stops([1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]), [7]);
});

test('a hiccup is no end', () => {
  equal(stops([1, 1, 1, 1, 1, 0, 0, 1, 0, 0, 1, 1]), []);
});

test('what comes now and then is no steady stream', () => {
  equal(stops([1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]), []);
});

test('a page that slept has not seen a stream stop', () => {
  equal(stops([1, 1, 1, 1, 1, 0, 1], 600_000), []);
});

test('a stream that began again can stop again', () => {
  equal(stops([1, 1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0]), [7, 16]);
});
