// Gives Node the events of a page. Imported before the module is.
const events = new EventTarget();
for (const name of ['addEventListener', 'removeEventListener', 'dispatchEvent']) {
  globalThis[name] = events[name].bind(events);
}
