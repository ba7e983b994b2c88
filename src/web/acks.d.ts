// Types of acknowledgement windows.
import type { Client, Json, Publication, SubscribeOptions } from './fanfare.js';

/** Subscribes with a window. A publication counts as processed when the next one is asked for. */
export function acknowledged<T = Json>(
  client: Client,
  channel: string,
  options?: SubscribeOptions,
): AsyncGenerator<Publication<T>, void>;
