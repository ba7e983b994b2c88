// Operates the page at `/` of a server that requires tokens, in a headless Chromium.
//
// usage: page_token.mjs CHROMIUM URL PROFILE_DIR SCREENSHOT FANFARE SECRET
//
// The program FANFARE signs the tokens with the secret. The tokens allow the demo's channels. The
// channel `open` needs no token. Prints one JSON object per line: {"asked":…} with the reason each
// time the page asks for a token, {"live":…} when figures arrive, and {"subscribed":…} and
// {"seen":…} as page.mjs does. At the end prints {"leaks":[…]}, a list of the places that contain a
// token although they must not. SCREENSHOT.before.png shows the page without a token, and
// SCREENSHOT.after.png shows the page with a token.
import { execFileSync } from 'node:child_process';
import { launch } from './chromium.mjs';

const [executablePath, url, profile, screenshot, fanfare, secret] = process.argv.slice(2);
const sign = (seconds) => execFileSync(fanfare, [
  'token', '--key', secret, '--sub', 'alice', '--subscribe', 'demo:*', '--expires-in', seconds,
], { encoding: 'utf8' }).trim();
const print = (value) => process.stdout.write(JSON.stringify(value) + '\n');
setTimeout(() => { process.stderr.write('not done in 90 s\n'); process.exit(1); }, 90_000).unref();

const context = await launch(executablePath, profile, { viewport: { width: 1100, height: 1000 } });
const page = await context.newPage();
const [errors, urls] = [[], []];
page.on('pageerror', (error) => errors.push(error.message));
page.on('request', (request) => urls.push(request.url()));
page.on('websocket', (socket) => urls.push(socket.url()));
await page.goto(url, { waitUntil: 'domcontentloaded' });

const timeout = 20_000;
const asked = async (why) => {
  await page.locator('#access-why:visible', { hasText: why }).waitFor({ timeout });
  print({ asked: await page.innerText('#access-why') });
};
const enter = async (text) => {
  await page.fill('#token', text);
  await page.click('#access-form button');
};
const subscribe = async (channel, transport) => {
  await page.fill('#channel', channel);
  await page.check(`input[name="transport"][value="${transport}"]`);
  await page.click('#subscribe');
  await page.locator('#tap[data-state="open"]').waitFor({ timeout });
};
const live = async (state) => {
  for (const transport of ['sse', 'ws']) {
    const panel = page.locator(`[data-transport="${transport}"][data-state="${state}"]`);
    await panel.waitFor({ timeout });
    if (state !== 'open') continue;
    const had = Number(await panel.getAttribute('data-count'));
    await page.waitForFunction(
      ([name, had]) => Number(document.querySelector(`[data-transport="${name}"]`).dataset.count) > had,
      [transport, had],
      { timeout },
    );
    print({ live: transport });
  }
};

await live('refused');
await asked('demo:load');
for (const transport of ['ws', 'sse']) {
  await subscribe('open', transport);
  print({ subscribed: transport });
  await page.locator('#tap-lines li', { hasText: `hello ${transport}` }).first().waitFor({ timeout });
  print({ seen: transport });
  await page.click('#subscribe');
}
await page.screenshot({ path: `${screenshot}.before.png`, fullPage: true });

await enter('a.b.c');
await asked('malformed');
const short = sign('4');
await enter(short);
await asked('expired');
await live('refused');
// An invalid token does not close streams that need no token.
await subscribe('open', 'ws');
await page.click('#subscribe');
const token = sign('3600');
await enter(token);
await live('open');

await page.fill('#channel', 'secret');
await page.click('#subscribe');
await asked('does not allow');
await page.click('#subscribe');
await page.locator('#access').waitFor({ state: 'hidden', timeout });

const places = await page.evaluate(() => [
  location.href, document.documentElement.outerHTML, document.querySelector('#token').value,
  document.cookie, JSON.stringify({ ...localStorage, ...sessionStorage }), JSON.stringify(history.state),
]);
const leaks = [...places, ...urls].filter((text) => text.includes(token) || text.includes(short));
await page.screenshot({ path: `${screenshot}.after.png`, fullPage: true });
print({ leaks, errors });
await context.close();
