// Starts a headless Chromium for the other scripts of this folder.
import { chromium } from 'playwright-core';

const QUIET = [
  '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
  '--disable-background-networking', '--disable-component-update', '--disable-sync',
];

// Returns the context of a new browser. `args` are further arguments of the browser.
export const launch = (executablePath, profile, { args = [], ...options } = {}) =>
  chromium.launchPersistentContext(profile, {
    executablePath, headless: true, args: [...QUIET, ...args], ...options,
  });
