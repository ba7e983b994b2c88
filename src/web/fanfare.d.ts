// Types of the client of the push server fanfare.

/** A JSON value. */
export type Json = null | boolean | number | string | Json[] | { [key: string]: Json };

export type Transport = 'websocket' | 'event_stream' | 'poll';

export interface Options {
  /** A token, or a function that gets one and is called again before the token expires. */
  token?: string | (() => string | Promise<string>);
  /** Transports to use, the preferred one first. The default has all three. */
  transports?: Transport[];
  /** Where subscriptions begin that say nothing else: an id, or everything that the log has. */
  since?: 'first' | (string & {});
  /** Closes the client. */
  signal?: AbortSignal;
  /** A WebSocket class, for Node 20. `null` excludes WebSockets. */
  WebSocket?: unknown;
  /** Whether requests send cookies to another host. */
  credentials?: RequestCredentials;
  /** The server's `heartbeat.interval_ms` for event streams; 25000 by default. */
  heartbeat?: number;
}

/** A publication has exactly one of `data`, `text` and `base64`. */
export interface Publication<T = Json> {
  channel: string;
  id: string;
  event?: string;
  /** The publication was in the log when the subscription began. */
  initial?: true;
  data?: T;
  text?: string;
  base64?: string;
  traceparent?: string;
}

export interface Gap {
  channel: string;
  since: string | null;
  until: string;
  missed: number | null;
  cause: 'conflated' | 'expired' | 'restart' | 'slow' | 'unknown';
}

/**
 * - `idle`: no connection is needed, because there is no channel
 * - `waiting`: the connection was lost; the next attempt follows after `delay` ms
 * - `offline`: the browser has no network
 * - `paused`: the page is hidden for good, in the back/forward cache or frozen
 * - `closed`: by the application, or for good with a close code of the server
 */
export type State = 'connecting' | 'open' | 'idle' | 'waiting' | 'offline' | 'paused' | 'closed';

export interface StateEvent {
  state: State;
  transport: Transport;
  /** A close code: of the WebSocket, or the one that corresponds to the answer of a request. */
  code?: number;
  reason?: string;
  delay?: number;
}

/** A payload from a backend to this connection alone. */
export interface Direct {
  data?: Json;
  text?: string;
  base64?: string;
}

export interface Events {
  state: StateEvent;
  gap: Gap;
  direct: Direct;
  /** The channel has ended; its subscriptions have ended, too. */
  end: { channel: string; id?: string };
  error: FanfareError;
}

export interface SubscribeOptions {
  /** Begins after this id, or with everything that the log has. */
  since?: 'first' | (string & {});
  /** Begins with this many of the newest publications. */
  last?: number;
  /** An acknowledgement window; see the module `acks`. */
  window?: number;
}

export interface RequestOptions {
  signal?: AbortSignal;
  /** Milliseconds until the request fails with the code `timeout`; 30000 by default. */
  timeout?: number;
}

export interface Subscription<T = Json> extends AsyncIterable<Publication<T>> {
  readonly channel: string;
  /** The id up to which everything was received. Store it to resume after a reload. */
  readonly position?: string;
  unsubscribe(): void;
}

export class FanfareError extends Error {
  /** An error code of the server, a close code, or `timeout`, `closed` or `unsupported`. */
  code: string | number | undefined;
  channel?: string;
  status?: number;
}

export interface Client {
  readonly state: State;
  readonly transport: Transport;
  /** The name of the WebSocket for backends. */
  readonly conn?: string;
  /** Calls the handler for each event. Returns a function that removes the handler. */
  on<E extends keyof Events>(type: E, handler: (event: Events[E]) => void): () => void;
  /**
   * Subscribes. A second subscription to a channel shares the first one and its position. On event
   * streams and polls, a new channel makes a new request.
   */
  subscribe<T = Json>(
    channel: string,
    handler: (publication: Publication<T>) => void,
    options?: SubscribeOptions,
  ): Subscription<T>;
  /**
   * Subscribes, for `for await`. Publications wait in memory without a bound until the loop takes
   * them; the module `acks` bounds them. The loop ends with the channel or the client, and throws
   * if the server refuses the channel. The end of the loop unsubscribes.
   */
  subscribe<T = Json>(channel: string, options?: SubscribeOptions): Subscription<T>;
  /**
   * Publishes. Without a WebSocket this is a POST. If the connection is lost, the publication is
   * sent again with the same `dedupe` until `timeout`. `id` is absent if only backends received it.
   */
  publish(
    channel: string,
    data: Json,
    options?: RequestOptions & { dedupe?: string },
  ): Promise<{ id?: string }>;
  /** The number of subscribers of a channel. Needs a WebSocket. */
  presence(
    channel: string,
    options?: RequestOptions,
  ): Promise<{ subscribers: number; subjects?: number }>;
  /** A page of the subjects that subscribe to a channel. Needs a WebSocket. */
  members(
    channel: string,
    page?: { limit?: number; after?: string },
    options?: RequestOptions,
  ): Promise<{ members: { sub: string; conns: number }[]; conns?: number; next: string | null }>;
  /** Sends any command of the protocol over the WebSocket and returns its answer. */
  request(command: { type: string; [field: string]: unknown }, options?: RequestOptions): Promise<any>;
  /** Closes the connection, ends all loops and fails all requests. */
  close(): void;
}

/** Connects to a server. `url` is its address without `/ws`: `https://push.example.com`. */
export function connect(url: string | URL, options?: Options): Client;
