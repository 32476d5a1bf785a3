/**
 * The pictures of a call: a tile for every slot that somebody is in, for those who are there without a picture, and
 * for oneself. One may be large, the others are in a grid or a strip.
 *
 * @module tiles
 */

/** Tiles of people without a picture. More shows more faces, or rather initials, and leaves less room for pictures. */
const WITHOUT_PICTURE_MAX = 8;
/** How long a new arrangement may settle before its heights are told. More tells less of what does not last. */
const SETTLE_MS = 300;
/** What most pictures have, before the first one tells. */
const HEIGHT_PER_WIDTH = 9 / 16;
const QUALITIES = { good: 'Good connection', fair: 'Fair connection', poor: 'Poor connection' };
const CAUSES = {
  uplink_loss: 'what they send arrives with gaps',
  downlink_loss: 'what they receive arrives with gaps',
  round_trip_time: 'long delay',
  bandwidth: 'it carries little',
};
/** What spoils one's own connection, in plain words. */
const OWN_CAUSES = {
  uplink_loss: 'what you send arrives with gaps',
  downlink_loss: 'what you receive arrives with gaps',
  round_trip_time: 'long delay',
  bandwidth: 'it carries less than there is to see',
};
/** People who are named in a call's title. More says more, and is cut off in narrow windows. */
const NAMED_MAX = 3;

/**
 * @typedef {object} View what there is to show
 * @property {import('./trunkline-client.js').Slot[]} slots
 * @property {Map<string, object>} roster
 * @property {string[]} speakers
 * @property {Map<string, {quality: string, cause?: string}>} qualities
 * @property {?string} self one's own name
 * @property {?MediaStream} selfView one's own camera; null when it is off
 */

/** All tiles. */
export class Tiles {
  #list;
  #template;
  #onPin;
  #onHeight;
  #settling = null;
  /** @type {Map<string, HTMLLIElement>} by what they show: `slot 4`, `person anna`, `self` */
  #tiles = new Map();
  #onResize;

  /**
   * @param {HTMLUListElement} list
   * @param {HTMLTemplateElement} template
   * @param {(choice: {participant: string, source: ?string, pinned: boolean}) => void} onPin somebody chose a tile;
   *   `pinned` says that it is pinned now
   * @param {(slot: string, height: number) => void} onHeight how high a slot's picture is shown, in physical pixels;
   *   told again and again
   */
  constructor(list, template, onPin, onHeight) {
    this.#list = list;
    this.#template = template;
    this.#onPin = onPin;
    this.#onHeight = onHeight;
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
    return featured && shownHeight(featured);
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
    if (tile.shows !== each.shows) {
      tile.shows = each.shows;
      tile.seen = false;
    }
    tile.paused = each.paused;
    if (!tile.seen && !each.paused) this.#lookOut(tile);
    // What was there before a pause began is better than nothing; what somebody else showed is not.
    tile.dataset.picture = stream !== null && !each.dark && (tile.seen || !each.paused);
    tile.dataset.paused = each.paused;
    tile.mid = each.slot;
    tile.classList.toggle('speaking', each.speaking);
    tile.classList.toggle('featured', each.featured);
    tile.querySelector('.name span').textContent = title;
    tile.querySelector('.muted-mark').toggleAttribute('hidden', !each.muted);
    tile.querySelector('.initials').textContent = initials(participant);
    const warning = tile.querySelector('.warning');
    warning.hidden = !each.undecryptable;
    warning.textContent = each.undecryptable ? 'This cannot be decrypted: the key is another one.' : '';
    tile.querySelector('.paused').hidden = !each.paused || each.undecryptable || each.dark;
    const quality = tile.querySelector('.quality');
    quality.hidden = each.quality === null;
    if (each.quality) {
      quality.dataset.level = each.quality.quality;
      quality.title = qualityText(each.self ? null : participant, each.quality);
      quality.setAttribute('aria-label', quality.title);
    }
    const pin = tile.querySelector('.pin');
    pin.hidden = each.self;
    pin.setAttribute('aria-pressed', pinned);
    pin.setAttribute('aria-label', `Pin ${title}${each.muted ? ', muted' : ''}`);
    const video = tile.querySelector('video');
    if (video.srcObject !== stream) video.srcObject = stream;
    // Screen readers have the name already; a picture has nothing to read.
    video.setAttribute('aria-hidden', 'true');
  }

  /** Waits for a picture of whom the tile shows now: then there is one to keep when it is paused. */
  #lookOut(tile) {
    const { shows } = tile;
    if (tile.awaits === shows) return;
    tile.awaits = shows;
    tile.querySelector('video').requestVideoFrameCallback?.(() => {
      tile.awaits = null;
      if (tile.shows === shows && !tile.paused) tile.seen = true;
    });
  }

  #tellHeights() {
    this.#settling ??= setTimeout(() => {
      this.#settling = null;
      for (const tile of this.#tiles.values()) {
        // What has no room now, as in a page that is not shown, says nothing.
        if (tile.mid !== undefined && tile.clientHeight > 0) this.#onHeight(tile.mid, shownHeight(tile));
      }
    }, SETTLE_MS);
  }

  #arrange() {
    const count = this.#tiles.size;
    const featuring = this.#list.querySelector('.featured') !== null;
    this.#list.classList.toggle('featuring', featuring);
    this.#list.classList.toggle('single', count === 1);
    this.#list.dataset.columns = columns(count, this.#list.clientWidth, this.#list.clientHeight);
    this.#tellHeights();
  }
}

function shownHeight(tile) {
  const video = tile.querySelector('video');
  const room = { width: tile.clientWidth * devicePixelRatio, height: tile.clientHeight * devicePixelRatio };
  const ratio = video.videoWidth > 0 ? video.videoHeight / video.videoWidth : HEIGHT_PER_WIDTH;
  return pictureHeight(room, ratio, getComputedStyle(video).objectFit === 'contain');
}

/**
 * How high a picture is in the room it has.
 *
 * @param {{width: number, height: number}} room
 * @param {number} ratio the picture's height by its width
 * @param {boolean} whole shown as a whole; else it covers the room and is cut at its sides, or above and below
 * @returns {number}
 */
export function pictureHeight(room, ratio, whole) {
  const height = (whole ? Math.min : Math.max)(room.height, room.width * ratio);
  return Math.max(1, Math.round(height));
}

/**
 * Says in words how good a connection is.
 *
 * @param {?string} name whose; null for one's own
 * @param {{quality: string, cause?: string}} quality
 * @returns {string} such as `Connection of anna: poor, long delay`
 */
export function qualityText(name, { quality, cause }) {
  const whose = name === null ? 'Your connection' : `Connection of ${name}`;
  const said = [quality];
  if (cause) said.push(name === null ? (OWN_CAUSES[cause] ?? cause) : (CAUSES[cause] ?? cause));
  return `${whose}: ${said.join(', ')}`;
}

/**
 * Says the same without whose it is.
 *
 * @param {boolean} own
 * @param {{quality: string, cause?: string}} quality
 * @returns {string} such as `Poor connection: long delay`
 */
export function connectionText(own, { quality, cause }) {
  const said = QUALITIES[quality] ?? quality;
  return cause ? `${said}: ${(own ? OWN_CAUSES : CAUSES)[cause] ?? cause}` : said;
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

function choose({ slots, roster, speakers, qualities, self, selfView }) {
  const sourceOf = (name, source) => roster.get(name)?.sources.find((each) => each.source === source);
  const base = (participant) => ({
    participant,
    speaking: speakers.includes(participant),
    muted: sourceOf(participant, 'microphone')?.muted ?? false,
    self: false,
    pinned: false,
    dark: false,
    paused: false,
    undecryptable: false,
    quality: qualities.get(participant) ?? null,
  });
  const filled = slots.filter(({ kind, participant }) => kind === 'video' && participant !== null);
  // The pinned one is large; without one, a shared screen is.
  const large = filled.find(({ pinned }) => pinned) ?? filled.find(({ source }) => source === 'screen');
  const wanted = filled.map((slot) => ({
    ...base(slot.participant),
    key: `slot ${slot.mid}`,
    slot: slot.mid,
    shows: `${slot.source} ${slot.csrc} ${slot.participant}`,
    source: slot.source,
    title: slot.source === 'screen' ? `${slot.participant}’s screen` : slot.participant,
    stream: slot.stream,
    dark: sourceOf(slot.participant, slot.source)?.muted ?? false,
    pinned: slot.pinned,
    paused: slot.paused,
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
