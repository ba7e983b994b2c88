// Offline outbox: publications that are kept in the page's storage until the server has them.
//
// They survive a reload, and are sent in their order, one after the other. Each has an idempotency
// key, so a repetition is not published twice while the server remembers the key (two minutes).
// After a longer time, a publication whose answer was lost is published again.

/** Returns an outbox. See `outbox.d.ts` for the options. */
export const createOutbox = (client, options = {}) => new Outbox(client, options);

class Outbox {
  #client;
  #storage;
  #name;
  #limit;
  #onRefused;
  #isSending = false;

  constructor(client, options) {
    const { storage = localStorage, name = 'fanfare-outbox', limit = 1000, onRefused } = options;
    this.#client = client;
    this.#storage = storage;
    this.#name = name;
    this.#limit = limit;
    this.#onRefused = onRefused ?? console.error;
    client.on('state', ({ state }) => state === 'open' && this.flush());
    this.flush();
  }

  /** The publications that the server does not have yet, the oldest first. */
  get waiting() {
    return JSON.parse(this.#storage.getItem(this.#name)) ?? [];
  }

  /** Stores a publication. It is sent as soon as there is a connection. */
  publish(channel, data) {
    const waiting = this.waiting;
    if (waiting.length >= this.#limit) {
      throw new RangeError(`the outbox is full: ${this.#limit} publications wait`);
    }
    const random = crypto.getRandomValues(new Uint32Array(4));
    this.#store([...waiting, { channel, data, dedupe: `outbox-${random.join('-')}` }]);
    this.flush();
  }

  /** Sends what waits. Several tabs share a storage, so only one of them sends at a time. */
  async flush() {
    if (this.#isSending) return;
    this.#isSending = true;
    try {
      const send = () => this.#sendAll();
      await (globalThis.navigator?.locks?.request(this.#name, send) ?? send());
    } finally {
      this.#isSending = false;
    }
  }

  async #sendAll() {
    for (;;) {
      const [first] = this.waiting;
      if (!first) return;
      const { channel, data, dedupe } = first;
      try {
        await this.#client.publish(channel, data, { dedupe });
      } catch (error) {
        // The next connection tries again.
        if (error.code === 'timeout' || error.code === 'closed') return;
        this.#onRefused(error, first);
      }
      this.#store(this.waiting.filter((each) => each.dedupe !== dedupe));
    }
  }

  #store(waiting) {
    this.#storage.setItem(this.#name, JSON.stringify(waiting));
  }
}
