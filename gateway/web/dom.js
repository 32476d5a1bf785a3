/**
 * Elements from data, and the smallest change that makes one tree another.
 *
 * Pages describe what they show anew each time something changes; `render` brings the document there and leaves
 * alone what stayed the same: focus, selection, scroll positions and what was typed survive. Text only ever becomes
 * text nodes, so nothing a peer sends can become markup.
 *
 * @module dom
 */

const SVG = 'http://www.w3.org/2000/svg';
/** Handlers of an element by event type: one listener looks them up, so that a new tree can replace them. */
const HANDLERS = Symbol('handlers');
/** Properties of an element that are no attributes. */
const PROPERTIES = Symbol('properties');
const KEY = Symbol('key');

/** What a person may have changed since: set once, when the element is made. */
const INITIAL = new Set(['value', 'checked', 'selected']);

/**
 * Makes an element.
 *
 * @param {string} name the tag's, with classes and an id: `div.card#one`
 * @param {Object} [attributes] `onclick` and the like are handlers, `style` an object of custom or other properties,
 *   `key` says which element of a list this is, `.name` sets a property, `false` and `null` leave an attribute out
 * @param {...*} children nodes, texts, lists of these; `null` and `false` are nothing
 * @returns {HTMLElement}
 */
export function h(name, attributes, ...children) {
  return make(document.createElement.bind(document), name, attributes, children);
}

/** The same for SVG. */
export function s(name, attributes, ...children) {
  return make((tag) => document.createElementNS(SVG, tag), name, attributes, children);
}

/**
 * A picture of the sprite in `index.html`. Decoration: what it means stands beside it as text.
 *
 * @param {string} name
 * @returns {SVGElement}
 */
export function icon(name) {
  return s('svg.icon', { 'aria-hidden': 'true', viewBox: '0 0 24 24' }, s('use', { href: `#i-${name}` }));
}

/**
 * Makes the children of an element these.
 *
 * @param {Element} parent
 * @param {...*} children
 */
export function render(parent, ...children) {
  morphChildren(parent, nodesOf(children));
}

function make(create, name, attributes, children) {
  const [, tag, rest] = /^([a-z0-9-]+)(.*)$/i.exec(name);
  const element = create(tag);
  for (const [, kind, value] of rest.matchAll(/([.#])([^.#]+)/g)) {
    if (kind === '#') element.id = value;
    else element.classList.add(value);
  }
  for (const [attribute, value] of Object.entries(attributes ?? {})) set(element, attribute, value);
  element.append(...nodesOf(children));
  return element;
}

function set(element, attribute, value) {
  if (attribute === 'key') element[KEY] = String(value);
  else if (attribute.startsWith('on')) listen(element, attribute.slice(2), value);
  else if (attribute.startsWith('.')) property(element, attribute.slice(1), value);
  else if (value === null || value === undefined || value === false) return;
  else if (attribute === 'style') for (const [name, text] of Object.entries(value)) element.style.setProperty(name, text);
  else if (attribute === 'class') element.classList.add(...String(value).split(' ').filter(Boolean));
  else if (INITIAL.has(attribute)) element[attribute] = value;
  else element.setAttribute(attribute, value === true ? '' : String(value));
}

function listen(element, type, handler) {
  if (!handler) return;
  element[HANDLERS] ??= {};
  if (!element[HANDLERS][type]) element.addEventListener(type, dispatch);
  element[HANDLERS][type] = handler;
}

function dispatch(event) {
  event.currentTarget[HANDLERS]?.[event.type]?.call(event.currentTarget, event);
}

function property(element, name, value) {
  element[PROPERTIES] ??= {};
  element[PROPERTIES][name] = value;
  element[name] = value;
}

function nodesOf(children) {
  return children.flat(Infinity)
    .filter((child) => child !== null && child !== undefined && child !== false && child !== true && child !== '')
    .map((child) => (child instanceof Node ? child : document.createTextNode(String(child))));
}

const keyOf = (node) => node[KEY] ?? (node.nodeType === Node.ELEMENT_NODE && node.id !== '' ? `#${node.id}` : undefined);
const alike = (old, fresh) => old.nodeType === fresh.nodeType && old.nodeName === fresh.nodeName;

function morphChildren(parent, fresh) {
  const wanted = new Set(fresh.map(keyOf).filter((key) => key !== undefined));
  const keyed = new Map();
  for (const old of [...parent.childNodes]) {
    const key = keyOf(old);
    if (key === undefined) continue;
    // What goes is taken out first: moving what stays past it would cost it the focus.
    if (wanted.has(key)) keyed.set(key, old);
    else old.remove();
  }
  let here = parent.firstChild;
  for (const node of fresh) {
    const key = keyOf(node);
    const old = key === undefined ? here : keyed.get(key);
    const fits = old && (key !== undefined || keyOf(old) === undefined) && alike(old, node);
    if (!fits) {
      parent.insertBefore(node, here);
      if (key !== undefined && old) old.remove();
      if (key !== undefined && old === here) here = node.nextSibling;
      continue;
    }
    if (old === here) here = here.nextSibling;
    else parent.insertBefore(old, here);
    morph(old, node);
  }
  while (here) {
    const next = here.nextSibling;
    here.remove();
    here = next;
  }
}

function morph(old, fresh) {
  if (old === fresh) return;
  if (old.nodeType !== Node.ELEMENT_NODE) {
    if (old.nodeValue !== fresh.nodeValue) old.nodeValue = fresh.nodeValue;
    return;
  }
  for (const { name, value } of [...fresh.attributes]) {
    // Writing the attribute would be an inline style to the content security policy; the property is none.
    if (name === 'style') old.style.cssText = fresh.style.cssText;
    else if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  for (const { name } of [...old.attributes]) {
    // `open` is a person's doing.
    if (!fresh.hasAttribute(name) && !(name === 'open' && old.localName === 'details')) old.removeAttribute(name);
  }
  old[KEY] = fresh[KEY];
  for (const type of Object.keys(old[HANDLERS] ?? {})) old[HANDLERS][type] = fresh[HANDLERS]?.[type];
  for (const [type, handler] of Object.entries(fresh[HANDLERS] ?? {})) listen(old, type, handler);
  for (const [name, value] of Object.entries(fresh[PROPERTIES] ?? {})) property(old, name, value);
  // Elements of our own draw themselves.
  if (!old.localName.includes('-')) morphChildren(old, [...fresh.childNodes]);
}
