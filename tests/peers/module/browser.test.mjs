// The module in a headless Chromium: a page of another origin, a worker, the back/forward cache.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import http from 'node:http';
import { join } from 'node:path';
import { test } from 'node:test';

import { file } from './minify.mjs';
import { chromium, folder, serve, until } from './support.mjs';

const PAGE = `<!doctype html><title>module</title><script type="module">
import { connect } from './fanfare.min.js';
const { server, transport } = Object.fromEntries(new URLSearchParams(location.search));
const client = connect(server, { transports: [transport], since: 'first' });
window.got = [];
window.states = [];
client.on('state', ({ state }) => states.push(state));
client.subscribe('a', ({ data }) => got.push(data));
</script>`;

const WORKER = `import { connect } from './fanfare.min.js';
const client = connect(new URLSearchParams(location.search).get('server'), { since: 'first' });
client.subscribe('a', ({ data }) => postMessage(data));`;

// Serves the page, the worker and the module.
const host = async (t) => {
  const files = {
    '/': ['text/html', PAGE],
    '/other': ['text/html', '<!doctype html><title>other</title>'],
    '/worker.js': ['text/javascript', WORKER],
    '/fanfare.min.js': ['text/javascript', readFileSync(file('fanfare.min.js'))],
  };
  const listener = http.createServer((request, response) => {
    const [type, body] = files[request.url.split('?')[0]] ?? [];
    response.writeHead(type ? 200 : 404, { 'Content-Type': type ?? 'text/plain' }).end(body);
  });
  listener.listen(0, '127.0.0.1');
  await once(listener, 'listening');
  t.after(() => {
    listener.close();
    listener.closeAllConnections();
  });
  return `http://127.0.0.1:${listener.address().port}`;
};

const browse = async (t) => {
  // Playwright disables the back/forward cache.
  const context = await chromium.launchPersistentContext(join(folder(t), 'profile'), {
    executablePath: '/usr/bin/chromium',
    headless: true,
    ignoreDefaultArgs: ['--disable-back-forward-cache'],
    args: ['--no-sandbox', '--disable-gpu', '--no-first-run', '--disable-background-networking'],
  });
  t.after(() => context.close());
  const page = await context.newPage();
  page.on('pageerror', (error) => assert.fail(error));
  return page;
};

for (const transport of ['websocket', 'event_stream', 'poll']) {
  test(`a page follows ${transport} and returns from the back/forward cache`, async (t) => {
    const page = await browse(t);
    const origin = await host(t);
    const server = await serve(t, { config: `[browser]\norigins = ["${origin}"]\n` });
    const got = () => page.evaluate(() => window.got);
    await server.publish('a', 1);
    await page.goto(`${origin}/?server=${encodeURIComponent(server.url)}&transport=${transport}`);
    await until('1', async () => (await got()).length === 1);
    await page.goto(`${origin}/other`);
    await until('no subscriber', async () => await server.metric('fanfare_subscribers') === 0);
    await server.publish('a', 2);
    // The cache restores the page, so there is no `load`.
    await page.goBack({ waitUntil: 'commit' });
    await until('2', async () => (await got())?.length === 2);
    assert.deepEqual(await got(), [1, 2]);
    assert.ok((await page.evaluate(() => window.states)).includes('paused'), 'a page of the cache');
  });
}

test('a worker follows a channel', async (t) => {
  const page = await browse(t);
  const origin = await host(t);
  const server = await serve(t, { config: `[browser]\norigins = ["${origin}"]\n` });
  await page.goto(`${origin}/other`);
  await server.publish('a', 'to a worker');
  const received = await page.evaluate((url) => new Promise((done) => {
    const worker = new Worker(`/worker.js?server=${encodeURIComponent(url)}`, { type: 'module' });
    worker.onmessage = ({ data }) => done(data);
  }), server.url);
  assert.equal(received, 'to a worker');
});
