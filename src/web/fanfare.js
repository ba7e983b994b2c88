// A client of the push server fanfare, for browsers, workers and Node 20.
//
// The client owns one connection, called the link. A link is a WebSocket, an event stream or a
// series of long polls; what each of them receives has the form of the WebSocket's messages, so
// `receive` handles all transports. Each channel has its own position. After a loss the next link
// resumes from these positions, whatever its transport is.
//
// A WebSocket resumes each channel from its own position. The other transports have one position
// for all channels, so `align` first brings the channels to a common one. Positions are opaque
// and have no order here: a publication that arrives twice is recognized by its id (`seen`).
//
// Reference of the protocol: the page "Protocol" of the server's guide.

const OPEN_MS = 5_000; // for a transport to open
const UPGRADE_MS = 60_000; // between two attempts to return to the first transport
const REQUEST_MS = 30_000; // for the answer to a request, with all repetitions
const DELAY_MS_MAX = 30_000; // between two attempts to connect
const POLL_S = 30;
const WEBSOCKET = 'websocket';
const POLL = 'poll';
const CLOSED = 'closed';

/** A refusal or a failure. `code` is an error code of the server, or a close code. */
export class FanfareError extends Error {
  constructor(code, message = String(code), more) {
    super(message);
    Object.assign(this, { code }, more);
  }
}

// Full jitter: clients that lost the server together do not return together.
const jitter = (failures) => Math.random() * Math.min(DELAY_MS_MAX, 1000 * 2 ** failures);

// Application code that throws must not break the connection.
const call = (handler, value) => {
  try {
    handler(value);
  } catch (error) {
    console.error(error);
  }
};

// Close codes after which a client must not reconnect.
const FINAL = /^(100[023789]|1010|40..)$/;

// Returns the delay that a response asks for, in ms.
const retryAfter = ({ headers }) => headers.get('retry-after') * 1000 || undefined;

// Translates an error of a request into the close code that a WebSocket would have got.
const closeCode = ({ status, code }) => {
  if (!status) return code >= 1000 ? code : 1006;
  if (status === 401) return code === 'token_expired' ? 4002 : 4001;
  return /^(408|429|5..)$/.test(status) ? 1013 : 4003;
};

// Returns the parameter of a request that begins where the channel is.
const startOf = ({ position, last }) =>
  position ? `since=${position}` : last === undefined ? '' : `last=${last}`;

// Returns the fields of an event of an event stream. With `envelope=full`, data has one line.
const parseEvent = (block) => {
  const event = {};
  for (const [, field, text] of block.matchAll(/^(\w+): ?(.*)$/gm)) event[field] = text;
  return event;
};

/** One handler, or one iteration, over the publications of a channel. */
class Subscription {
  #state;
  #leave;
  #queue = [];
  #wake;
  #end;

  constructor(state, handler, leave) {
    this.channel = state.name;
    this.#state = state;
    this.#leave = leave;
    // Without a handler the publications wait for the iteration, from the beginning on.
    this.deliver = handler ?? ((publication) => {
      this.#queue.push(publication);
      this.#wake?.();
    });
  }

  /** The id up to which everything was received. */
  get position() {
    return this.#state.position;
  }

  unsubscribe() {
    this.#leave(this);
    this.finish();
  }

  finish(error) {
    this.#end ??= { error };
    this.#wake?.();
  }

  async *[Symbol.asyncIterator]() {
    try {
      for (;;) {
        while (this.#queue.length) yield this.#queue.shift();
        if (this.#end?.error) throw this.#end.error;
        if (this.#end) return;
        await new Promise((wake) => { this.#wake = wake; });
      }
    } finally {
      this.unsubscribe();
    }
  }
}

/** Connects to the server. See `fanfare.d.ts` for the options. */
export const connect = (url, options = {}) => {
  const { WebSocket = globalThis.WebSocket, signal, credentials } = options;
  const base = new URL(url, globalThis.location).href.replace(/\/?([?#].*)?$/, '');
  const transports = (options.transports ?? [WEBSOCKET, 'event_stream', POLL])
    .filter((transport) => WebSocket || transport !== WEBSOCKET);
  const getToken = typeof options.token === 'function' && options.token;
  const byName = new Map(); // channels: {name, position, last, window, subscriptions, ref}
  const seen = new Set(); // ids that were delivered and that the server will send again
  const requests = new Map(); // by ref
  const listeners = {};
  const ended = new AbortController(); // removes all listeners of the page
  // Prefix of the keys of `publish`. `crypto.randomUUID` exists only in secure contexts.
  const prefix = crypto.getRandomValues(new Uint32Array(4)).join('-');

  let { heartbeat = 25_000 } = options;
  let token = getToken ? undefined : options.token;
  let hasRenewed; // the token was renewed after a refusal, and was not accepted yet
  let at = 0; // the transport in use, an index of `transports`
  let hasOpened; // this transport has worked
  let misses = 0; // attempts in a row in which the transport did not open
  let failures = 0; // losses in a row, for the delay
  let current; // the link in use
  let probe; // a WebSocket that replaces the link when it opens
  let state = 'connecting';
  let held; // why there must be no link: offline, paused or closed
  let startTimer;
  let upgradeTimer;
  let refs = 0;
  let conn;

  // -- For the application.

  /** Calls the handler for each `state`, `gap`, `direct`, `end` or `error`. Returns its removal. */
  function on(type, handler) {
    (listeners[type] ??= new Set()).add(handler);
    return () => listeners[type].delete(handler);
  }

  /** Subscribes. Without a handler, the result is to be iterated with `for await`. */
  function subscribe(name, handler, how) {
    if (typeof handler !== 'function') [handler, how] = [undefined, handler];
    const { since = options.since, last, window } = how ?? {};
    let channel = byName.get(name);
    const isNew = !channel;
    channel ??= { name, position: since, last, window, subscriptions: new Set() };
    const subscription = new Subscription(channel, handler, (each) => leave(channel, each));
    channel.subscriptions.add(subscription);
    if (held === CLOSED) subscription.finish(new FanfareError(CLOSED));
    else if (isNew) {
      byName.set(name, channel);
      change(() => enter(channel));
    }
    return subscription;
  }

  /** Publishes. A repetition after a loss has the same key, so it is not published twice. */
  function publish(channel, data, { dedupe = `${prefix}-${++refs}`, ...how } = {}) {
    return request({ type: 'publish', channel, data, dedupe }, how);
  }

  function presence(channel, how) {
    return request({ type: 'presence', channel }, how);
  }

  function members(channel, page, how) {
    return request({ type: 'members', channel, ...page }, how);
  }

  /** Sends a command and returns its answer. Waits for a connection if there is none. */
  function request(message, { signal, timeout = REQUEST_MS } = {}) {
    return new Promise((resolve, reject) => {
      signal?.throwIfAborted();
      if (held === CLOSED) throw new FanfareError(CLOSED);
      const ref = ++refs;
      const settle = (error, answer) => {
        clearTimeout(timer);
        signal?.removeEventListener('abort', abort);
        requests.delete(ref);
        if (error) reject(error);
        else resolve(answer);
      };
      const abort = () => settle(signal.reason);
      const timer = setTimeout(() => settle(new FanfareError('timeout')), timeout);
      const request = { message: { ...message, ref }, settle };
      signal?.addEventListener('abort', abort);
      requests.set(ref, request);
      sendRequest(request);
    });
  }

  function close(code = 1000, reason = '', error) {
    if (held === CLOSED) return;
    hold(CLOSED, { code, reason });
    ended.abort();
    for (const { settle } of requests.values()) settle(error ?? new FanfareError(CLOSED));
    for (const channel of byName.values()) finishChannel(channel, error);
  }

  // -- Channels.

  function leave(channel, subscription) {
    if (!channel.subscriptions.delete(subscription) || channel.subscriptions.size) return;
    byName.delete(channel.name);
    change((link) => link.send({ type: 'unsubscribe', channel: channel.name }));
  }

  // Ends the subscriptions of a channel that the server has ended or refused.
  function finishChannel(channel, error) {
    byName.delete(channel.name);
    for (const subscription of channel.subscriptions) subscription.finish(error);
    channel.subscriptions.clear();
    if (error) emit('error', error);
  }

  // Makes a change of the channels known to the server.
  function change(act) {
    const link = current;
    if (link?.transport === WEBSOCKET) {
      if (link.openedAt) act(link);
    } else if (link || state === 'idle') {
      // The channels of a request cannot change. Changes that come together need one new request.
      connectIn(0);
    }
  }

  // Subscribes on the WebSocket.
  function enter(channel) {
    const { name, position: since, last, window } = channel;
    channel.ref = ++refs;
    current.send({ type: 'subscribe', channel: name, since, last, window, ref: channel.ref });
  }

  function advance(channels, id) {
    for (const channel of channels) channel.position = id;
  }

  function emit(type, value) {
    for (const handler of listeners[type] ?? []) call(handler, value);
  }

  function setState(next, more) {
    state = next;
    emit('state', { state, transport: transports[at], ...more });
  }

  // -- The life of a link.

  function connectIn(delay) {
    clearTimeout(startTimer);
    startTimer = setTimeout(() => reconnect(), delay);
  }

  function reconnect() {
    if (held) return;
    drop();
    if (transports[at] !== WEBSOCKET && !byName.size) {
      scheduleUpgrade();
      setState('idle');
      return sendAll();
    }
    setState('connecting');
    current = open(transports[at]);
  }

  // Opens a link. `stop` ends it without any further event.
  function open(transport) {
    const abort = new AbortController();
    const link = { transport, heard: Date.now(), signal: abort.signal };
    link.stop = () => {
      clearTimeout(link.watch);
      abort.abort();
    };
    watch(link);
    const run = transport === WEBSOCKET ? openSocket(link) : follow(link);
    run.catch((error) => lost(link, closeCode(error), error.message, error.delay));
    return link;
  }

  // Closes a link that is silent. A page cannot see a WebSocket's pings, so it asks for a `pong`.
  function watch(link) {
    clearTimeout(link.watch);
    const silence = Date.now() - link.heard;
    if (silence > (link.openedAt ? 2.5 * heartbeat : OPEN_MS)) {
      return lost(link, 1006, 'timeout');
    }
    if (link.openedAt && silence >= heartbeat) link.send?.({ type: 'ping' });
    link.watch = setTimeout(() => watch(link), Math.min(heartbeat, OPEN_MS) / 2);
  }

  // Handles bytes of an event stream or a poll: they prove that link and token are good.
  function hear(link, isOpen = true) {
    link.heard = Date.now();
    hasRenewed = false;
    if (isOpen) opened(link);
  }

  function opened(link) {
    if (link.openedAt) return;
    if (link === probe) {
      probe = undefined;
      drop();
      current = link;
      at = transports.indexOf(link.transport);
    }
    link.openedAt = Date.now();
    hasOpened = true;
    misses = 0;
    watch(link);
    setState('open');
    if (at) scheduleUpgrade();
    if (link.send) for (const channel of byName.values()) enter(channel);
    sendAll();
  }

  // Tries the WebSocket again while the other transport continues.
  function scheduleUpgrade(delay = UPGRADE_MS * (1 + Math.random() / 2)) {
    if (!at || transports[0] !== WEBSOCKET) return;
    clearTimeout(upgradeTimer);
    upgradeTimer = setTimeout(() => {
      if (at && !held) probe ??= open(WEBSOCKET);
    }, delay);
  }

  function drop() {
    clearTimeout(startTimer);
    current?.stop();
    current = undefined;
  }

  // Decides what follows the end of a link: an end for good, or another link after a delay.
  function lost(link, code, reason, delay) {
    link.stop();
    if (link === probe) {
      probe = undefined;
      return scheduleUpgrade();
    }
    if (link !== current) return;
    current = undefined;
    const canRenew = (code === 4001 && !hasRenewed) || code === 4002;
    if (canRenew && getToken) {
      delay = hasRenewed ? undefined : 0;
      hasRenewed = true;
      token = undefined;
    } else if (code === 1008 && !byName.size) {
      return setState('idle', { code, reason });
    } else if (FINAL.test(code)) {
      return close(code, reason, new FanfareError(code, reason));
    }
    if (/^42../.test(code)) delay = 0;
    delay ??= /retry_ms=(\d+)/.exec(reason)?.[1];
    // A link that lived for a while proves that the server works.
    if (Date.now() - link.openedAt > OPEN_MS) failures = 0;
    // A transport that has worked gets more attempts: it is more likely that the server restarts
    // than that a proxy has begun to block it. The next transport is tried soon.
    if (!link.openedAt && code === 1006 && ++misses >= (hasOpened ? 4 : 2)) {
      misses = 0;
      hasOpened = false;
      at = (at + 1) % transports.length;
      delay ??= jitter(0);
    }
    delay = +(delay ?? jitter(failures++));
    setState('waiting', { code, reason, delay });
    connectIn(delay);
  }

  // -- The page: its network, and whether it is shown.

  function followPage() {
    const listen = (type, act, target = globalThis) =>
      target?.addEventListener?.(type, act, { signal: ended.signal });
    const pause = () => hold('paused');
    const resume = () => release('paused');
    listen('offline', () => hold('offline'));
    listen('online', () => release('offline'));
    // A frozen page does not count as present, and an open connection keeps a page out of the
    // back/forward cache.
    listen('pagehide', pause);
    listen('pageshow', resume);
    listen('freeze', pause, globalThis.document);
    listen('resume', resume, globalThis.document);
  }

  function hold(state, more) {
    held = state;
    clearTimeout(upgradeTimer);
    probe?.stop();
    probe = undefined;
    drop();
    setState(state, more);
  }

  function release(state) {
    if (held === state) held = undefined;
    else if (state === 'paused') return;
    if (held) return;
    failures = 0;
    if (current) scheduleUpgrade(0);
    else connectIn(0);
  }

  // -- Token.

  async function currentToken() {
    if (getToken) token ??= await getToken();
    return token;
  }

  // Replaces the token of an open WebSocket before it expires.
  async function renew(link) {
    if (!getToken) return;
    token = undefined;
    link.send({ type: 'auth', token: await currentToken() });
  }

  // -- WebSocket.

  async function openSocket(link) {
    const shown = await currentToken();
    if (link.signal.aborted) return;
    const socket = new WebSocket(endpoint('ws', '/ws'), ['fanfare.v1']);
    link.signal.addEventListener('abort', () => {
      socket.onmessage = socket.onclose = null;
      socket.close(1000);
    });
    link.send = (message) => socket.send(JSON.stringify(message));
    // A page does not see why a handshake was refused, but it sees why `auth` was.
    socket.onopen = () => shown && link.send({ type: 'auth', token: shown });
    socket.onmessage = ({ data }) => {
      link.heard = Date.now();
      receive(link, JSON.parse(data));
    };
    socket.onclose = ({ code, reason }) => lost(link, code, reason);
    socket.onerror = () => {}; // `close` follows
  }

  // Handles a message of any transport.
  function receive(link, message) {
    const { type = 'publication', channel: name, id, until, ref } = message;
    const channel = byName.get(name);
    // After a gap, `subscribed` has the end of the gap, so the gap is not reported again.
    if (channel) channel.position = until ?? id ?? channel.position;
    switch (type) {
      case 'publication':
        if (channel && !seen.delete(id)) {
          for (const { deliver } of channel.subscriptions) call(deliver, message);
        }
        break;
      case 'welcome':
        conn = message.conn;
        heartbeat = message.heartbeat_ms;
        opened(link);
        break;
      case 'disconnect':
        lost(link, message.code, message.reason, link.delay);
        break;
      case 'subscribed':
        hasRenewed = false;
        break;
      case 'expiring':
        renew(link).catch(console.error);
        break;
      case 'error':
        refused(link, message);
        break;
      case 'unsubscribed':
        // Without `ref`, a new token does not allow the channel.
        if (channel && !ref) {
          finishChannel(channel, new FanfareError('not_allowed', type, { channel: name }));
        }
        break;
      case 'gap':
      case 'direct':
        emit(type, message);
        break;
      case 'end':
        if (channel) finishChannel(channel);
        emit(type, message);
        break;
      default:
        requests.get(ref)?.settle(undefined, message);
    }
  }

  function refused(link, { code, message, ref }) {
    const request = requests.get(ref);
    const channel = [...byName.values()].find((each) => each.ref === ref);
    const error = new FanfareError(code, message, { channel: channel?.name });
    if (request) repeatOrFail(request, error);
    // The server has no room for the channel now, so the client returns later.
    else if (code === 'server_full') lost(link, 1013, code);
    else if (channel) finishChannel(channel, error);
    else emit('error', error);
  }

  // -- Requests.

  function sendAll() {
    for (const request of requests.values()) sendRequest(request);
  }

  function sendRequest(request) {
    const link = current;
    if (transports[at] === WEBSOCKET) {
      if (link?.openedAt) link.send(request.message);
      else if (state === 'idle') connectIn(0);
    } else if (!held) {
      if (request.message.type === 'publish') post(request);
      else request.settle(new FanfareError('unsupported'));
    }
  }

  async function post(request) {
    const { channel, data, dedupe } = request.message;
    const body = JSON.stringify(data);
    const init = { method: 'POST', body, headers: { 'Content-Type': 'application/json' } };
    try {
      const query = `channel=${encodeURIComponent(channel)}&dedupe=${encodeURIComponent(dedupe)}`;
      const response = await fetchFrom(`/publish?${query}`, init);
      request.settle(undefined, await response.json());
    } catch (error) {
      repeatOrFail(request, error);
    }
  }

  // Repeats a request that the server could not handle now, with the same key, until its deadline.
  function repeatOrFail(request, error) {
    const { code, delay } = error;
    const isBusy = !code || code === 'busy' || code === 'unavailable' || closeCode(error) === 1013;
    if (!isBusy || code === 'journal_unsynced') return request.settle(error);
    setTimeout(() => {
      if (requests.get(request.message.ref) === request) sendRequest(request);
    }, delay ?? jitter(1));
  }

  // -- Event streams and polls.

  function endpoint(scheme, path) {
    return base.replace(/^(http|ws)/, scheme) + path;
  }

  async function fetchFrom(path, init) {
    const shown = await currentToken();
    const response = await fetch(endpoint('http', path), {
      cache: 'no-store',
      credentials,
      ...init,
      headers: { ...init.headers, ...(shown && { Authorization: `Bearer ${shown}` }) },
    });
    if (response.ok) return response;
    // An answer without `code` comes from a proxy and says nothing about the server.
    const { status } = response;
    const { code, detail = `HTTP ${status}` } = await response.json().catch(() => ({}));
    throw new FanfareError(code, detail, { status: code && status, delay: retryAfter(response) });
  }

  function get({ signal }, channels, start, path) {
    const names = channels.map(({ name }) => `&channel=${encodeURIComponent(name)}`);
    return fetchFrom(`/${path}${names.join('')}&${start}`, { signal });
  }

  async function follow(link) {
    const channels = [...byName.values()];
    let start = await align(link, channels);
    if (link.transport !== POLL) return followStream(link, channels, start);
    // The first poll does not wait, to find out at once whether polls work.
    for (let timeout = 0; ; timeout = POLL_S) {
      await poll(link, channels, start, timeout);
      start = startOf(channels[0]);
    }
  }

  // Brings channels with different positions to one position, and returns it as a parameter.
  //
  // Short polls let each group of channels with the same position catch up. The end of the first
  // group is the common position. What the others receive may be after it, so the next request
  // delivers it again, and `seen` drops it. All positions stay valid if the link is lost meanwhile.
  async function align(link, channels) {
    const groups = new Map();
    for (const channel of channels) {
      const start = startOf(channel);
      groups.set(start, [...(groups.get(start) ?? []), channel]);
    }
    if (groups.size < 2) return startOf(channels[0]);
    let common;
    const late = [];
    for (const group of groups.values()) {
      for (let count = 1; count; ) {
        const { publications } = await poll(link, group, startOf(group[0]), 0);
        if (common) late.push(...publications.map(({ id }) => id));
        count = publications.length;
      }
      if (common) continue;
      common = group[0].position;
      // A worker of the server may be a moment behind the one that has answered.
      await new Promise((done) => setTimeout(done, 100));
    }
    advance(channels, common);
    for (const id of late) seen.add(id);
    return startOf(channels[0]);
  }

  async function poll(link, channels, start, timeout) {
    const response = await get(link, channels, start, `poll?timeout=${timeout}`);
    const answer = await response.json();
    if (link.signal.aborted) throw new FanfareError(1006);
    // A poll that prepares an event stream does not prove that the stream works.
    hear(link, link.transport === POLL);
    for (const gap of answer.gaps ?? []) receive(link, { type: 'gap', ...gap });
    for (const publication of answer.publications) receive(link, publication);
    for (const channel of answer.ended ?? []) receive(link, { type: 'end', channel });
    advance(channels, answer.id);
    const delay = retryAfter(response);
    if (delay) throw new FanfareError(1012, '', { delay });
    return answer;
  }

  async function followStream(link, channels, start) {
    const { body } = await get(link, channels, start, 'sse?envelope=full');
    const reader = body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = '';
    for (;;) {
      const { done, value } = await reader.read();
      // What came after the stop is not used; the next link asks for it again.
      if (done || link.signal.aborted) throw new FanfareError(1006, 'the stream ended', link);
      // A proxy that holds the stream back lets the header pass, but no bytes.
      hear(link);
      const blocks = (rest + value).split(/\r?\n\r?\n/);
      rest = blocks.pop();
      for (const block of blocks) receiveEvent(link, channels, parseEvent(block));
    }
  }

  function receiveEvent(link, channels, { event = '', data, id, retry }) {
    if (retry) link.delay = +retry;
    const type = event.startsWith('fanfare.') ? event.slice(8) : undefined;
    if (data) receive(link, { type, ...JSON.parse(data) });
    // The stream is in the order of the ids, so its position is that of each channel.
    if (id) advance(channels, id);
  }

  followPage();
  signal?.addEventListener('abort', () => close(), { signal: ended.signal });
  if (signal?.aborted) close();
  // The caller can add its listeners and subscriptions before the first request is made.
  else connectIn(0);

  return {
    on,
    subscribe,
    publish,
    presence,
    members,
    request,
    close,
    get state() {
      return state;
    },
    get transport() {
      return transports[at];
    },
    get conn() {
      return conn;
    },
  };
};
