/**
 * What the page keeps in this browser (IndexedDB): the identity, whose private key cannot be exported, pinned keys,
 * messages, and how far events were taken. What belongs together is written together.
 *
 * @module vault
 */

const STORES = { own: undefined, contacts: 'address', messages: 'id' };

export class Vault {
  #db;

  /** @param {string} name another one for every person */
  static async open(name) {
    const request = indexedDB.open(name, 1);
    request.onupgradeneeded = () => {
      for (const [store, keyPath] of Object.entries(STORES)) {
        request.result.createObjectStore(store, keyPath ? { keyPath } : undefined);
      }
    };
    const vault = new Vault();
    vault.#db = await settled(request);
    return vault;
  }

  /** Something of one's own, by name. */
  own(name) {
    return settled(this.#db.transaction('own').objectStore('own').get(name));
  }

  /** @returns {Promise<{contacts: object[], messages: object[]}>} all there is */
  async all() {
    const transaction = this.#db.transaction(['contacts', 'messages']);
    const [contacts, messages] = await Promise.all(
      ['contacts', 'messages'].map((store) => settled(transaction.objectStore(store).getAll())),
    );
    return { contacts, messages };
  }

  /**
   * Writes all of it, or nothing. Resolves when it is written.
   *
   * @param {{own?: object, contacts?: object[], messages?: object[]}} what `own` by name
   */
  save({ own = {}, contacts = [], messages = [] }) {
    const transaction = this.#db.transaction(Object.keys(STORES), 'readwrite');
    for (const [name, value] of Object.entries(own)) transaction.objectStore('own').put(value, name);
    for (const contact of contacts) transaction.objectStore('contacts').put(contact);
    for (const message of messages) transaction.objectStore('messages').put(message);
    return new Promise((resolve, reject) => {
      transaction.oncomplete = () => resolve();
      transaction.onabort = () => reject(transaction.error ?? new Error('The browser keeps nothing.'));
    });
  }
}

function settled(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}
