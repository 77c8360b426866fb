// Sentences for the user: what the connection does (above), one of each kind over the result, and a curtain before the
// result when there is none. All are spoken once, by the one live region of the page.

const MOST_SPOKEN = 4;
const $ = id => document.getElementById(id);
const notices = new Map();
const upper = sentence => sentence[0].toUpperCase() + sentence.slice(1);

export function speak(sentence) {
  const spoken = $('spoken'), item = document.createElement('p');
  if (spoken.lastElementChild?.textContent === upper(sentence)) spoken.lastElementChild.remove();
  item.textContent = upper(sentence);
  spoken.append(item);
  while (spoken.children.length > MOST_SPOKEN) spoken.firstElementChild.remove();
}

// What has the focus goes away: the result has it then, and not the top of the page.
function keepFocus(part) { if (part.contains(document.activeElement)) $('result').focus({preventScroll: true}); }

// Actions are [label, function]; each takes the sentence away.
export function notice(about, sentence, seconds = 0, actions = []) {
  const last = notices.get(about);
  clearTimeout(last?.timer);
  if (sentence && last?.sentence !== sentence) speak(sentence);
  last?.item.remove();
  notices.delete(about);
  if (!sentence) return;
  const item = document.createElement('li');
  item.append(upper(sentence), ...actions.map(([label, does]) => {
    const button = document.createElement('button');
    button.type = 'button';
    button.textContent = label;
    button.onclick = () => { keepFocus(item); notice(about, ''); does(); };
    return button;
  }));
  $('notices').append(item);
  notices.set(about, {item, sentence, timer: seconds && setTimeout(() => notice(about, ''), 1000 * seconds)});
}

// `spoken` is what is said aloud of it: a countdown is no news.
export function state(sentence, spoken = sentence) {
  if ($('state').textContent === sentence) return;
  $('state').textContent = sentence;
  if (spoken) speak(spoken);
}

// Before the result: a title, a sentence, and perhaps a button, [label, function]. Nothing takes it away.
export function curtain(title = '', sentence = '', action = null) {
  if (!action) keepFocus($('curtain'));
  $('curtain').hidden = !title;
  $('curtain-title').textContent = title && upper(title);
  $('curtain-text').textContent = sentence && upper(sentence);
  $('curtain-go').hidden = !action;
  if (action) [$('curtain-go').textContent, $('curtain-go').onclick] = action;
}
