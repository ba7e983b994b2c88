// Tests that Chromium's own EventSource reconnects after restarts of the server.
//
// usage: browser_restart.mjs CHROMIUM URL PROFILE_DIR ORIGINS ROUNDS
//
// Opens six streams from each of ORIGINS names of the URL's address. A browser opens at most six
// connections to one HTTP/1.1 origin. Prints {"open":n} when all streams are open. After each of
// ROUNDS losses, prints {"reopened":n,"stopped":n} when each stream is open again or has stopped
// permanently.
import { launch } from './chromium.mjs';

const [executablePath, address, profile, origins, rounds] = process.argv.slice(2);
const { hostname, port } = new URL(address);
const print = (value) => process.stdout.write(JSON.stringify(value) + '\n');
setTimeout(() => { process.stderr.write('not done in 90 s\n'); process.exit(1); }, 90_000).unref();

const context = await launch(executablePath, profile, { args: [`--host-resolver-rules=MAP *.example ${hostname}`] });
const streams = 6 * origins;
const counts = { opened: 0, stopped: 0 };
let settled = 0;
const settle = () => {
  const { opened, stopped } = counts;
  if (opened + stopped < streams * (settled + 1)) return;
  if (settled === 0) print({ open: opened });
  else print({ reopened: opened - streams * settled, stopped });
  settled += 1;
};
await context.exposeFunction('count', (what) => { counts[what] += 1; settle(); });
for (let origin = 0; origin < origins; origin += 1) {
  const page = await context.newPage();
  await page.goto(`http://o${origin}.example:${port}/`);
  await page.evaluate(() => {
    for (let i = 0; i < 6; i += 1) {
      const source = new EventSource('/sse?channel=a');
      source.onopen = () => window.count('opened');
      source.onerror = () => { if (source.readyState === EventSource.CLOSED) window.count('stopped'); };
    }
  });
}
while (settled <= rounds) await new Promise((done) => setTimeout(done, 20));
await context.close();
process.exit(0);
