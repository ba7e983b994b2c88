// Types of the offline outbox.
import type { Client, FanfareError, Json } from './fanfare.js';

export interface Item {
  channel: string;
  data: Json;
  dedupe: string;
}

export interface OutboxOptions {
  /** Where publications wait; `localStorage` by default. */
  storage?: Pick<Storage, 'getItem' | 'setItem'>;
  /** The key in the storage. */
  name?: string;
  /** The maximum number of publications that wait; 1000 by default. */
  limit?: number;
  /** Called with a publication that the server has refused for good. It is removed. */
  onRefused?: (error: FanfareError, item: Item) => void;
}

export interface Outbox {
  readonly waiting: Item[];
  /** Stores a publication, which is sent as soon as possible. Throws if the outbox is full. */
  publish(channel: string, data: Json): void;
  flush(): Promise<void>;
}

export function createOutbox(client: Client, options?: OutboxOptions): Outbox;
