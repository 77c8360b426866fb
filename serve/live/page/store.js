// What is remembered when the page is opened again; a browser that keeps nothing loses nothing else.

const NAME = 'triportrait live';

function all() {
  try { return JSON.parse(localStorage.getItem(NAME)) ?? {}; } catch { return {}; }
}

export function recall(name, otherwise) { return all()[name] ?? otherwise; }

export function remember(name, value) {
  try { localStorage.setItem(NAME, JSON.stringify({...all(), [name]: value})); } catch { /* private, or full */ }
}
