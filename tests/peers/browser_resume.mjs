// Tests that Chromium's own EventSource reconnects after the loss of its stream.
//
// usage: browser_resume.mjs CHROMIUM URL PROFILE_DIR [COUNT]
//
// URL is any page of the server; the stream comes from the same origin. Prints {"opened":n} each
// time a stream has opened, {"id":…} for each of the COUNT (default 2) publications that it waits
// for, and {"gap":…} for a gap.
import { launch } from './chromium.mjs';

const [executablePath, url, profile, count = 2] = process.argv.slice(2);
const print = (value) => process.stdout.write(JSON.stringify(value) + '\n');
setTimeout(() => { process.stderr.write('not done in 60 s\n'); process.exit(1); }, 60_000).unref();

const context = await launch(executablePath, profile, { args: ['--ignore-certificate-errors'] });
const page = await context.newPage();
await page.exposeFunction('print', print);
await page.goto(url);
await page.evaluate((count) => new Promise((done) => {
  let [opened, received] = [0, 0];
  const source = new EventSource('/sse?channel=a');
  source.onopen = () => window.print({ opened: ++opened });
  source.onmessage = async (event) => {
    await window.print({ id: event.lastEventId });
    if (++received === count) { source.close(); done(); }
  };
  source.addEventListener('fanfare.gap', (event) => window.print({ gap: JSON.parse(event.data) }));
}), Number(count));
await context.close();
