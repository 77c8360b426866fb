// The portrait: one of the package's, or a picture of one's own. One that is refused leaves the last one shown.

import {drive} from './driver.js';
import {emit, listen, say, session} from './line.js';
import {notice} from './notices.js';
import {recall, remember} from './store.js';

const MOST_OWN = 2; // pictures of one's own that stay at hand
const PICTURE_NAME = /\.(jpe?g|jpe|jfif|jif|pjpeg|mpo|png|webp|bmp|tiff?|gif|avif)$/i;
const $ = id => document.getElementById(id);
const drop = $('drop');

let shown = {example: null, file: null};
let own = [];    // {file, crop}, the newest first
let wished = 0;  // portraits asked for

listen('hello', ({examples}) => {
  const remembered = recall('example', examples[0]);
  showChoices();
  choose(shown.file || shown.example ? shown : {example: examples.includes(remembered) ? remembered : examples[0], file: null});
});
listen('lost', () => { wished += 1; }); // what is on its way belongs to the session that has ended
listen('portrait', ({crop, sentence, example, refined}) => {
  session.ready = true;
  $('crop').src = crop;
  $('crop').alt = 'the portrait as the network sees it';
  $('crop').hidden = false;
  if (example) { keep({example, file: null}); remember('example', example); }
  notice('portrait', sentence, 12);
  emit('refined', refined);
});

const isPicture = ({type, name}) => type ? type.startsWith('image/') : PICTURE_NAME.test(name);

async function choose(choice) {
  const {example, file} = choice;
  for (const about of ['portrait', 'choice']) notice(about, '');
  if (example) {
    wished += 1;
    return say({do: 'example', name: example});
  }
  if (!isPicture(file)) return refused(`${file.name} is no picture; choose a JPEG or a PNG`);
  if (file.size > session.hello.most_bytes)
    return refused(`${file.name} is larger than ${session.hello.most_bytes >> 20} MB; make it smaller`);
  const attempt = ++wished;
  drop.classList.add('busy');
  try {
    const response = await fetch(`/portrait?session=${session.hello.session}`,
      {method: 'POST', body: file, headers: {'content-type': file.type || 'image/jpeg'}});
    const reply = await response.json();
    if (attempt !== wished) return; // the server shows what was asked for last
    if (!response.ok) return refused(reply.sentence ?? `the server refused it (${response.status}); try another file`);
    own = [{file, crop: reply.crop}, ...own.filter(photo => photo.file !== file)].slice(0, MOST_OWN);
    keep(choice);
    emit('portrait', reply);
  } catch {
    if (attempt === wished) refused('the portrait did not reach the server; try again');
  } finally {
    drop.classList.remove('busy');
  }
}

function refused(sentence) {
  notice('choice', sentence, 12);
  if (!session.ready && session.hello) say({do: 'example', name: session.hello.examples[0]}); // after a reconnection
}

// It is shown, and asked for again when the connection comes back.
function keep(choice) {
  shown = choice;
  showChoices();
}

function showChoices() {
  const focused = document.activeElement?.dataset?.name;
  const button = (name, label, source, choice) => {
    const element = document.createElement('button'), image = document.createElement('img');
    Object.assign(image, {src: source, alt: ''});
    element.type = 'button';
    element.dataset.name = name;
    element.setAttribute('aria-label', label);
    element.setAttribute('aria-pressed', choice.file ? shown.file === choice.file : shown.example === choice.example);
    element.append(image);
    element.onclick = () => choose(choice);
    return element;
  };
  $('examples').replaceChildren(...(session.hello?.examples ?? []).map(
    name => button(name, name.replace('-', ' '), `/examples/${name}.jpg`, {example: name, file: null})));
  $('own').replaceChildren(...own.map(
    ({file, crop}, i) => button(`own-${i}`, `photo ${i + 1}, ${file.name}`, crop, {example: null, file})));
  $('own').hidden = !own.length;
  if (focused) $('heads').querySelector(`[data-name="${focused}"]`)?.focus();
}

$('upload').onclick = () => $('portrait-file').click();
drop.onclick = () => { if (!$('upload').matches(':disabled')) $('portrait-file').click(); };
$('portrait-file').onchange = event => {
  const [file] = event.target.files;
  if (file) take(file);
  event.target.value = '';
};
for (const kind of ['dragover', 'dragleave', 'drop']) addEventListener(kind, event => {
  event.preventDefault();
  document.body.classList.toggle('dropping', kind === 'dragover');
  const [file] = kind === 'drop' ? event.dataTransfer.files : [];
  if (!file) return;
  if (!session.hello || isPicture(file)) take(file); else drive('file', file);
});

function take(file) {
  if (session.hello) return choose({example: null, file});
  notice('choice', 'there is no session now; try again when it has begun', 8);
}
