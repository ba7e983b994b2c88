// Runs the README's example for browsers in the console of the page at `/`, in a headless Chromium.
//
// usage: page_example.mjs CHROMIUM URL PROFILE_DIR README COUNT
//
// Prints the arguments of the example's first COUNT calls of console.log, one JSON array per line.
import { readFileSync } from 'node:fs';
import { chromium } from 'playwright-core';

const [executablePath, url, profile, readme, count] = process.argv.slice(2);
const fail = (why) => { process.stderr.write(`${why}\n`); process.exit(1); };
setTimeout(() => fail('not done in 60 s'), 60_000).unref();

const blocks = [...readFileSync(readme, 'utf8').matchAll(/^```js\n(.*?)^```/gms)].map((found) => found[1]);
const example = blocks.find((block) => block.includes('new EventSource(')) ?? fail('no example');

const context = await chromium.launchPersistentContext(profile, {
  executablePath,
  headless: true,
  args: [
    '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
    '--disable-background-networking', '--disable-component-update', '--disable-sync',
  ],
});
const page = await context.newPage();
page.on('pageerror', (error) => fail(error.message));
await page.goto(url);
const calls = [];
await new Promise((done) => {
  page.on('console', (line) => {
    if (line.type() === 'log') calls.push(Promise.all(line.args().map((value) => value.jsonValue())));
    if (calls.length >= Number(count)) done();
  });
  page.evaluate(example).catch((error) => fail(error.message));
});
for (const call of calls.slice(0, Number(count))) process.stdout.write(JSON.stringify(await call) + '\n');
await context.close();
