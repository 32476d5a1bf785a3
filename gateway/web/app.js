/** The console: who is here, which page is shown, and keeping it true. */
import { api } from './api.js';
import { announce, toast } from './toast.js';
import { confirm } from './dialog.js';
import { render, h, icon } from './dom.js';
import { lookup, sentence } from './format.js';
import { showGate } from './gate.js';
import { live } from './live.js';
import { button, head, notice, skeleton } from './parts.js';
import { audit } from './pages/audit.js';
import { calls } from './pages/calls.js';
import { certificates } from './pages/certificates.js';
import { domains } from './pages/domains.js';
import { identity } from './pages/identity.js';
import { network } from './pages/network.js';
import { networks } from './pages/networks.js';
import { outbox } from './pages/outbox.js';
import { overview } from './pages/overview.js';
import { peer } from './pages/peer.js';
import { peers } from './pages/peers.js';
import { settings } from './pages/settings.js';

/**
 * @typedef {Object} Page
 * @property {string} title
 * @property {(context: Context) => Promise<Object>} load what it shows, from the API
 * @property {(data: Object, context: Context) => *} view how it shows it; the first node is `head()`
 * @property {(data: Object, sample: Object, context: Context) => void} [sample] takes new figures over into the data
 * @property {(context: Context) => boolean} [unsaved] whether something was changed here that leaving would lose
 * @property {number} [everyMs] loads again so often, for what no event tells
 *
 * @typedef {Object} Context
 * @property {string[]} parameters what the address names behind the page
 * @property {Object} session
 * @property {(role: string) => boolean} can whether the session has this role or one above it
 * @property {Object} state what the page remembers while it is shown
 * @property {() => void} redraw
 * @property {() => Promise<void>} reload
 * @property {(id: string) => boolean} busy whether an action is under way
 * @property {(id: string, action: () => Promise<*>, done?: string) => Promise<void>} run carries an action out, and shows
 *   in the page what went wrong
 */

/** Pages by the first part of their address. A second part makes it another page. */
const PAGES = {
  overview: [overview], identity: [identity], peers: [peers, peer], certificates: [certificates], domains: [domains],
  networks: [networks, network], outbox: [outbox], calls: [calls], audit: [audit], settings: [settings],
};
const NAVIGATION = [
  [null, [['overview', 'Overview']]],
  ['Federation', [['identity', 'Identity'], ['peers', 'Peers'], ['certificates', 'Certificates'], ['domains', 'Local domains'], ['networks', 'Networks']]],
  ['Traffic', [['outbox', 'Outbox'], ['calls', 'Calls']]],
  ['Control', [['audit', 'Audit'], ['settings', 'Settings']]],
];
const SIGNS = { certificates: 'certificate' };
const ROLES = ['viewer', 'operator', 'admin'];
const LIVE = { off: 'Not connected', connecting: 'Connecting…', live: 'Live', reconnecting: 'Reconnecting…' };
/** Events in a burst lead to one look. */
const SETTLE_MS = 120;
/** Without a touch for so long, nothing more is asked for: the gateway ends sessions that are idle, and looks of this
 * page by itself must not keep one open. Figures still come. */
const REST_MS = 300_000;
/** Ages are shown in seconds, so that they must be drawn again from time to time. */
const REDRAW_MS = 5_000;

const root = document.getElementById('root');
/** Who is here; null before the log-in. */
let session = null;
/** What is shown: {page, context, data, error, problem}. */
let shown = null;
let menuOpen = false;
let lost = false;
let settling = null;
let touched = Date.now();
let missed = false;

const rests = () => Date.now() - touched > REST_MS;

// The frame.

function drawFrame() {
  if (!session) return;
  const brand = () => h('a.brand', { href: '#/overview' },
    h('span.mark', {}, icon('mark')), h('span.names', {}, h('span.product', {}, 'Trunkline'), h('span.ours', { title: session.domain }, session.domain)));
  render(root, h('div#frame', { key: 'frame' },
    h('a.skip', { href: '#main', onclick: skip }, 'Skip to content'),
    h('header#bar', {}, brand(),
      button({
        id: 'menu', kind: 'plain square', sign: menuOpen ? 'close' : 'menu', label: 'Menu', 'aria-expanded': String(menuOpen), 'aria-controls': 'side',
        onclick: () => showMenu(!menuOpen),
      })),
    h('aside#side', { class: menuOpen ? 'open' : '', 'aria-label': 'Trunkline' }, brand(), navigation(), foot()),
    h('main#main', { tabindex: -1 },
      lost && h('div.lost', { key: 'lost', id: 'lost', role: 'alert' }, icon('warning'),
        'The gateway cannot be reached. What you see may be old; it is tried again all the time.'),
      h('div#page', {}, pageNodes()))));
}

function navigation() {
  const current = route().name;
  return h('nav#navigation', { 'aria-label': 'Pages' }, NAVIGATION.map(([group, links]) => [
    group && h('div.group', { id: `group-${group.toLowerCase()}` }, group),
    h('ul', { 'aria-labelledby': group && `group-${group.toLowerCase()}` }, links.map(([name, label]) => h('li', {},
      h('a.link', { href: `#/${name}`, 'data-page': name, 'aria-current': name === current ? 'page' : null, onclick: () => showMenu(false) },
        icon(SIGNS[name] ?? name), label, tally(name))))),
  ]));
}

/** What wants attention, where it is looked after. */
function tally(name) {
  const { sample } = live;
  if (!sample) return null;
  const mark = (tone, value, words) => h('span.tally', { 'data-tone': tone }, value, h('span.unseen', {}, ` ${words}`));
  if (name === 'peers') {
    const down = sample.peers.filter(({ state, link }) => link === 'alarm' || (state === 'active' && link !== 'up')).length;
    return down > 0 && mark('bad', down, down === 1 ? 'is not connected' : 'are not connected');
  }
  if (name === 'outbox') {
    const depth = sample.peers.reduce((all, peer) => all + peer.depth, 0);
    return depth > 0 && mark('', depth > 9_999 ? '9999+' : depth, depth === 1 ? 'waits' : 'wait');
  }
  return null;
}

function foot() {
  return h('div.side-foot', {},
    h('div.live', { id: 'live', 'data-state': live.state, role: 'status' }, h('span.dot', {}), live.state === 'live' && rests() ? 'Live; lists rest until you are back' : LIVE[live.state]),
    h('div.who', {},
      h('a.account', { id: 'account', href: '#/settings/account', onclick: () => showMenu(false) }, icon('person'),
        h('span.label', {}, session.name, h('span.quiet.small', {}, ` · ${session.role}`))),
      session.via !== 'token' && button({ id: 'log-out', kind: 'plain square', sign: 'leave', label: 'Log out', onclick: () => leaving(logOut) })));
}

function skip(event) {
  event.preventDefault();
  document.getElementById('main').focus();
}

function showMenu(open) {
  menuOpen = open;
  drawFrame();
}

// Pages.

function route() {
  const [name, ...rest] = location.hash.replace(/^#\/?/, '').split('/').map((part) => safely(decodeURIComponent, part));
  const pages = lookup(PAGES, name);
  if (!pages) return { name: 'overview', page: overview, parameters: [] };
  const parameters = rest.filter((part) => part !== '');
  return { name, page: pages[parameters.length > 0 && pages.length > 1 ? 1 : 0], parameters };
}

function safely(read, text) {
  try {
    return read(text);
  } catch {
    return text;
  }
}

function go() {
  const { page, parameters } = route();
  shown?.leave.abort();
  const leave = new AbortController();
  const context = {
    parameters, session, state: {}, signal: leave.signal,
    can: (role) => ROLES.indexOf(session.role) >= ROLES.indexOf(role),
    redraw: () => shown?.context === context && drawFrame(),
    reload: () => load(),
    busy: (id) => shown.busy.has(id),
    run,
    refreshSession,
  };
  shown = { page, context, address: location.hash, data: null, error: null, problem: null, busy: new Set(), leave };
  if (page.everyMs) {
    const timer = setInterval(() => live.state === 'live' && look(), page.everyMs);
    leave.signal.addEventListener('abort', () => clearInterval(timer));
  }
  drawFrame();
  title();
  window.scrollTo(0, 0);
  document.getElementById('page-title')?.focus({ preventScroll: true });
  load();
}

function title() {
  const heading = document.getElementById('page-title')?.textContent ?? shown.page.title;
  document.title = `${heading} · ${session.domain} · Trunkline`;
}

/** Loads by itself, if somebody is there to see it. */
function look() {
  if (document.hidden || rests()) missed = true;
  else load();
}

async function load() {
  const mine = shown;
  try {
    const data = await mine.page.load(mine.context);
    if (mine !== shown) return;
    Object.assign(mine, { data, error: null });
    if (live.sample) mine.page.sample?.(data, live.sample, mine.context);
  } catch (error) {
    if (mine !== shown || mine.leave.signal.aborted || error.status === 401) return;
    if (error.status === 0 && mine.data) return;
    mine.error = error;
    if (error.status === undefined) throw error;
  } finally {
    if (mine === shown && session) {
      drawFrame();
      title();
    }
  }
}

function pageNodes() {
  if (!shown) return skeleton();
  const { page, context, data, error, problem } = shown;
  const trouble = problem && h('div', { key: 'page-problem', id: 'page-problem', role: 'alert' }, notice('bad', problem, {
    actions: button({ id: 'page-problem-close', kind: 'plain square small', sign: 'close', label: 'Dismiss', onclick: () => {
      shown.problem = null;
      drawFrame();
    } }),
  }));
  if (data && !(error && error.status === 404)) return splice(viewed(page, data, context), trouble);
  const name = context.parameters[0] ?? page.title;
  if (!error) return [head({ title: name }), skeleton()];
  return [
    head({ title: name, back: page.back }),
    notice('bad', error.detail, { id: 'page-error', role: 'alert', actions: button({ id: 'page-retry', sign: 'retry', label: 'Try again', onclick: load }) }),
  ];
}

/** A mistake in one page must not take the others along. */
function viewed(page, data, context) {
  try {
    return page.view(data, context);
  } catch (error) {
    console.error(error);
    return [head({ title: page.title, back: page.back }), notice('bad', `This page cannot be shown: ${error.message}. This is a mistake of the console, please report it.`, { id: 'page-error', role: 'alert' })];
  }
}

/** What went wrong stands below the heading. */
function splice(nodes, trouble) {
  const [first, ...rest] = [nodes].flat(Infinity).filter(Boolean);
  return [first, trouble, ...rest];
}

async function run(id, action, done) {
  const mine = shown;
  if (mine.busy.has(id)) return;
  mine.busy.add(id);
  mine.problem = null;
  drawFrame();
  try {
    await action();
    if (done) toast(done);
  } catch (error) {
    if (error.status === undefined) throw error;
    mine.problem = error.detail;
  } finally {
    mine.busy.delete(id);
    if (mine === shown && session) await load();
  }
}

// What changes by itself.

live.addEventListener('sample', ({ detail }) => {
  if (shown?.data) shown.page.sample?.(shown.data, detail, shown.context);
  drawFrame();
});
live.addEventListener('history', drawFrame);
live.addEventListener('state', drawFrame);
live.addEventListener('change', ({ detail }) => {
  if (detail.kind === 'link.down' || detail.kind === 'link.up') announce(`${detail.peer} is ${detail.kind === 'link.up' ? 'connected' : 'down'}`);
  clearTimeout(settling);
  settling = setTimeout(() => session && shown && look(), SETTLE_MS);
});
setInterval(() => !document.hidden && drawFrame(), REDRAW_MS);
for (const type of ['pointerdown', 'pointermove', 'keydown', 'wheel', 'visibilitychange']) {
  document.addEventListener(type, () => {
    touched = Date.now();
    if (missed && session && shown && !document.hidden) {
      missed = false;
      load();
    }
  }, { passive: true, capture: true });
}
/** Whether leaving the page would lose something. */
const isUnsaved = () => Boolean(session && shown?.page.unsaved?.(shown.context));

/** Asks before what was changed is lost, then goes on. */
function leaving(then) {
  const mine = shown;
  if (!isUnsaved()) {
    then();
    return;
  }
  if (document.getElementById('leave-dialog')) return;
  confirm({
    id: 'leave-dialog', title: 'Leave without saving?', submit: 'Leave',
    consequences: ['What you changed on this page is not saved, and is lost.'],
    run: async () => {
      // Who leaves was asked once: the page is not asked again.
      if (mine === shown) shown.page = { ...shown.page, unsaved: null };
      setTimeout(then);
    },
  });
}

window.addEventListener('hashchange', () => {
  if (!session) return;
  if (!isUnsaved()) {
    go();
    return;
  }
  const wanted = location.hash;
  if (wanted === shown.address) return;
  // The page stays, so its address does as well.
  history.replaceState(null, '', shown.address || '#/overview');
  leaving(() => { location.hash = wanted; });
});
window.addEventListener('beforeunload', (event) => isUnsaved() && event.preventDefault());
document.addEventListener('keydown', (event) => {
  if (event.key === 'Escape' && menuOpen && !document.querySelector('dialog[open]')) {
    showMenu(false);
    document.getElementById('menu').focus();
  }
});

// Coming and going.

api.addEventListener('lost', () => {
  lost = true;
  drawFrame();
});
api.addEventListener('found', () => {
  lost = false;
  drawFrame();
});
api.addEventListener('unauthenticated', ({ detail }) => session && gate(detail.type === 'unauthenticated' ? 'Your session is over: log in again.' : sentence(detail.detail)));
api.addEventListener('locked', () => session && begin());

function gate(reason = null) {
  session = null;
  api.csrf = null;
  live.stop();
  shown?.leave.abort();
  shown = null;
  for (const dialog of document.querySelectorAll('dialog')) dialog.close();
  showGate(root, { reason, entered: begin });
}

async function logOut() {
  try {
    await api.delete('/session');
  } catch (error) {
    if (error.status === 0) {
      lost = true;
      drawFrame();
      return;
    }
  }
  gate('You logged out.');
}

async function refreshSession() {
  session = await api.get('/session');
  api.csrf = session.csrf ?? null;
  if (shown) shown.context.session = session;
}

/** Asks who is here, and lets them in or to what comes first. */
async function begin() {
  try {
    session = await api.get('/session', { quiet: true });
  } catch (error) {
    gate(error.status === 401 && error.type === 'unauthenticated' ? null : sentence(error.detail));
    return;
  }
  api.csrf = session.csrf ?? null;
  if (session.must_change_password || session.must_enable_totp) {
    const { name, must_change_password: mustChange } = session;
    session = null;
    live.stop();
    showGate(root, { step: mustChange ? 'password' : 'totp', name, entered: begin, leave: logOut });
    return;
  }
  menuOpen = false;
  live.start();
  go();
}

begin();
