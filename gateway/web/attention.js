/**
 * What needs somebody, in sentences. Pure, so that `test/units.js` can try it anywhere.
 *
 * @module attention
 */
import { counted, daysLeft, errorWords, isPausedThere, list, span } from './format.js';

/** Certificates are mentioned from here on; from `DAYS_URGENT` on as a problem. */
const DAYS_SOON = 30;
const DAYS_URGENT = 7;
/** Envelopes that wait longer than this for a peer that is connected wait too long. */
const LATE_MS = 60_000;

/**
 * @param {{status: Object, peers: Object[], identity: Object, relays: Object[], errors: Object[]}} data
 * @param {number} [now]
 * @returns {{key: string, tone: 'bad'|'warn'|'info', text: string, detail?: string, href?: string, link?: string}[]} the gravest first
 */
export function attention({ status, peers, identity, relays = [] }, now = Date.now()) {
  const items = [];
  const say = (key, tone, text, detail, href, link) => items.push({ key, tone, text, detail, href, link });
  if (!status.ready) say('not-ready', 'bad', 'The gateway cannot do its work.', status.reason, '#/settings/doctor', 'Run the doctor');
  for (const peer of peers) aboutPeer(peer, now, say);
  aboutCertificate(identity, now, say);
  for (const relay of relays) {
    if (relay.state === 'down') say(`relay:${relay.name}`, 'bad', `Relay ${relay.name} does not answer.`, relay.error, '#/calls', 'Calls');
    else if (relay.draining) say(`drain:${relay.name}`, 'info', `Relay ${relay.name} is being drained: it takes no new calls.`, null, '#/calls', 'Calls');
  }
  const order = ['bad', 'warn', 'info'];
  return items.sort((a, b) => order.indexOf(a.tone) - order.indexOf(b.tone));
}

function aboutPeer(peer, now, say) {
  const { domain, state, link, outbox } = peer;
  const href = `#/peers/${domain}`;
  const waiting = outbox.depth > 0 ? ` ${counted(outbox.depth, 'envelope waits', 'envelopes wait')}${outbox.oldest ? `, the oldest for ${span(now - outbox.oldest)}` : ''}.` : '';
  if (link === 'alarm') {
    say(`alarm:${domain}`, 'bad', `The peering with ${domain} stopped: watermarks disagree.${waiting}`, peer.last_error, href, 'Decide');
  } else if (isPausedThere(peer)) {
    say(`paused-there:${domain}`, 'info', `The peering is paused by ${domain}’s operator.${waiting}`, null, href, 'See the peer');
  } else if (state === 'active' && link !== 'up') {
    const since = peer.since ? ` for ${span(now - peer.since)}` : '';
    say(`down:${domain}`, 'bad', `${domain} is not connected${since}.${waiting}`, errorWords(peer), href, 'See the peer');
  } else if (state === 'paused') {
    say(`paused:${domain}`, 'warn', `${domain} is paused.${waiting}`, null, href, 'Resume');
  } else if (state === 'active' && outbox.oldest && now - outbox.oldest > LATE_MS) {
    say(`late:${domain}`, 'warn', `${domain} is connected but slow to take what waits.${waiting}`, null, href, 'See the peer');
  }
  if (state === 'invited') say(`invited:${domain}`, 'info', `${domain} was invited: its answering bundle is not here yet.`, null, '#/peers', 'Accept it');
  if (peer.claimed_domains) {
    say(`claim:${domain}`, 'warn', `${domain} says that its local domains changed. What is for new ones is not routed to it until you approve.`, null, href, 'Compare');
  }
}

function aboutCertificate({ current, next, mode }, now, say) {
  const days = daysLeft(current.not_after, now);
  if (next && next.not_ready.length === 0) {
    say('next-ready', 'info', 'Every peer stored the next certificate: it can be activated.', null, '#/identity', 'Activate');
  } else if (next) {
    say('next-waiting', 'info', `The next certificate is announced; ${list(next.not_ready)} did not store it yet.`, null, '#/identity', 'See who is missing');
  }
  if (next || days >= DAYS_SOON) return;
  const left = days < 0 ? `expired ${counted(-days, 'day')} ago` : `expires in ${counted(days, 'day')}`;
  const advice = mode === 'pinned' ? 'Peers that pin our key go on accepting it, but make the next one.' : 'Peers refuse it from then on: replace the certificate and key files.';
  say('certificate', days < DAYS_URGENT && mode === 'ca' ? 'bad' : 'warn', `Our certificate ${left}.`, advice, '#/identity', 'Rotate');
}
