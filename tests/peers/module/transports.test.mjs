// Delivery over the three transports, fallback, and changes of the transport under load.
import assert from 'node:assert/strict';
import { test } from 'node:test';

import { WebSocket, client, proxy, serve, until } from './support.mjs';

const TRANSPORTS = ['websocket', 'event_stream', 'poll'];

for (const transport of TRANSPORTS) {
  test(`${transport} delivers history, live publications and several channels`, async (t) => {
    const server = await serve(t);
    for (const n of [1, 2, 3]) await server.publish('a', n);
    const c = client(t, server.url, { transports: [transport] });
    c.follow('a', { last: 2 });
    const b = c.follow('b');
    await c.until('history', () => c.data().length === 2);
    await c.until('position', () => b.position);
    // The server must know `b` before the next publication.
    await server.publish('b', { text: 'ü\n"' }, { event: 'e' });
    await server.publish('a', 4);
    await c.until('live', () => c.data().length === 4);
    assert.deepEqual(c.data(), [2, 3, { text: 'ü\n"' }, 4]);
    assert.equal(c.seen.got[2].event, 'e');
    assert.equal(c.transport, transport);
    assert.deepEqual([c.seen.gap, c.seen.error], [[], []]);
  });

  test(`${transport} adds and leaves channels`, async (t) => {
    const server = await serve(t);
    const c = client(t, server.url, { transports: [transport] });
    const a = c.follow('a');
    await c.until('a', () => a.position);
    await server.publish('a', 'a1');
    await server.publish('b', 'b1');
    await c.until('a1', () => c.data().includes('a1'));
    const b = c.follow('b', { since: 'first' });
    await c.until('b1', () => c.data().includes('b1'));
    const twice = [];
    const second = c.subscribe('b', ({ data }) => twice.push(data));
    a.unsubscribe();
    const subscribers = () => server.metric('fanfare_subscribers');
    await until('one subscription', async () => await subscribers() === 1);
    await server.publish('a', 'a2');
    await server.publish('b', 'b2');
    await c.until('b2', () => c.data().includes('b2'));
    assert.deepEqual(twice, ['b2']);
    second.unsubscribe();
    await server.publish('b', 'b3');
    await c.until('b3', () => c.data().includes('b3'));
    b.unsubscribe();
    await until('no subscription', async () => await subscribers() === 0);
    assert.deepEqual(c.data(), ['a1', 'b1', 'b2', 'b3']);
    assert.deepEqual(twice, ['b2']);
  });
}

test('a blocked WebSocket is replaced by an event stream, and later tried again', async (t) => {
  const server = await serve(t);
  const relay = await proxy(t, server);
  relay.blocked['/ws'] = 'refuse';
  const c = client(t, relay.url);
  c.follow('a', { since: 'first' });
  await server.publish('a', 1);
  await c.until('1', () => c.data().length === 1);
  assert.equal(c.transport, 'event_stream');
  // `online` asks for an upgrade at once; it fails, and the event stream continues.
  dispatch('online');
  await until('a third attempt', () => relay.requests.filter((path) => path === '/ws').length === 3);
  relay.blocked = {};
  await server.publish('a', 2);
  await c.until('2', () => c.data().length === 2);
  await until('the upgrade', () => {
    dispatch('online');
    return c.transport === 'websocket';
  });
  await server.publish('a', 3);
  await c.until('3', () => c.data().length === 3);
  assert.deepEqual(c.data(), [1, 2, 3]);
});

test('a WebSocket without an answer and a stream that is held back end in polls', async (t) => {
  const server = await serve(t);
  const relay = await proxy(t, server);
  relay.blocked = { '/ws': 'mute', '/sse': 'hold' };
  const c = client(t, relay.url);
  c.follow('a', { since: 'first' });
  await server.publish('a', 1);
  await until('1', () => c.data().length === 1, 60_000);
  assert.equal(c.transport, 'poll');
});

test('changes of the transport under load lose and repeat nothing', async (t) => {
  const server = await serve(t);
  const relay = await proxy(t, server);
  const c = client(t, relay.url, { since: 'first' });
  const channels = ['a', 'b', 'c'];
  for (const channel of channels) c.follow(channel);
  let isPublishing = true;
  const expected = { a: [], b: [], c: [] };
  const publishing = (async () => {
    for (let n = 0; isPublishing; n++) {
      // `c` is quiet most of the time, so the positions of the channels differ.
      const channel = n % 50 === 0 ? 'c' : channels[n % 2];
      expected[channel].push(n);
      await server.publish(channel, n);
      await new Promise((done) => setTimeout(done, 2));
    }
  })();
  const use = async (blocked, transport) => {
    relay.blocked = blocked;
    relay.cut();
    const count = c.data().length;
    await until(transport, () => {
      // `online` ends a delay, and asks for an upgrade.
      if (c.state === 'waiting' || !blocked['/ws']) dispatch('online');
      return c.transport === transport && c.state === 'open' && c.data().length > count + 100;
    }, 60_000);
  };
  await c.until('some', () => c.data().length > 100);
  const refuse = 'refuse';
  await use({ '/ws': refuse }, 'event_stream');
  await use({ '/ws': refuse, '/sse': refuse }, 'poll');
  await use({}, 'websocket');
  await use({ '/ws': refuse, '/sse': refuse }, 'poll');
  await use({}, 'websocket');
  isPublishing = false;
  await publishing;
  const got = (channel) => c.seen.got.filter((each) => each.channel === channel).map(({ data }) => data);
  await until('all', () => channels.every((name) => got(name).at(-1) === expected[name].at(-1)));
  for (const name of channels) assert.deepEqual(got(name), expected[name]);
  assert.deepEqual(c.seen.gap, []);
});

test('publishing falls back to POST, and other commands need a WebSocket', async (t) => {
  const server = await serve(t);
  const c = client(t, server.url, { transports: ['poll'] });
  // This server has no POST; the client reports the refusal of the server.
  const error = await c.publish('a', 1).then(() => undefined, (refused) => refused);
  if (error) assert.ok(error.status >= 400, String(error));
  await assert.rejects(c.presence('a'), { code: 'unsupported' });
});

test('without a WebSocket class the other transports are used', async (t) => {
  const server = await serve(t);
  const c = client(t, server.url, { WebSocket: null });
  c.follow('a', { since: 'first' });
  await server.publish('a', 1);
  await c.until('1', () => c.data().length === 1);
  assert.equal(c.transport, WebSocket ? 'event_stream' : undefined);
});

// Node has no events of a page; the client listens on the global object if it can.
function dispatch(type) {
  globalThis.dispatchEvent(new Event(type));
}
