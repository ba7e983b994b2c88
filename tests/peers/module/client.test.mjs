// Tokens, close codes, handlers, iterators, requests, windows, the outbox and the minified files.
import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { gzipSync } from 'node:zlib';

import { acknowledged } from '../../../src/web/acks.min.js';
import { createOutbox } from '../../../src/web/outbox.min.js';
import { NAMES, file, minified } from './minify.mjs';
import { client, folder, serve, token, until } from './support.mjs';

const guarded = (t) => {
  const secret = join(folder(t), 'secret');
  writeFileSync(secret, '0123456789abcdef0123456789abcdef');
  return { secret, config: `[auth]\nleeway_ms = 0\nkeys = ["HS256 ${secret}"]\n` };
};
const PUBLISH = '[[namespace]]\nmatch = "*"\nclient_publish = "broadcast"\nclient_presence = true\n';

for (const transport of ['websocket', 'event_stream', 'poll']) {
  test(`${transport} renews its token and loses nothing`, async (t) => {
    const { secret, config } = guarded(t);
    const server = await serve(t, { config });
    let calls = 0;
    const c = client(t, server.url, {
      transports: [transport],
      token: async () => {
        calls += 1;
        return token(secret, '--sub', 'alice', '--subscribe', '*', '--expires-in', '3');
      },
    });
    const a = c.follow('a');
    await c.until('a', () => a.position);
    for (let n = 0; calls < 4; n++) {
      await server.publish('a', n);
      await c.until(`${n}`, () => c.data().length === n + 1);
    }
    assert.deepEqual(c.data(), c.data().map((_, n) => n));
    // A WebSocket renews in band, so it is never lost.
    if (transport === 'websocket') assert.equal(c.seen.state.filter(({ state }) => state === 'open').length, 1);
  });

  test(`${transport} stops for good with a wrong token`, async (t) => {
    const server = await serve(t, guarded(t));
    const c = client(t, server.url, { transports: [transport], token: 'wrong' });
    c.follow('a');
    const iterator = c.subscribe('b')[Symbol.asyncIterator]();
    await assert.rejects(iterator.next(), { code: 4001 });
    await c.until('the end', () => c.state === 'closed');
    assert.equal(c.seen.state.at(-1).code, 4001);
    await assert.rejects(c.publish('a', 1), { code: 'closed' });
  });

  test(`${transport} asks for another token once after a refusal`, async (t) => {
    const { secret, config } = guarded(t);
    const server = await serve(t, { config });
    const tokens = ['wrong', token(secret, '--subscribe', '*')];
    const c = client(t, server.url, { transports: [transport], token: async () => tokens.shift() });
    c.follow('a', { since: 'first' });
    await server.publish('a', 1);
    await c.until('1', () => c.data().length === 1);
    const other = client(t, server.url, { transports: [transport], token: async () => 'wrong' });
    other.follow('a');
    await other.until('the end', () => other.state === 'closed');
  });
}

test('a channel that the token does not allow ends alone', async (t) => {
  const { secret, config } = guarded(t);
  const server = await serve(t, { config });
  const c = client(t, server.url, { token: token(secret, '--subscribe', 'a') });
  c.follow('a', { since: 'first' });
  await assert.rejects(c.subscribe('secret')[Symbol.asyncIterator]().next(), { code: 'not_allowed' });
  await server.publish('a', 1);
  await c.until('1', () => c.data().length === 1);
  assert.deepEqual(c.seen.error.map(({ channel, code }) => [channel, code]), [['secret', 'not_allowed']]);
});

for (const transport of ['websocket', 'event_stream']) {
  test(`${transport} obeys the close codes of a backend`, async (t) => {
    const { secret, config } = guarded(t);
    const server = await serve(t, { config });
    const own = token(secret, '--sub', 'alice', '--subscribe', '*');
    for (const [code, next] of [[4003, 'closed'], [1000, 'closed'], [4250, 'open'], [4150, 'waiting']]) {
      const c = client(t, server.url, { transports: [transport], token: own });
      const a = c.follow('a');
      await c.until('a', () => a.position);
      const opened = c.seen.state.length;
      await server.command({ disconnect_sub: 'alice', code, ack: true });
      await c.until(`${code}`, () => c.seen.state.slice(opened).some(({ state }) => state === next));
      const lost = c.seen.state[opened];
      assert.equal(lost.code, code);
      if (code === 4250) assert.equal(lost.delay, 0);
      c.close();
    }
  });
}

test('requests get answers, refusals and deadlines', async (t) => {
  const server = await serve(t, { config: PUBLISH });
  const c = client(t, server.url);
  const a = c.follow('a');
  const { id } = await c.publish('a', { n: 1 });
  assert.match(id, /-/);
  await c.until('the own publication', () => c.data().length === 1 && a.position === id);
  assert.equal((await c.presence('a')).subscribers, 1);
  await assert.rejects(c.publish('', 1), { code: 'bad_channel' });
  const away = client(t, 'http://127.0.0.1:1');
  await assert.rejects(away.publish('a', 1, { timeout: 50 }), { code: 'timeout' });
  await assert.rejects(away.publish('a', 1, { signal: AbortSignal.abort() }), { name: 'AbortError' });
  const abort = new AbortController();
  const waiting = away.publish('a', 1, { signal: abort.signal });
  abort.abort();
  await assert.rejects(waiting, { name: 'AbortError' });
});

test('a publication waits for the connection', async (t) => {
  const path = folder(t);
  const first = await serve(t, { path, config: PUBLISH });
  const c = client(t, first.url);
  await c.until('open', () => c.state === 'open');
  await first.kill('SIGKILL');
  const published = c.publish('a', 1);
  await serve(t, { path, config: PUBLISH, port: first.port });
  assert.match((await published).id, /-/);
});

test('a handler that throws harms nothing', async (t) => {
  const server = await serve(t);
  const c = client(t, server.url);
  const { error } = console;
  t.after(() => { console.error = error; });
  const errors = [];
  console.error = (each) => errors.push(each.message);
  c.subscribe('a', () => { throw new Error('mine'); }, { since: 'first' });
  c.follow('a');
  for (const n of [1, 2]) await server.publish('a', n);
  await c.until('two', () => c.data().length === 2);
  assert.deepEqual(errors, ['mine', 'mine']);
  assert.equal(c.state, 'open');
});

test('an iterator keeps what arrives before it is asked, and ends', async (t) => {
  const server = await serve(t);
  const abort = new AbortController();
  const c = client(t, server.url, { signal: abort.signal });
  const subscription = c.subscribe('a', { since: 'first' });
  for (const n of [1, 2, 3]) await server.publish('a', n);
  await c.until('position', () => subscription.position);
  const got = [];
  for await (const { data } of subscription) {
    got.push(data);
    if (data === 2) break;
  }
  assert.deepEqual(got, [1, 2]);
  await until('left', async () => await server.metric('fanfare_subscribers') === 0);
  const other = c.subscribe('b');
  setTimeout(() => abort.abort(), 20);
  for await (const _ of other) assert.fail();
  assert.equal(c.state, 'closed');
  await until('closed', async () => await server.metric('fanfare_websockets') !== 1);
});

test('an acknowledgement window holds the server back', async (t) => {
  const server = await serve(t);
  const c = client(t, server.url);
  const orders = acknowledged(c, 'orders', { window: 4, since: 'first' });
  for (let n = 0; n < 20; n++) await server.publish('orders', n);
  const got = [];
  for await (const { data } of orders) {
    got.push(data);
    if (got.length === 20) break;
  }
  assert.deepEqual(got, [...got.keys()]);
  assert.deepEqual(c.seen.error, []);
});

test('the outbox keeps publications over a reload and sends them in order', async (t) => {
  const items = new Map();
  const storage = { getItem: (key) => items.get(key) ?? null, setItem: (key, value) => items.set(key, value) };
  const away = client(t, 'http://127.0.0.1:1');
  const first = createOutbox(away, { storage });
  for (const n of [1, 2, 3]) first.publish('a', n);
  first.publish('', 'refused');
  away.close();
  assert.equal(first.waiting.length, 4);
  const server = await serve(t, { config: PUBLISH });
  const c = client(t, server.url);
  c.follow('a', { since: 'first' });
  const refused = [];
  const second = createOutbox(c, { storage, onRefused: (error) => refused.push(error.code) });
  await until('sent', () => second.waiting.length === 0);
  await c.until('three', () => c.data().length === 3);
  assert.deepEqual(c.data(), [1, 2, 3]);
  assert.deepEqual(refused, ['bad_channel']);
});

test('minified files are those of the sources, and the core is small', async () => {
  for (const name of NAMES) {
    const text = readFileSync(file(`${name}.min.js`), 'utf8');
    assert.equal(text, await minified(name), `run the script \`minify\` of src/web/package.json`);
  }
  const { length } = gzipSync(readFileSync(file('fanfare.min.js')), { level: 9 });
  assert.ok(length <= 4096, `${length} bytes`);
});
