/**
 * One person's messages: keys, sealing and opening, marks from receipts, calls and invitations. No page in it.
 *
 * @module messenger
 */
import { Refusal, Server } from './api.js';
import {
  conversationOf, fromBase64, makeIdentity, open, readKeyNotice, safetyNumber, seal, toBase64, toBase64Url, writeKeyNotice,
} from './sealed.js';
import { Vault } from './vault.js';

/** How often a key is asked for again that could not be asked for. */
const ASK_AGAIN_MS = 3_000;
/** Pause before a message is submitted again that the server could not take. */
const SUBMIT_AGAIN_MS = 1_500;
/** Attempts before a person is told, and asked to try again. */
const SUBMIT_ATTEMPTS = 10;
/** Longest message. The server takes about twice as much, sealed. */
export const TEXT_MAX = 20_000;
/** Bytes of a call's media key. */
const MEDIA_KEY_BYTES = 32;

/**
 * @typedef {object} Contact
 * @property {string} address
 * @property {string} name
 * @property {string} conversation
 * @property {?Uint8Array} publicKey the key that was seen first, or accepted since
 * @property {?Uint8Array} newKey another key that claims to be theirs, until it is accepted
 * @property {boolean} verified whether the safety number was compared
 * @property {number} sent how far this side has counted
 * @property {number} received and the other
 * @property {boolean} asked whether their key was asked for since this page was opened
 * @property {?string} problem why their key could not be asked for
 * @property {number} unread
 */

/**
 * @typedef {object} Message
 * @property {string} id of its envelope
 * @property {string} address whose conversation it is in
 * @property {boolean} own
 * @property {'message' | 'call'} kind
 * @property {string} text
 * @property {?object} invitation for `call`
 * @property {boolean} [over] the call that is invited to is over
 * @property {?string} [ends] this is no invitation but a note that the call with this id is over: it is not shown
 * @property {number} at
 * @property {?number} [sent] others': when they say that they wrote it
 * @property {number} place order of appearance
 * @property {string} state own: waiting, sending, sent, failed, delivered, refused, expired, purged. Others': opened, unreadable
 * @property {string} reason
 */

/**
 * Events: `change` (anything; `detail.address` when it is of one conversation), `arrival` (a message came), `over` (one's
 * own call is).
 */
export class Messenger extends EventTarget {
  /** @type {Map<string, Contact>} by address */
  contacts = new Map();
  /** @type {'connecting' | 'connected' | 'reconnecting' | 'replaced' | 'refused'} */
  state = 'connecting';
  /** @type {?{callId: string, calluri: string, page: string, token: string, key: string}} one's own call */
  call = null;
  /** @type {Map<string, Message>} by id */
  #messages = new Map();
  #server;
  /** @type {Vault} */
  #vault;
  #identity;
  #cursor = 0;
  #place = 0;
  /** Notices that carry one's own key, by envelope: whose answer they ask for. */
  #notices = new Map();
  #incoming = Promise.resolve();
  #outgoing = Promise.resolve();

  /**
   * @param {string} token from the link
   * @returns {Promise<Messenger>}
   * @throws {Refusal} when the link opens nobody's page
   */
  static async start(token) {
    const messenger = new Messenger();
    messenger.#server = new Server(token);
    const { address, domain, contacts } = await messenger.#server.me();
    Object.assign(messenger, { address, domain, name: nameOf(address) });
    await messenger.#load(token, contacts);
    messenger.#follow();
    messenger.#askForKeys();
    setInterval(() => messenger.#askForKeys(), ASK_AGAIN_MS);
    for (const message of messenger.#messages.values()) {
      if (message.own && ['waiting', 'sending'].includes(message.state)) messenger.#deliver(message);
    }
    return messenger;
  }

  /** One's own public key. */
  get publicKey() {
    return this.#identity.publicKey;
  }

  /** The messages of a conversation, oldest first. @returns {Message[]} */
  messagesWith(address) {
    return this.#allWith(address).filter(({ ends }) => !ends);
  }

  #allWith(address) {
    const mine = [...this.#messages.values()].filter((message) => message.address === address);
    return mine.sort((first, second) => first.place - second.place);
  }

  /** What to compare with a contact. @returns {Promise<?string>} null before their key is known */
  async safetyNumberWith(address, { pending = false } = {}) {
    const contact = this.contacts.get(address);
    const publicKey = pending ? contact.newKey : contact.publicKey;
    return publicKey && safetyNumber({ address: this.address, publicKey: this.publicKey }, { address, publicKey });
  }

  /** Sends a message. It waits here until the contact's key is known. */
  async send(address, text, ttl) {
    await this.#post(address, { kind: 'message', text, invitation: null, ttl });
  }

  /** Starts a call at one's own deployment, with a key that no server gets. */
  async startCall() {
    const { call_id: callId, calluri, page, token } = await this.#server.startCall();
    const key = toBase64Url(crypto.getRandomValues(new Uint8Array(MEDIA_KEY_BYTES)));
    this.call = { callId, calluri, page, token, key };
    await this.#vault.save({ own: { call: this.call } });
    this.#changed();
    return this.call;
  }

  /** Invites somebody to one's own call. */
  async invite(address) {
    const { callId, calluri, page, key } = this.call;
    let token;
    try {
      ({ token } = await this.#server.invite(callId, address));
    } catch (error) {
      // It ended by itself, or an operator ended it.
      if (error.status === 404) await this.#callOver(callId);
      throw error;
    }
    if (this.call?.callId !== callId) throw new Error('the call is over.');
    await this.#post(address, { kind: 'call', text: '', invitation: { callId, calluri, page, token, key } });
  }

  /** Ends one's own call for everybody. */
  async endCall() {
    const { callId } = this.call;
    try {
      await this.#server.endCall(callId);
    } catch (error) {
      // It is over already.
      if (error.status !== 404) throw error;
    }
    await this.#callOver(callId);
  }

  /** Everything of a conversation was seen. */
  async markRead(address) {
    const contact = this.contacts.get(address);
    if (contact.unread === 0) return;
    contact.unread = 0;
    await this.#vault.save({ contacts: [contact] });
    this.#changed(address);
  }

  /** The safety number was compared, or is to be compared again. */
  async verify(address, verified) {
    const contact = this.contacts.get(address);
    contact.verified = verified;
    await this.#vault.save({ contacts: [contact] });
    this.#changed(address);
  }

  /** Takes a contact's new key in place of the one that was known. */
  async acceptNewKey(address) {
    const contact = this.contacts.get(address);
    if (!contact.newKey) return;
    this.#pin(contact, contact.newKey);
    await this.#vault.save({ contacts: [contact] });
    this.#changed(address);
    this.#deliverWaiting(address);
  }

  /** Tries a message again that could not be submitted. */
  retry(id) {
    const message = this.#messages.get(id);
    if (message?.state === 'failed') this.#deliver(message);
  }

  /** One's own call is over: whoever was invited is told. A second time does nothing. */
  async #callOver(callId) {
    const { notes, ...saved } = this.#takeCallOver({ call_id: callId });
    await this.#vault.save(saved);
    for (const note of notes) this.#deliver(note);
    this.#changed();
  }

  /** What is to be kept when one's own call is over, and the notes that say so to others. */
  #takeCallOver({ call_id: callId }) {
    const saved = { own: {}, messages: [], notes: [] };
    if (this.call?.callId === callId) {
      this.call = null;
      saved.own.call = null;
      this.dispatchEvent(new CustomEvent('over'));
    }
    const sent = [...this.#messages.values()].filter(({ own, over, invitation }) => own && !over && invitation?.callId === callId);
    for (const message of sent) message.over = true;
    for (const address of new Set(sent.map((message) => message.address))) {
      const note = this.#newMessage(address, { id: crypto.randomUUID(), kind: 'call', own: true, at: Date.now(), ends: callId });
      this.#messages.set(note.id, note);
      saved.notes.push(note);
    }
    saved.messages = [...sent, ...saved.notes];
    return saved;
  }

  async #load(token, addresses) {
    const hash = new Uint8Array(await crypto.subtle.digest('SHA-256', new TextEncoder().encode(token)));
    // A new run of the demo has new links, and so nothing of an earlier one is mixed in.
    this.#vault = await Vault.open(`trunkline-demo-${toBase64Url(hash.slice(0, 12))}`);
    this.#identity = await this.#vault.own('identity');
    if (!this.#identity) {
      this.#identity = await makeIdentity();
      await this.#vault.save({ own: { identity: this.#identity } });
    }
    this.#cursor = (await this.#vault.own('cursor')) ?? 0;
    this.call = (await this.#vault.own('call')) ?? null;
    const { contacts, messages } = await this.#vault.all();
    const known = new Map(contacts.map((contact) => [contact.address, contact]));
    for (const address of addresses) {
      const conversation = await conversationOf(this.address, address);
      const fresh = {
        publicKey: null, newKey: null, verified: false, sent: 0, received: 0, problem: null, unread: 0,
      };
      this.contacts.set(address, { ...fresh, ...known.get(address), asked: false, address, name: nameOf(address), conversation });
    }
    for (const message of messages) {
      this.#messages.set(message.id, message);
      this.#place = Math.max(this.#place, message.place);
    }
  }

  #follow() {
    const onEvent = ({ event, data }) => {
      // One after the other: what came first is opened first.
      this.#incoming = this.#incoming.then(() => this.#take(event, data)).catch(() => {});
    };
    const onState = (state) => {
      this.state = state;
      this.#changed();
    };
    this.#server.follow(() => this.#cursor, onEvent, onState);
  }

  async #take(event, data) {
    if (Number.isSafeInteger(data.seq)) this.#cursor = data.seq;
    let saved = {};
    if (event === 'envelope') saved = await this.#takeEnvelope(data);
    if (event === 'receipt') saved = this.#takeReceipt(data);
    if (event === 'call-over') saved = this.#takeCallOver(data);
    const { notes = [], own = {}, ...kept } = saved;
    // Before anybody is told: what was shown is there after a reload, and what was opened opens no second time.
    await this.#vault.save({ ...kept, own: { ...own, cursor: this.#cursor } });
    for (const note of notes) this.#deliver(note);
    const address = saved.contacts?.[0]?.address ?? saved.messages?.[0]?.address;
    if (address || 'call' in own) this.#changed(address);
    for (const message of saved.messages ?? []) {
      if (message.id === data.id && !message.own && !message.ends) this.dispatchEvent(new CustomEvent('arrival', { detail: { message } }));
    }
  }

  async #takeEnvelope({ id, from, kind, conversation, payload, at }) {
    const contact = this.contacts.get(from);
    // Nobody whom this page knows, or what it has already.
    if (!contact || this.#messages.has(id)) return {};
    const bytes = fromBase64(payload);
    if (kind === 'control') return this.#takeKey(contact, bytes);
    if (kind !== 'message' && kind !== 'call') return {};
    const message = this.#newMessage(contact.address, { id, kind, own: false, at: Date.parse(at) || Date.now() });
    try {
      if (!contact.publicKey) throw new Error('it came before the key of its sender');
      const bound = { kind, conversation, from, to: this.address, id };
      const { counter, text } = await open(this.#identity, contact.publicKey, bound, bytes);
      if (conversation !== contact.conversation) throw new Error('it belongs to another conversation');
      if (counter <= contact.received) throw new Error('it was sent before, and came again');
      contact.received = counter;
      const content = JSON.parse(text);
      if (Number.isSafeInteger(content.sent_at)) message.sent = content.sent_at;
      message.state = 'opened';
      if (kind === 'call' && content.over === true) return this.#takeEnd(contact, message, String(content.call_id));
      if (kind === 'message') message.text = String(content.text);
      else message.invitation = readInvitation(content);
    } catch (error) {
      // What WebCrypto throws says nothing.
      message.reason = error instanceof DOMException || !error.message
        ? 'it was changed on its way, or sealed with another key' : error.message;
      message.state = 'unreadable';
    }
    contact.unread += 1;
    this.#messages.set(id, message);
    return { contacts: [contact], messages: [message] };
  }

  /** A contact's call is over: what they invited to is not offered any more. */
  #takeEnd(contact, note, callId) {
    note.ends = callId;
    // Kept, so that it is known when it comes again.
    this.#messages.set(note.id, note);
    const theirs = this.#allWith(contact.address).filter(({ own, invitation }) => !own && invitation?.callId === callId);
    for (const message of theirs) message.over = true;
    return { contacts: [contact], messages: [note, ...theirs] };
  }

  async #takeKey(contact, payload) {
    let notice;
    try {
      notice = await readKeyNotice(payload);
    } catch {
      return {};
    }
    if (!contact.publicKey) this.#pin(contact, notice.publicKey);
    else if (toBase64(contact.publicKey) !== toBase64(notice.publicKey)) contact.newKey = notice.publicKey;
    else contact.newKey = null;
    if (notice.ask) this.#sendKey(contact, false);
    this.#deliverWaiting(contact.address);
    return { contacts: [contact] };
  }

  #pin(contact, publicKey) {
    Object.assign(contact, { publicKey, newKey: null, verified: false, received: 0, problem: null });
  }

  #takeReceipt({ id, state, reason = '' }) {
    const asked = this.#notices.get(id);
    if (asked) {
      this.#notices.delete(id);
      const contact = this.contacts.get(asked);
      if (state !== 'delivered' && !contact.publicKey) Object.assign(contact, { problem: reason || state, asked: false });
      return { contacts: [contact] };
    }
    const message = this.#messages.get(id);
    if (!message?.own) return {};
    Object.assign(message, { state, reason });
    return { messages: [message] };
  }

  // What goes out: one after the other, so that counters rise in the order of envelopes.

  async #post(address, { kind, text, invitation, ttl }) {
    const id = crypto.randomUUID();
    const message = this.#newMessage(address, { id, kind, own: true, at: Date.now(), text, invitation, ttl });
    this.#messages.set(id, message);
    await this.#vault.save({ messages: [message] });
    this.#changed(address);
    return this.#deliver(message);
  }

  #newMessage(address, { id, kind, own, at, text = '', invitation = null, ttl, ends = null }) {
    this.#place += 1;
    const state = own ? 'waiting' : 'unreadable';
    return { id, address, own, kind, text, invitation, over: false, ends, ttl, at, place: this.#place, state, reason: '' };
  }

  #deliverWaiting(address) {
    for (const message of this.#allWith(address)) {
      if (message.own && message.state === 'waiting') this.#deliver(message);
    }
  }

  #deliver(message) {
    this.#outgoing = this.#outgoing.then(() => this.#deliverNow(message)).catch(() => {});
    return this.#outgoing;
  }

  async #deliverNow(message) {
    const contact = this.contacts.get(message.address);
    if (!['waiting', 'sending', 'failed'].includes(message.state)) return;
    if (!contact.publicKey || contact.newKey) return;
    const { id, kind, ttl } = message;
    const bound = { kind, conversation: contact.conversation, from: this.address, to: contact.address, id };
    const content = JSON.stringify(writeContent(message));
    contact.sent += 1;
    message.state = 'sending';
    // Before it leaves: a counter is never used for two different messages.
    await this.#vault.save({ contacts: [contact], messages: [message] });
    const payload = toBase64(await seal(this.#identity, contact.publicKey, bound, contact.sent, content));
    const draft = { id, to: contact.address, kind, conversation: contact.conversation, payload };
    if (ttl) draft.ttl_s = ttl;
    await this.#submit(message, draft);
    await this.#vault.save({ messages: [message] });
    this.#changed(message.address);
  }

  async #submit(message, draft) {
    for (let attempt = 1; ; attempt += 1) {
      try {
        await this.#server.submit(draft);
        // Its receipt may have been faster.
        if (message.state === 'sending') message.state = 'sent';
        return;
      } catch (error) {
        if (error instanceof Refusal && !error.passes) {
          Object.assign(message, { state: 'refused', reason: error.reason });
          return;
        }
        if (attempt >= SUBMIT_ATTEMPTS) {
          Object.assign(message, { state: 'failed', reason: error.message });
          return;
        }
        await new Promise((resolve) => {
          setTimeout(resolve, SUBMIT_AGAIN_MS);
        });
      }
    }
  }

  #askForKeys() {
    if (this.state === 'replaced' || this.state === 'refused') return;
    const asking = new Set(this.#notices.values());
    for (const contact of this.contacts.values()) {
      if (!contact.publicKey && !asking.has(contact.address) && !contact.asked) this.#sendKey(contact, true);
    }
  }

  /** Tells a contact one's own key, and asks for theirs. */
  #sendKey(contact, ask) {
    const id = crypto.randomUUID();
    const payload = toBase64(writeKeyNotice(this.publicKey, ask));
    const draft = { id, to: contact.address, kind: 'control', conversation: contact.conversation, payload };
    if (ask) this.#notices.set(id, contact.address);
    this.#outgoing = this.#outgoing.then(async () => {
      try {
        await this.#server.submit(draft);
        contact.problem = null;
        if (ask) contact.asked = true;
      } catch (error) {
        this.#notices.delete(id);
        contact.problem = error.reason ?? 'away';
      }
      this.#changed(contact.address);
    });
  }

  #changed(address) {
    this.dispatchEvent(new CustomEvent('change', { detail: { address } }));
  }
}

/** The address of the page that joins a call. What is in it stands where no server sees it. */
export function callLink({ page, callId, token, key }) {
  const url = new URL(page);
  url.hash = new URLSearchParams({ call: callId, token, key }).toString();
  return url.href;
}

/** `Ann` of `ann@alpha.test`. */
export function nameOf(address) {
  const name = address.split('@')[0];
  return name.charAt(0).toUpperCase() + name.slice(1);
}

/** What is sealed of a message. */
function writeContent({ kind, text, invitation, ends, at }) {
  if (ends) return { call_id: ends, over: true };
  return { ...(kind === 'call' ? writeInvitation(invitation) : { text }), sent_at: at };
}

/** An invitation as it is sealed; the names are those of DESIGN's calls. */
function writeInvitation({ callId, calluri, page, token, key }) {
  return { call_id: callId, calluri, page, token, key };
}

/** Reads what another page wrote. Its link is followed by a person, so that it leads to a page and nowhere else. */
function readInvitation({ call_id: callId, calluri, page, token, key }) {
  const url = new URL(String(page));
  if (!['http:', 'https:'].includes(url.protocol) || url.username || url.password) throw new Error('it leads to no page');
  return { callId: String(callId), calluri: String(calluri), page: url.origin + url.pathname, token: String(token), key: String(key) };
}
