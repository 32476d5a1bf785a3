/**
 * What pages are made of: headings, panels, marks, buttons, facts.
 *
 * @module parts
 */
import { h, icon, s } from './dom.js';
import { ago, isMoment, isPausedThere, lookup, moment, pinGroups } from './format.js';
import { toast } from './toast.js';

const TONE_ICONS = { good: 'check', warn: 'warning', bad: 'error', info: 'info' };

/**
 * The top of a page. Its heading takes the focus when the page is gone to.
 *
 * @param {{title: string, lead?: *, mark?: *, actions?: *, back?: {href: string, label: string}}} parts
 */
export function head({ title, lead, mark, actions, back }) {
  return h('header.head', { key: 'head' },
    h('div.titles', {},
      back && h('a.crumb', { href: back.href, 'data-action': 'back' }, icon('back'), back.label),
      h('div.title-line', {}, h('h1#page-title', { tabindex: -1 }, title), mark),
      lead && h('p.lead', {}, lead)),
    actions && h('div.actions', {}, actions));
}

/**
 * A box with a heading.
 *
 * @param {{id: string, title: string, note?: *, actions?: *, flush?: boolean}} parts flush: the content reaches the edges
 */
export function panel({ id, title, note, actions, flush = false }, ...children) {
  return h('section.panel', { id, 'aria-labelledby': `${id}-title` },
    h('header', {},
      h('h2', { id: `${id}-title` }, title),
      actions ? h('div.actions', {}, actions) : note && h('span.note', {}, note)),
    flush ? h('div.flush', {}, children) : h('div.body', {}, children));
}

/** One figure. With `href` it leads to where more is said. */
export function stat({ id, label, value, unit, note, tone, href }) {
  return h(href ? 'a.stat' : 'div.stat', { id, href, 'data-tone': tone },
    h('span.label', {}, label),
    h('span.value', {}, value, unit && h('span.unit', {}, ` ${unit}`)),
    note && h('span.note', {}, note));
}

/** A word in a colour that means something, and a sign for those who do not see it. */
export function badge(tone, text, sign = TONE_ICONS[tone]) {
  return h('span.badge', { 'data-tone': tone }, sign && icon(sign), text);
}

/** Something to know, where it matters. */
export function notice(tone, text, { id, actions, role } = {}) {
  return h('div.notice', { id, role, 'data-tone': tone },
    icon(TONE_ICONS[tone] ?? 'info'), h('div.words', {}, text), actions && h('div.actions', {}, actions));
}

/** Nothing here, and what to do next. */
export function empty({ sign, title, text, actions, compact = false, id }) {
  return h('div.empty', { id, class: compact ? 'compact' : '' },
    sign && icon(sign), h('p.empty-title', {}, title), text && (typeof text === 'string' ? h('p', {}, text) : text),
    actions && h('div.actions', {}, actions));
}

/**
 * A button, or a link that looks like one.
 *
 * @param {Object} parts
 * @param {string} [parts.action] its stable name; `id` where there is one only
 * @param {string} [parts.kind] classes: `primary`, `danger`, `plain`, `small`, `square`
 */
export function button({ id, action, kind = '', sign, label, hidden, onclick, href, type = 'button', busy = false, ...rest }) {
  const isSquare = kind.includes('square');
  return h(href ? 'a.button' : 'button.button', {
    id, 'data-action': action, class: kind, href, type: href ? null : type, onclick: busy ? null : onclick,
    'aria-disabled': busy ? 'true' : null, 'aria-busy': busy ? 'true' : null, title: isSquare ? label : null, ...rest,
  }, sign && icon(sign), isSquare ? h('span.unseen', {}, label) : label, hidden && h('span.unseen', {}, ` ${hidden}`));
}

/** Copies a text, and says so. */
export function copyButton(text, what, { id, action, label = 'Copy', kind = 'small' } = {}) {
  return button({
    id, action, kind, sign: 'copy', label, hidden: label === 'Copy' ? what : null,
    onclick: async () => {
      await copy(text);
      toast(`Copied ${what}`);
    },
  });
}

/** A text with a button to copy it. */
export function copyable(content, text, what, options) {
  return h('div.copyable', {}, content, copyButton(text, what, options));
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Pages over plain HTTP have no clipboard, except on this very machine.
    const area = h('textarea.unseen', { value: text, 'aria-hidden': 'true' });
    (document.querySelector('dialog[open]') ?? document.body).append(area);
    area.select();
    document.execCommand('copy');
    area.remove();
  }
}

/** Saves a text as a file. */
export function download(name, text, type = 'application/octet-stream') {
  const url = URL.createObjectURL(new Blob([text], { type }));
  const link = h('a', { href: url, download: name });
  link.click();
  // The browser has begun by then; keeping the address would keep the text.
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

/** A pin in groups, which are easy to compare by voice; read out as one. */
export function pinView(pin, { large = false, id } = {}) {
  return h('span.pin', { id, class: large ? 'large' : '', 'data-pin': pin, role: 'img', 'aria-label': `Pin ${pinGroups(pin).join(' ')}` },
    pinGroups(pin).map((group) => h('span', {}, group)));
}

/** A moment as its distance; the moment itself on hover and for machines. */
export function when(at, show = ago) {
  return isMoment(at) ? h('time', { datetime: new Date(at).toISOString(), title: moment(at) }, show(at)) : '–';
}

/** Names and what they stand for; entries without a value are left out. */
export function facts(entries) {
  return h('dl.facts', {}, entries.filter((entry) => entry && entry[1] !== null && entry[1] !== undefined)
    .map(([name, value]) => [h('dt', {}, name), h('dd', {}, value)]));
}

/** Short names in a row. */
export function tags(names, none = 'none') {
  return names.length === 0 ? h('span.quiet', {}, none) : h('span.tags', {}, names.map((name) => h('span.tag', {}, name)));
}

/**
 * Shares of a whole, as a bar. Says the same in words.
 *
 * @param {{name: string, value: number, tone?: string}[]} parts
 * @param {number} [whole] their sum unless given
 * @param {string} [label]
 */
export function meter(parts, whole = parts.reduce((all, { value }) => all + value, 0), label = undefined) {
  let x = 0;
  const bars = parts.map(({ value, tone }, index) => {
    const width = whole > 0 ? (value / whole) * 100 : 0;
    const bar = s('rect', { x, y: 0, width, height: 8, 'data-series': index + 1, 'data-tone': tone });
    x += width;
    return bar;
  });
  return s('svg.meter', {
    viewBox: '0 0 100 8', preserveAspectRatio: 'none', role: 'img',
    'aria-label': label ?? parts.map(({ name, value }) => `${name}: ${value}`).join(', '),
  }, bars);
}

/** What a page shows until its data are here: about as high as what comes. */
export function skeleton(rows = 6) {
  const bar = (width, height) => h('div.skeleton', { style: { width, height } });
  return h('div.stack', { key: 'skeleton', 'aria-hidden': 'true' },
    bar('100%', '5.25rem'), h('div.panel', {}, h('div.body', {}, Array.from({ length: rows }, (_, index) => bar(`${92 - (index % 3) * 14}%`, '1.35rem')))));
}

const LINKS = {
  up: ['good', 'Connected'],
  connecting: ['warn', 'Connecting', 'retry'],
  down: ['bad', 'Down'],
  alarm: ['bad', 'Alarm', 'warning'],
};

/** What a peer's state and link come to, in a word. */
export function peerBadge(peer) {
  const { state, link } = peer;
  if (state === 'invited') return badge('info', 'Invited');
  if (state === 'paused' && link !== 'alarm') return badge('warn', 'Paused', 'pause');
  if (isPausedThere(peer)) return badge('warn', 'Paused there', 'pause');
  return badge(...(lookup(LINKS, link) ?? ['', link]));
}

const TRANSPORTS = { quic: 'QUIC', tcp: 'TCP' };

/** A transport as people write it. */
export const transportName = (transport) => (transport ? lookup(TRANSPORTS, transport) ?? transport : '–');
