// Losses: a killed server, a drain, a restart without a journal, silence, and events of the page.
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { test } from 'node:test';

import { client, folder, proxy, serve, until } from './support.mjs';

const TRANSPORTS = ['websocket', 'event_stream', 'poll'];
const DRAIN = '[drain]\nwindow_ms = 100\nretry_ms = 300\n';
const journal = (path) => `[journal]\npath = ${JSON.stringify(join(path, 'journal'))}\n`;

for (const transport of TRANSPORTS) {
  for (const signal of ['SIGKILL', 'SIGTERM']) {
    test(`${transport} resumes after ${signal} with a journal`, async (t) => {
      const path = folder(t);
      const config = DRAIN + journal(path);
      const first = await serve(t, { path, config });
      const c = client(t, first.url, { transports: [transport] });
      c.follow('a', { since: 'first' });
      const quiet = c.follow('quiet');
      for (const n of [1, 2]) await first.publish('a', n);
      await c.until('two', () => c.data().length === 2 && quiet.position);
      await first.kill(signal);
      await until('the loss', () => c.seen.state.some(({ state }) => state === 'waiting'));
      if (signal === 'SIGTERM' && transport === 'websocket') {
        const { code, reason, delay } = c.seen.state.find(({ state }) => state === 'waiting');
        assert.deepEqual([code, reason], [1012, `retry_ms=${delay}`]);
      }
      const second = await serve(t, { path, config, port: first.port });
      await second.publish('a', 3);
      await second.publish('quiet', 4);
      await c.until('four', () => c.data().length === 4);
      assert.deepEqual(c.data().toSorted(), [1, 2, 3, 4]);
      assert.deepEqual(c.seen.gap, []);
    });
  }

  test(`${transport} reports the gap of a restart once`, async (t) => {
    const path = folder(t);
    const first = await serve(t, { path });
    const relay = await proxy(t, first);
    const c = client(t, relay.url, { transports: [transport] });
    const a = c.follow('a');
    await c.until('a', () => a.position);
    await first.publish('a', 1);
    await c.until('1', () => c.data().length === 1);
    await first.kill('SIGKILL');
    const second = await serve(t, { path });
    relay.port = second.port;
    await c.until('the gap', () => c.seen.gap.length === 1);
    assert.equal(c.seen.gap[0].cause, 'restart');
    // Two more losses on a channel that stays quiet.
    for (const _ of [1, 2]) {
      await until('a subscriber', async () => await second.metric('fanfare_subscribers') === 1);
      const count = c.seen.state.filter(({ state }) => state === 'open').length;
      relay.cut();
      await c.until('open', () => c.seen.state.filter(({ state }) => state === 'open').length > count);
    }
    await second.publish('a', 2);
    await c.until('2', () => c.data().length === 2);
    assert.equal(c.seen.gap.length, 1);
  });
}

for (const transport of TRANSPORTS.slice(0, 2)) {
  test(`${transport} that goes silent is replaced`, async (t) => {
    const server = await serve(t, { config: '[heartbeat]\ninterval_ms = 200\n' });
    const relay = await proxy(t, server);
    const c = client(t, relay.url, { transports: [transport], heartbeat: 200 });
    const a = c.follow('a');
    await c.until('a', () => a.position);
    // Heartbeats and pongs keep an idle connection for ten intervals.
    await new Promise((done) => setTimeout(done, 2000));
    assert.equal(c.seen.state.filter(({ state }) => state === 'open').length, 1);
    relay.silent = true;
    await server.publish('a', 1);
    await c.until('the loss', () => c.seen.state.some(({ reason }) => reason === 'timeout'));
    relay.silent = false;
    await c.until('1', () => c.data().length === 1);
  });
}

test('events of the page end and resume the connection', async (t) => {
  const server = await serve(t);
  const c = client(t, server.url);
  const a = c.follow('a');
  await c.until('a', () => a.position);
  for (const [leave, state, enter] of [['offline', 'offline', 'online'], ['pagehide', 'paused', 'pageshow']]) {
    dispatchEvent(new Event(leave));
    assert.equal(c.state, state);
    await until('no subscriber', async () => await server.metric('fanfare_subscribers') === 0);
    await server.publish('a', leave);
    dispatchEvent(new Event(enter));
    await c.until(leave, () => c.data().includes(leave));
  }
  assert.deepEqual(c.data(), ['offline', 'pagehide']);
  assert.ok(c.seen.state.every(({ state }) => state !== 'waiting'));
});
