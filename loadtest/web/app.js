/** The page: contacts, one conversation at a time, calls. What it shows is in `messenger.js`. */
import { Messenger, callLink } from './messenger.js';
import { mark, reasonText, timeText } from './words.js';

const STATES = {
  connecting: 'Connecting…', connected: 'Connected', reconnecting: 'Reconnecting…', replaced: 'Elsewhere', refused: 'Closed',
};
/** Messages that are shown of a conversation. More costs time at every change. */
const SHOWN_MAX = 300;

const $ = (id) => document.getElementById(id);
/** @type {Messenger} */
let messenger;
/** @type {?string} whose conversation is shown */
let selected = null;

// Beginning and end.

async function start() {
  const token = location.hash.slice(1);
  if (!crypto.subtle) return farewell('This page cannot encrypt', 'Browsers encrypt on secure pages only: open the link on the machine that runs the demo, at 127.0.0.1.');
  if (!token) return farewell('This link is not complete', 'Open one of the links that the demo printed. What stands behind the # belongs to it.');
  try {
    messenger = await Messenger.start(token);
  } catch (error) {
    const closed = error.status === 401;
    return farewell(closed ? 'This link opens nothing' : 'It does not start', closed ? 'The demo was started anew: open one of the links that it printed now.' : error.message);
  }
  // For debugging and tests.
  window.trunklineMessenger = messenger;
  messenger.addEventListener('change', schedule);
  messenger.addEventListener('arrival', onArrival);
  messenger.addEventListener('over', () => {
    $('announcements').textContent = 'Your call is over.';
  });
  showSelf();
  $('messenger').hidden = false;
  const last = sessionStorage.getItem('selected');
  if (messenger.contacts.has(last)) select(last, { focus: false });
  render();
}

function farewell(title, text, action = false) {
  $('messenger').hidden = true;
  $('farewell').hidden = false;
  $('farewell-title').textContent = title;
  $('farewell-text').textContent = text;
  $('farewell-action').hidden = !action;
  $('farewell-title').focus();
}

// One drawing for all that happens at once.

let scheduled = false;

function schedule() {
  if (scheduled) return;
  scheduled = true;
  // Not requestAnimationFrame: a page in the background keeps up, too.
  queueMicrotask(() => {
    scheduled = false;
    render();
  });
}

function render() {
  if (messenger.state === 'replaced') {
    return farewell('You are here in another window', 'One window at a time shows a person’s messages.', true);
  }
  if (messenger.state === 'refused') {
    return farewell('This link opens nothing any more', 'The demo was started anew: open one of the links that it printed now.');
  }
  $('state').textContent = STATES[messenger.state];
  $('state').dataset.state = messenger.state;
  renderTitle();
  renderOwnCall();
  renderContacts();
  renderConversation();
}

function renderTitle() {
  const unread = [...messenger.contacts.values()].reduce((sum, contact) => sum + contact.unread, 0);
  document.title = `${unread ? `(${unread}) ` : ''}${messenger.name} at ${messenger.domain} · Trunkline demonstration`;
}

function showSelf() {
  $('self-name').textContent = messenger.name;
  $('self-address').textContent = messenger.address;
  $('self').querySelector('.initials').textContent = messenger.name.charAt(0);
  $('self').querySelector('.initials').dataset.domain = messenger.domain;
}

// Contacts.

/** Rows by address. They stay the same elements: what is replaced between press and release is not clicked. */
const rows = new Map();

function renderContacts() {
  for (const contact of messenger.contacts.values()) {
    if (!rows.has(contact.address)) rows.set(contact.address, contactRow(contact));
    updateContact(rows.get(contact.address), contact);
  }
  if (!$('contacts').firstChild) showContacts();
}

function showContacts() {
  const groups = new Map();
  for (const address of rows.keys()) {
    const domain = address.split('@')[1];
    groups.set(domain, [...(groups.get(domain) ?? []), rows.get(address)]);
  }
  $('contacts').append(...[...groups].map(([domain, contacts]) => {
    const section = document.createElement('section');
    const title = document.createElement('h2');
    const list = document.createElement('ul');
    title.textContent = domain === messenger.domain ? `${domain}, your deployment` : domain;
    list.append(...contacts);
    section.append(title, list);
    return section;
  }));
}

function contactRow({ address, name }) {
  const row = $('contact-template').content.firstElementChild.cloneNode(true);
  const button = row.querySelector('button');
  button.dataset.address = address;
  row.querySelector('.initials').textContent = name.charAt(0);
  row.querySelector('.initials').dataset.domain = address.split('@')[1];
  row.querySelector('.who').textContent = name;
  button.addEventListener('click', () => select(address));
  return row;
}

function updateContact(row, contact) {
  const button = row.querySelector('button');
  if (contact.address === selected) button.setAttribute('aria-current', 'true');
  else button.removeAttribute('aria-current');
  row.querySelector('.last').textContent = lastLine(contact);
  const unread = row.querySelector('.unread');
  unread.hidden = contact.unread === 0;
  unread.textContent = contact.unread;
  unread.setAttribute('aria-label', `${contact.unread} unread`);
}

function lastLine(contact) {
  const last = messenger.messagesWith(contact.address).at(-1);
  if (contact.newKey) return 'Has a new key';
  if (!last && !contact.publicKey) return contact.problem ? 'Not reached yet' : 'Has not opened the page yet';
  if (!last) return 'Ready to write';
  if (last.over) return last.own ? 'Your call is over' : 'The call is over';
  if (last.kind === 'call') return last.own ? 'You invited to a call' : 'Invites you to a call';
  return `${last.own ? 'You: ' : ''}${last.text || 'cannot be read'}`;
}

function select(address, { focus = true } = {}) {
  selected = address;
  sessionStorage.setItem('selected', address ?? '');
  $('messenger').dataset.view = address ? 'conversation' : 'contacts';
  $('problem').hidden = true;
  render();
  if (!address) return focus && $('contacts').querySelector('button')?.focus();
  scrollDown();
  if (focus) (matchMedia('(max-width: 44rem)').matches ? $('contact-name') : $('text')).focus();
}

// The conversation.

function renderConversation() {
  const contact = messenger.contacts.get(selected);
  $('nobody').hidden = Boolean(contact);
  for (const id of ['contact', 'log', 'composer']) $(id).hidden = !contact;
  if (!contact) {
    $('notice').hidden = true;
    return;
  }
  $('contact-name').textContent = contact.name;
  $('contact-address').textContent = contact.address;
  $('text').placeholder = `Write to ${contact.name}`;
  const initials = $('contact').querySelector('.initials');
  initials.textContent = contact.name.charAt(0);
  initials.dataset.domain = contact.address.split('@')[1];
  renderSafety(contact);
  $('invite').disabled = !messenger.call || !contact.publicKey || Boolean(contact.newKey);
  $('invite').title = messenger.call ? `Invite ${contact.name} to your call` : 'Start a call first';
  $('start-call').disabled = Boolean(messenger.call);
  $('start-call').title = messenger.call ? 'Your call is on: open it, or end it before you start another' : '';
  renderNotice(contact);
  renderMessages(contact);
  if (contact.unread && document.visibilityState === 'visible') messenger.markRead(selected);
}

function renderSafety({ publicKey, newKey, verified }) {
  $('safety').hidden = !publicKey;
  const level = newKey ? 'changed' : verified ? 'verified' : 'pinned';
  $('safety').dataset.level = level;
  const text = { changed: 'New key', verified: 'Verified', pinned: 'Encrypted' };
  $('safety').querySelector('span').textContent = text[level];
  $('safety').querySelector('use').setAttribute('href', { changed: '#i-warning', verified: '#i-shield', pinned: '#i-lock' }[level]);
}

function renderNotice({ name, publicKey, newKey, problem }) {
  let text = '';
  if (newKey) text = `Somebody has a new key and says to be ${name}. Nothing is sent until you compare the safety number and accept it.`;
  else if (!publicKey && problem) text = `${name}’s key cannot be asked for: ${reasonText(problem)}. It is tried again.`;
  else if (!publicKey) text = `${name} has not opened the page yet. What you write waits here until then: it is sealed with a key that ${name}’s page makes.`;
  $('notice').hidden = text === '';
  if ($('notice').querySelector('span').textContent !== text) $('notice').querySelector('span').textContent = text;
  $('notice-action').hidden = !newKey;
  $('notice-action').textContent = 'Compare';
}

function renderMessages(contact) {
  const messages = messenger.messagesWith(contact.address).slice(-SHOWN_MAX);
  const list = $('messages');
  const atEnd = $('log').scrollHeight - $('log').scrollTop - $('log').clientHeight < 80;
  const known = new Map([...list.children].map((row) => [row.dataset.id, row]));
  const rows = messages.map((message) => {
    const row = known.get(message.id) ?? messageRow(message, contact);
    updateRow(row, message, contact);
    return row;
  });
  const shown = [...list.children];
  if (rows.length !== shown.length || rows.some((row, at) => row !== shown[at])) {
    // Rows that stay where they are must not be read out again.
    for (const row of shown) if (!rows.includes(row)) row.remove();
    rows.forEach((row, at) => list.children[at] === row || list.insertBefore(row, list.children[at] ?? null));
  }
  if (atEnd) scrollDown();
}

function messageRow(message, contact) {
  const row = $('message-template').content.firstElementChild.cloneNode(true);
  const { id, own, kind, text, invitation, at } = message;
  row.dataset.id = id;
  row.dataset.own = own;
  row.dataset.kind = kind;
  row.querySelector('.author').textContent = own ? 'You:' : `${contact.name}:`;
  row.querySelector('.text').textContent = text;
  row.querySelector('.text').hidden = kind === 'call';
  const time = row.querySelector('time');
  time.dateTime = new Date(at).toISOString();
  time.textContent = timeText(message);
  row.querySelector('.retry').addEventListener('click', () => messenger.retry(id));
  if (kind === 'call' && invitation) {
    row.querySelector('.invitation').hidden = false;
    row.querySelector('.title span').textContent = own ? `You invited ${contact.name} to your call` : `${contact.name} invites you to a call`;
    const join = row.querySelector('.join');
    if (!own) {
      join.href = callLink(invitation);
      join.setAttribute('aria-label', `Join ${contact.name}’s call`);
    }
  }
  return row;
}

function updateInvitation(row, { own, over, invitation }, contact) {
  if (!invitation || row.dataset.over === String(Boolean(over))) return;
  row.dataset.over = Boolean(over);
  const host = own ? messenger.domain : contact.address.split('@')[1];
  row.querySelector('.host').textContent = over ? 'This call is over.' : `Hosted by ${host}, at ${new URL(invitation.page).host}`;
  row.querySelector('.join').hidden = own || over;
}

function updateRow(row, message, contact) {
  const { own, state, reason } = message;
  updateInvitation(row, message, contact);
  if (row.dataset.state === `${state} ${reason}`.trim()) return;
  const { icon, text, bad } = own ? mark(message, contact) : { icon: 'warning', text: '', bad: false };
  row.dataset.state = `${state} ${reason}`.trim();
  row.querySelector('.mark').classList.toggle('bad', bad);
  row.querySelector('.mark span').textContent = text;
  row.querySelector('.mark .icon').toggleAttribute('hidden', !own);
  row.querySelector('.mark use').setAttribute('href', `#i-${icon}`);
  row.querySelector('.retry').hidden = state !== 'failed';
  if (state === 'unreadable') {
    row.classList.add('unreadable');
    row.querySelector('.text').hidden = false;
    row.querySelector('.text').textContent = `This cannot be read: ${reason}.`;
  }
}

function scrollDown() {
  $('log').scrollTop = $('log').scrollHeight;
}

function onArrival({ detail: { message } }) {
  const { name } = messenger.contacts.get(message.address);
  if (message.address === selected) return;
  $('announcements').textContent = message.kind === 'call' ? `${name} invites you to a call.` : `A message from ${name}.`;
}

// What a person does.

function problem(text) {
  $('problem').textContent = text;
  $('problem').hidden = text === '';
}

/** Does something, and says why it did not work. */
async function attempt(what, action, ...buttons) {
  problem('');
  for (const button of buttons) button.disabled = true;
  try {
    await action();
  } catch (error) {
    problem(`${what}: ${error.message}`);
  } finally {
    for (const button of buttons) button.disabled = false;
    render();
  }
}

$('composer').addEventListener('submit', (event) => {
  event.preventDefault();
  const text = $('text').value.trim();
  if (!text || !selected) return;
  $('text').value = '';
  grow();
  messenger.send(selected, text, Number($('ttl').value) || undefined).catch((error) => problem(`Not kept: ${error.message}`));
  scrollDown();
  $('text').focus();
});

$('text').addEventListener('keydown', (event) => {
  if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  $('composer').requestSubmit();
});
$('text').addEventListener('input', grow);

function grow() {
  const lines = Math.min($('text').value.split('\n').length, 6);
  $('text').rows = lines;
}

$('back').addEventListener('click', () => select(null));
$('farewell-action').addEventListener('click', () => location.reload());
addEventListener('resize', scrollDown);
addEventListener('hashchange', () => location.reload());
document.addEventListener('visibilitychange', () => messenger && schedule());

$('start-call').addEventListener('click', () => {
  // Opened at once, because of the click: browsers let nothing be opened later.
  const tab = window.open('', '_blank');
  attempt('The call was not started', async () => {
    try {
      const call = await messenger.startCall();
      if (!tab) return;
      tab.opener = null;
      tab.location.replace(callLink(call));
    } catch (error) {
      tab?.close();
      throw error;
    }
  }, $('start-call'));
});

$('invite').addEventListener('click', () => {
  attempt('The invitation was not sent', () => messenger.invite(selected), $('invite'));
});

for (const id of ['end-call', 'bar-end']) {
  $(id).addEventListener('click', () => {
    attempt('The call was not ended', () => messenger.endCall(), $('end-call'), $('bar-end'));
  });
}

function renderOwnCall() {
  const { call } = messenger;
  for (const id of ['own-call', 'call-bar']) $(id).hidden = !call;
  if (!call) return;
  for (const id of ['open-call', 'bar-open']) $(id).href = callLink(call);
  $('own-call-host').textContent = new URL(call.page).host;
}

// The safety number.

async function showSafety() {
  const contact = messenger.contacts.get(selected);
  const pending = Boolean(contact.newKey);
  const number = await messenger.safetyNumberWith(contact.address, { pending });
  if (!number) return;
  $('safety-title').textContent = pending ? `Is this still ${contact.name}?` : `End-to-end encrypted with ${contact.name}`;
  $('safety-text').textContent = pending
    ? `A new key came for ${contact.address}. ${contact.name} may have opened the page in another browser, or somebody stands between you. This is the safety number with the new key:`
    : `Messages are sealed in this page and opened in ${contact.name}’s. Neither deployment can read them. This is your safety number:`;
  $('safety-number').replaceChildren(...number.split(' ').map((group) => {
    const span = document.createElement('span');
    span.textContent = group;
    return span;
  }));
  $('safety-verify').textContent = pending ? 'Accept the new key' : contact.verified ? 'Not compared any more' : 'We compared it';
  $('safety-verify').classList.toggle('danger', pending);
  $('safety-dialog').showModal();
}

$('safety').addEventListener('click', showSafety);
$('notice-action').addEventListener('click', showSafety);
$('safety-verify').addEventListener('click', async () => {
  const contact = messenger.contacts.get(selected);
  if (contact.newKey) await messenger.acceptNewKey(contact.address);
  else await messenger.verify(contact.address, !contact.verified);
  $('safety-dialog').close();
});

start();
