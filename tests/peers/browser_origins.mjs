// Opens all transports of a server from pages of other origins in a headless Chromium, with a
// cookie.
//
// usage: browser_origins.mjs CHROMIUM SERVER COOKIE PROFILE_DIR PAGE...
//
// SERVER is the origin of the server, COOKIE is its cookie as `name=value`, and each PAGE is a page
// of another origin. Prints one JSON object for each PAGE with the results of its event stream, its
// polls and its WebSocket: `opened`, a status, or `error`.
import { launch } from './chromium.mjs';

const [executablePath, server, cookie, profile, ...pages] = process.argv.slice(2);
const print = (value) => process.stdout.write(JSON.stringify(value) + '\n');
setTimeout(() => { process.stderr.write('not done in 60 s\n'); process.exit(1); }, 60_000).unref();

const context = await launch(executablePath, profile);
const [name, value] = cookie.split('=');
await context.addCookies([{ name, value, url: server, sameSite: 'Strict', httpOnly: true }]);

const visit = async (server) => {
  const outcome = (source) => new Promise((done) => {
    source.onopen = () => done('opened');
    source.onerror = () => done('error');
  }).finally(() => source.close());
  const poll = async (options) => {
    const url = `${server}/poll?channel=a&timeout=0`;
    const answer = await fetch(url, options).catch(() => null);
    return answer && { status: answer.status, tag: answer.headers.get('ETag'), body: await answer.text() };
  };
  const credentials = 'include';
  const stream = await outcome(new EventSource(`${server}/sse?channel=a`, { withCredentials: true }));
  const plain = await poll({ credentials });
  const headers = { 'If-None-Match': plain?.tag ?? '"x"' };
  const preflighted = await poll({ credentials, headers });
  const socket = await outcome(new WebSocket(`${server.replace('http', 'ws')}/ws?channel=a`));
  return {
    stream,
    poll: plain?.status ?? 'error',
    read: Boolean(plain?.body),
    again: preflighted?.status ?? 'error',
    socket,
  };
};

for (const url of pages) {
  const page = await context.newPage();
  await page.goto(url);
  print(await page.evaluate(visit, server));
  await page.close();
}
await context.close();
