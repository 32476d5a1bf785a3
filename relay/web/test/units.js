/**
 * What the small parts promise that need no call. `run()` gives the claims that do not hold; it needs a browser, or
 * Node.js 20: `node -e "import('./relay/web/test/units.js').then(async ({ run }) => console.log(await run()))"`.
 */
import { backoffMs, parseIceServers } from '../api.js';
import { Layers } from '../layers.js';
import { encodings, offerSilence } from '../media.js';
import { Pins } from '../pins.js';
import { Pulse } from '../pulse.js';
import { summarise } from '../stats.js';
import { callTitle, connectionText, pictureHeight, qualityText } from '../tiles.js';

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

/** A sender that takes one change at a time, as browsers do, and each after a moment. */
class Sender {
  changes = [];
  encodings = ['q', 'h', 'f'].map((rid) => ({ rid, active: true }));
  refuses = 0;
  #changing = false;

  getParameters() {
    return { encodings: this.encodings.map((each) => ({ ...each })) };
  }

  async setParameters({ encodings: wanted }) {
    if (this.#changing) throw new Error('two changes at a time');
    this.#changing = true;
    await new Promise((resolve) => setTimeout(resolve));
    this.#changing = false;
    this.refuses -= 1;
    if (this.refuses >= 0) throw new Error('refused');
    this.encodings = wanted;
    this.changes.push(wanted.filter(({ active }) => active).map(({ rid }) => rid).join(''));
  }
}

/** A `layers` event in which these encodings of a camera are wanted. */
const layers = (rids) => [{ source: 'camera', height: null, encodings: ['q', 'h', 'f'].map((rid) => ({ rid, wanted: rids.includes(rid) })) }];

test('encodings that nobody wants are switched off, and on again', async () => {
  const sender = new Sender();
  const wanted = new Layers(() => sender);
  for (const rids of ['qh', 'q', 'q', 'qhf']) await wanted.want(layers(rids));
  equal(sender.changes, ['qh', 'q', 'qhf']);
});

test('a sender is changed by one at a time, and what was overtaken is left out', async () => {
  const sender = new Sender();
  const wanted = new Layers(() => sender);
  await Promise.all(['qh', 'qhf', 'qh', 'q'].map((rids) => wanted.want(layers(rids))));
  equal(sender.changes, ['q']);
});

test('a change that is refused is tried again, and does not stop those after it', async () => {
  const sender = new Sender();
  const wanted = new Layers(() => sender);
  sender.refuses = 1;
  await wanted.want(layers('q'));
  equal(sender.changes, ['q']);
  sender.refuses = 10;
  await wanted.want(layers('qh'));
  sender.refuses = 0;
  await wanted.want(layers('qhf'));
  equal(sender.changes, ['q', 'qhf']);
});

test('an encoding without a name, one that is not known, and a source that is not sent stay as they are', async () => {
  const sender = new Sender();
  await new Layers(() => sender).want([{ source: 'camera', height: 180, encodings: [] }]);
  await new Layers(() => sender).want([{ source: 'camera', height: 180, encodings: [{ rid: 'x', wanted: false }] }]);
  await new Layers(() => undefined).want(layers('q'));
  equal(sender.changes, []);
});

test('a camera is sent in three sizes, and a screen never smaller than it is', () => {
  const named = (...asked) => encodings(...asked).map(({ rid, scaleResolutionDownBy, scalabilityMode }) => [rid, scaleResolutionDownBy, scalabilityMode]);
  equal(named('camera', ['VP8', 'VP9']), [['q', 4, undefined], ['h', 2, undefined], ['f', 1, undefined]]);
  equal(named('camera', ['H264']), [['q', 4, 'L1T3'], ['h', 2, 'L1T3'], ['f', 1, 'L1T3']]);
  equal(named('camera', ['VP9', 'VP8']), [[undefined, undefined, 'L3T3_KEY']]);
  equal(named('camera', ['AV1'], 'simulcast'), [['q', 4, 'L1T3'], ['h', 2, 'L1T3'], ['f', 1, 'L1T3']]);
  equal(named('screen', ['VP8']), [['h', 1, undefined], ['f', 1, undefined]]);
  equal(named('screen', ['AV1']), [[undefined, undefined, 'L1T3']]);
  equal(encodings('microphone', ['VP8']), undefined);
});

test('silence is offered once, for Opus alone, in every section of sound', () => {
  const section = (more) => `m=audio 9 x 63 111\r\na=rtpmap:63 red/48000/2\r\na=fmtp:63 111/111\r\na=rtpmap:111 opus/48000/2\r\n${more}`;
  const video = 'm=video 9 x 96\r\na=rtpmap:96 VP8/90000\r\na=fmtp:96 x=1\r\n';
  const session = 'v=0\r\n';
  const offer = session + section('a=fmtp:111 minptime=10;useinbandfec=1\r\n') + section('') + video;
  const expected = session + section('a=fmtp:111 minptime=10;useinbandfec=1;usedtx=1\r\n') + section('a=fmtp:111 usedtx=1\r\n') + video;
  equal(offerSilence(offer), expected);
  equal(offerSilence(expected), expected);
});

test('a relay is told of pins with their heights, of heights without pins, and of all again', () => {
  const pins = new Pins();
  const pin = (slot, participant, source, height) => ({ pin: { slot, participant, source, height } });
  pins.set({ slot: '4', participant: 'ben', height: 720 });
  equal(pins.request('4'), pin('4', 'ben', null, 720));
  equal([pins.setHeight('5', 180), pins.setHeight('5', 180), pins.setHeight('4', 700)], [true, false, true]);
  equal(pins.requests(), [pin('4', 'ben', null, 700), pin('5', null, null, 180)]);
  pins.retain((name) => name !== 'ben');
  equal(pins.requests(), [pin('4', null, null, 700), pin('5', null, null, 180)]);
  equal(new Pins().request('6'), pin('6', null, null, null));
});

test('a picture is as high as it is shown: cut to fill its room, or whole within it', () => {
  const nine = 9 / 16;
  equal(pictureHeight({ width: 640, height: 500 }, nine, false), 500);
  equal(pictureHeight({ width: 1600, height: 500 }, nine, false), 900);
  equal(pictureHeight({ width: 1600, height: 500 }, nine, true), 500);
  equal(pictureHeight({ width: 640, height: 500 }, nine, true), 360);
  equal(pictureHeight({ width: 100, height: 400 }, 16 / 9, true), 178);
  equal(pictureHeight({ width: 0, height: 0 }, nine, false), 1);
});

test('connections are told of in words, also those of a cause that is not known', () => {
  equal(qualityText('ben', { quality: 'good' }), 'Connection of ben: good');
  equal(qualityText('ben', { quality: 'poor', cause: 'uplink_loss' }), 'Connection of ben: poor, what they send arrives with gaps');
  equal(qualityText(null, { quality: 'fair', cause: 'bandwidth' }), 'Your connection: fair, it carries less than there is to see');
  equal(qualityText(null, { quality: 'fair', cause: 'weather' }), 'Your connection: fair, weather');
  equal(connectionText(true, { quality: 'good' }), 'Good connection');
  equal(connectionText(true, { quality: 'fair', cause: 'bandwidth' }), 'Fair connection: it carries less than there is to see');
  equal(connectionText(false, { quality: 'poor', cause: 'downlink_loss' }), 'Poor connection: what they receive arrives with gaps');
});

test('statistics of a camera tell its encodings apart, the smallest first', () => {
  const sent = (rid, frameHeight, bytesSent) => [rid, { type: 'outbound-rtp', mid: '1', rid, frameHeight, bytesSent, active: true }];
  const [camera] = summarise(new Map([sent('f', 720, 30), sent('q', 180, 10)]), [], [{ source: 'camera', mid: '1' }]).sources;
  equal([camera.frameHeight, camera.bytesSent], [720, 40]);
  equal(camera.encodings.map(({ rid, bytesSent }) => [rid, bytesSent]), [['q', 10], ['f', 30]]);
});
