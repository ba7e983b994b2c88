// Operates the page at `/` in a headless Chromium, step by step, through its controls.
//
// usage: page.mjs CHROMIUM URL PROFILE_DIR SCREENSHOT
//
// Prints one JSON object per line: {"live":…} when figures arrive over both transports,
// {"subscribed":…} when the form's subscription is confirmed, and {"seen":…} when the form's
// publication is shown.
import { launch } from './chromium.mjs';

const [executablePath, url, profile, screenshot] = process.argv.slice(2);
const print = (value) => process.stdout.write(JSON.stringify(value) + '\n');
setTimeout(() => { process.stderr.write('not done in 90 s\n'); process.exit(1); }, 90_000).unref();

const context = await launch(executablePath, profile, { viewport: { width: 1100, height: 1000 } });
const page = await context.newPage();
const errors = [];
page.on('pageerror', (error) => errors.push(error.message));
page.on('console', (line) => { if (line.type() === 'error') errors.push(line.text()); });
await page.goto(url, { waitUntil: 'domcontentloaded' });

for (const transport of ['sse', 'ws']) {
  const panel = page.locator(`[data-transport="${transport}"]`);
  await panel.and(page.locator('[data-state="open"]')).waitFor({ timeout: 20_000 });
  await page.waitForFunction(
    (name) => Number(document.querySelector(`[data-transport="${name}"]`).dataset.count) >= 3,
    transport,
    { timeout: 20_000 },
  );
  print({ live: transport, last: await panel.getAttribute('data-last-id') });
}

for (const transport of ['ws', 'sse']) {
  await page.fill('#channel', `test:page-${transport}`);
  await page.check(`input[name="transport"][value="${transport}"]`);
  await page.click('#subscribe');
  await page.locator('#tap[data-state="open"]').waitFor({ timeout: 20_000 });
  print({ subscribed: transport });
  const line = page.locator('#tap-lines li', { hasText: `<b>hello ${transport}</b>` });
  await line.first().waitFor({ timeout: 20_000 });
  print({ seen: transport, text: await line.first().innerText() });
  await page.click('#subscribe');
}
await page.screenshot({ path: screenshot, fullPage: true });
print({ errors });
await context.close();
