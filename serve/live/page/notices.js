// Sentences for the user: one of each kind at a time, below the result.

const notices = new Map();

export function notice(about, sentence, seconds = 0) {
  clearTimeout(notices.get(about)?.timer);
  notices.get(about)?.item.remove();
  notices.delete(about);
  if (!sentence) return;
  const item = document.createElement('li');
  item.textContent = sentence[0].toUpperCase() + sentence.slice(1);
  document.getElementById('notices').append(item);
  notices.set(about, {item, timer: seconds && setTimeout(() => notice(about, ''), 1000 * seconds)});
}

export function state(sentence) { document.getElementById('state').textContent = sentence; }
