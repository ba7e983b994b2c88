// Runs a script in the console of a page, in a headless Chromium, until the process is ended.
//
// usage: page_script.mjs CHROMIUM URL PROFILE_DIR SCRIPT
//
// Prints each line of the page's console. An error of the page ends the process with status 1.
import { readFileSync } from 'node:fs';
import { launch } from './chromium.mjs';

const [executablePath, url, profile, script] = process.argv.slice(2);
const fail = (why) => { process.stdout.write(`${why}\n`); process.exit(1); };

const context = await launch(executablePath, profile);
const page = await context.newPage();
page.on('pageerror', (error) => fail(error.message));
await page.goto(url);
page.on('console', (line) => {
  // The page itself and its icon do not exist.
  const is_own = /no-page|favicon/.test(line.location().url);
  if (!is_own) process.stdout.write(`${line.text()}\n`);
});
// The script is the body of a function, so that it may use await.
page.evaluate(`(async () => {\n${readFileSync(script, 'utf8')}\n})()`).catch((error) => fail(error.message));
