/**
 * The pictures of a call: a tile for every slot that somebody is in, for those who are there without a picture, and
 * for oneself. One may be large, the others are in a grid or a strip.
 *
 * @module tiles
 */

/** Tiles of people without a picture. More shows more faces, or rather initials, and leaves less room for pictures. */
const WITHOUT_PICTURE_MAX = 8;
/** People who are named in a call's title. More says more, and is cut off in narrow windows. */
const NAMED_MAX = 3;

/**
 * @typedef {object} View what there is to show
 * @property {import('./trunkline-client.js').Slot[]} slots
 * @property {Map<string, object>} roster
 * @property {string[]} speakers
 * @property {?string} self one's own name
 * @property {?MediaStream} selfView one's own camera; null when it is off
 */

/** All tiles. */
export class Tiles {
  #list;
  #template;
  #onPin;
  /** @type {Map<string, HTMLLIElement>} by what they show: `slot 4`, `person anna`, `self` */
  #tiles = new Map();
  #onResize;

  /**
   * @param {HTMLUListElement} list
   * @param {HTMLTemplateElement} template
   * @param {(choice: {participant: string, source: ?string, pinned: boolean}) => void} onPin somebody chose a tile;
   *   `pinned` says that it is pinned now
   */
  constructor(list, template, onPin) {
    this.#list = list;
    this.#template = template;
    this.#onPin = onPin;
    this.#onResize = new ResizeObserver(() => this.#arrange());
    this.#onResize.observe(list);
  }

  /**
   * Shows what is there now. Tiles that stay keep their elements: pictures go on, the focus stays.
   *
   * @param {View} view
   */
  update(view) {
    const wanted = choose(view);
    for (const [key, tile] of this.#tiles) {
      if (!wanted.some((each) => each.key === key)) this.#remove(key, tile);
    }
    for (const each of wanted) this.#show(each);
    this.#arrange();
  }

  /** Removes all. */
  clear() {
    for (const [key, tile] of this.#tiles) this.#remove(key, tile);
    this.#arrange();
  }

  /** Height of the large picture in physical pixels, for pins; null when none is large. */
  get featuredHeight() {
    const featured = this.#list.querySelector('.featured');
    return featured && Math.round(featured.clientHeight * devicePixelRatio);
  }

  #remove(key, tile) {
    tile.querySelector('video').srcObject = null;
    tile.remove();
    this.#tiles.delete(key);
  }

  #show(each) {
    let tile = this.#tiles.get(each.key);
    if (!tile) {
      tile = this.#template.content.firstElementChild.cloneNode(true);
      tile.querySelector('.pin').addEventListener('click', () => this.#onPin(tile.choice));
      this.#tiles.set(each.key, tile);
      this.#list.append(tile);
    }
    const { participant, source, title, stream, pinned } = each;
    tile.choice = { participant, source, pinned };
    tile.dataset.key = each.key;
    tile.dataset.participant = participant;
    tile.dataset.source = source ?? 'none';
    tile.dataset.self = each.self;
    tile.dataset.picture = stream !== null && !each.dark;
    tile.classList.toggle('speaking', each.speaking);
    tile.classList.toggle('featured', each.featured);
    tile.querySelector('.name span').textContent = title;
    tile.querySelector('.muted-mark').toggleAttribute('hidden', !each.muted);
    tile.querySelector('.initials').textContent = initials(participant);
    const warning = tile.querySelector('.warning');
    warning.hidden = !each.undecryptable;
    warning.textContent = each.undecryptable ? 'This cannot be decrypted: the key is another one.' : '';
    const pin = tile.querySelector('.pin');
    pin.hidden = each.self;
    pin.setAttribute('aria-pressed', pinned);
    pin.setAttribute('aria-label', `Pin ${title}${each.muted ? ', muted' : ''}`);
    const video = tile.querySelector('video');
    if (video.srcObject !== stream) video.srcObject = stream;
    // Screen readers have the name already; a picture has nothing to read.
    video.setAttribute('aria-hidden', 'true');
  }

  #arrange() {
    const count = this.#tiles.size;
    const featuring = this.#list.querySelector('.featured') !== null;
    this.#list.classList.toggle('featuring', featuring);
    this.#list.classList.toggle('single', count === 1);
    this.#list.dataset.columns = columns(count, this.#list.clientWidth, this.#list.clientHeight);
  }
}

/**
 * Up to two letters that stand for a name.
 *
 * @param {string} name
 * @returns {string}
 */
export function initials(name) {
  const words = name.split(/[\s._@-]+/).filter(Boolean);
  return words.slice(0, 2).map((word) => [...word][0].toUpperCase()).join('');
}

/**
 * What a call is called by who else is on it: `Call with Ann and Ben`.
 *
 * @param {string[]} names of the others
 * @returns {string}
 */
export function callTitle(names) {
  if (names.length === 0) return 'Call';
  const said = names.slice(0, NAMED_MAX).map(shortName);
  const more = names.length - said.length;
  if (more > 0) said.push(more === 1 ? '1 other' : `${more} others`);
  const last = said.pop();
  return `Call with ${said.length > 0 ? `${said.join(', ')} and ` : ''}${last}`;
}

/** `Ann` of `ann@alpha.test`; other names as they are. */
function shortName(name) {
  const local = /^([^@\s]+)@[^@\s]+$/.exec(name)?.[1];
  if (local === undefined) return name;
  const [first, ...rest] = local;
  return first.toUpperCase() + rest.join('');
}

function choose({ slots, roster, speakers, self, selfView }) {
  const sourceOf = (name, source) => roster.get(name)?.sources.find((each) => each.source === source);
  const base = (participant) => ({
    participant,
    speaking: speakers.includes(participant),
    muted: sourceOf(participant, 'microphone')?.muted ?? false,
    self: false,
    pinned: false,
    dark: false,
    undecryptable: false,
  });
  const filled = slots.filter(({ kind, participant }) => kind === 'video' && participant !== null);
  // The pinned one is large; without one, a shared screen is.
  const large = filled.find(({ pinned }) => pinned) ?? filled.find(({ source }) => source === 'screen');
  const wanted = filled.map((slot) => ({
    ...base(slot.participant),
    key: `slot ${slot.mid}`,
    source: slot.source,
    title: slot.source === 'screen' ? `${slot.participant}’s screen` : slot.participant,
    stream: slot.stream,
    dark: sourceOf(slot.participant, slot.source)?.muted ?? false,
    pinned: slot.pinned,
    featured: slot === large,
    undecryptable: slot.undecryptable,
  }));
  const shown = new Set([...filled.map(({ participant }) => participant), self]);
  const others = [...roster.keys()].filter((name) => !shown.has(name) && roster.get(name).role === 'presenter');
  for (const name of others.slice(0, WITHOUT_PICTURE_MAX)) {
    wanted.push({ ...base(name), key: `person ${name}`, source: null, title: name, stream: null, featured: false });
  }
  const own = { ...base(self ?? ''), key: 'self', source: 'camera', title: 'You', self: true, featured: false };
  wanted.push({ ...own, stream: selfView });
  return wanted;
}

/** The number of columns that makes tiles of 16:9 largest. */
function columns(count, width, height) {
  const area = (columns) => {
    const tileWidth = width / columns;
    const tileHeight = height / Math.ceil(count / columns);
    return Math.min(tileWidth, (tileHeight * 16) / 9);
  };
  return [1, 2, 3, 4].reduce((best, each) => (area(each) > area(best) ? each : best));
}
