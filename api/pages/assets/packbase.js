// packbase: what a page does by itself. Each page is complete without it.
//
// There is one way to render: the server's. To bring a page up to date, this
// script fetches the page again and swaps the parts marked data-live that
// differ. /api/status and a job's events only say when to.
'use strict';

(() => {
  const root = document.documentElement;
  const byId = (id) => document.getElementById(id);
  root.classList.add('js');

  // The token lives in this tab only, and leaves it only in the
  // Authorization header of a request to this server.
  const key = 'packbase-token';
  const token = {
    get: () => sessionStorage.getItem(key) || '',
    set: (value) => { sessionStorage.setItem(key, value); showForget(); },
    drop: () => { sessionStorage.removeItem(key); showForget(); },
  };
  const forget = byId('forget');
  const showForget = () => { forget.hidden = !token.get(); };
  forget.addEventListener('click', () => { token.drop(); say('The token is forgotten.'); });
  showForget();

  // ask shows the dialog and resolves to whether a token was given.
  function ask(wrong) {
    const dialog = byId('ask');
    if (!dialog) return Promise.resolve(false);
    const line = byId('ask-wrong');
    line.hidden = !wrong;
    line.textContent = wrong || '';
    byId('token').value = '';
    dialog.returnValue = '';
    dialog.showModal();
    return new Promise((resolve) => {
      dialog.addEventListener('close', () => {
        const value = byId('token').value.trim();
        byId('token').value = '';
        const given = dialog.returnValue === 'go' && value !== '';
        if (given) token.set(value);
        resolve(given);
      }, { once: true });
    });
  }

  // sure asks whether what cannot be undone is to be done.
  function sure(text, action) {
    const dialog = byId('sure');
    byId('sure-text').textContent = text;
    byId('sure-go').textContent = action;
    dialog.returnValue = '';
    dialog.showModal();
    return new Promise((resolve) => {
      dialog.addEventListener('close', () => resolve(dialog.returnValue === 'go'), { once: true });
    });
  }

  // post sends JSON, asks for the token when it is needed, and returns the
  // answer's body, null if the visitor gave up.
  async function post(path, body) {
    const free = document.body.dataset.auth !== 'token' || path === '/api/update';
    if (!free && !token.get() && !await ask()) return null;
    for (;;) {
      const headers = { 'Content-Type': 'application/json', Accept: 'application/json' };
      if (!free) headers.Authorization = 'Bearer ' + token.get();
      const answer = await fetch(path, { method: 'POST', headers, body: body || '{}', credentials: 'omit' });
      const data = await answer.json().catch(() => ({}));
      if (answer.ok) return data;
      if (!free && (answer.status === 401 || data.code === 'forbidden')) {
        token.drop();
        if (!await ask('That is not the token of this packbase.')) return null;
        continue;
      }
      throw new Error(data.message || 'The server answered ' + answer.status + '.');
    }
  }

  function say(text, bad) {
    const toast = document.createElement('p');
    toast.className = bad ? 'toast bad' : 'toast';
    toast.textContent = text;
    byId('toasts').append(toast);
    setTimeout(() => toast.remove(), bad ? 12000 : 6000);
  }

  const words = (answer, said) => {
    if (answer.status === 'cooldown') return 'There was an update just now. Try again in ' + answer.retry_after + ' s.';
    if (answer.status === 'queued' && answer.queued) return 'An update is running; one more follows it.';
    return said || 'Done.';
  };

  // run posts what a form or button says, and shows what came of it.
  async function run(element, body, wrong) {
    const button = element.matches('button') ? element : element.querySelector('[type=submit]');
    if (element.dataset.sure && !await sure(element.dataset.sure, button.textContent)) return;
    button.disabled = true;
    if (wrong) wrong.hidden = true;
    try {
      const answer = await post(element.dataset.post, body);
      if (!answer) return;
      if (element.dataset.then === 'job' && answer.job_id) {
        location.assign('/jobs/' + answer.job_id);
        return;
      }
      if (element.dataset.go) {
        location.assign(element.dataset.go);
        return;
      }
      say(words(answer, element.dataset.said));
      await swap();
    } catch (error) {
      if (wrong) {
        wrong.textContent = error.message;
        wrong.hidden = false;
      } else {
        say(error.message, true);
      }
    } finally {
      button.disabled = false;
    }
  }

  document.addEventListener('click', (event) => {
    const button = event.target.closest('button');
    if (!button) return;
    if ('copy' in button.dataset) copy(button);
    else if ('cancel' in button.dataset) button.closest('dialog').close('');
    else if (button.dataset.post) run(button, button.dataset.body);
  });

  document.addEventListener('submit', (event) => {
    const form = event.target;
    if (!form.dataset.post) return;
    event.preventDefault();
    const body = {};
    for (const [name, value] of new FormData(form)) {
      if (value.trim()) body[name] = value.trim();
    }
    run(form, JSON.stringify(body), form.querySelector('.wrong'));
  });

  async function copy(button) {
    const text = button.dataset.copy || button.parentElement.querySelector('code').textContent;
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      // Plain http has no clipboard but this old way.
      const area = document.createElement('textarea');
      area.value = text;
      area.className = 'out';
      document.body.append(area);
      area.select();
      const copied = document.execCommand('copy');
      area.remove();
      button.focus();
      if (!copied) { say('The browser does not let this page copy.', true); return; }
    }
    button.textContent = 'Copied';
    button.classList.add('done');
    setTimeout(() => { button.textContent = 'Copy'; button.classList.remove('done'); }, 1600);
  }

  // swap fetches a page, this one by default, and takes over what differs.
  // Of several calls at once the last one wins.
  let wanted = 0;
  async function swap(url) {
    const turn = ++wanted;
    const answer = await fetch(url || location.href, { headers: { Accept: 'text/html' }, credentials: 'omit' });
    const text = await answer.text();
    if (turn !== wanted) return;
    const page = new DOMParser().parseFromString(text, 'text/html');
    if (!page.getElementById('main')) throw new Error('no page');
    document.title = page.title;
    reload(page);
    for (const now of document.querySelectorAll('[data-live]')) {
      const next = page.getElementById(now.id);
      if (next) replace(now, next);
    }
    follow();
  }

  // reload takes over a page of which other parts are there than now.
  function reload(page) {
    const ids = (doc) => [...doc.querySelectorAll('[data-live], .away')].map((e) => e.id).join();
    const busy = document.activeElement && document.activeElement.matches('#main input, #main details *');
    if (ids(page) === ids(document) || busy) return;
    const form = document.querySelector('#mirror');
    const kept = form && page.getElementById('mirror');
    if (kept) kept.replaceWith(form); // it may be half filled in
    const away = document.querySelector('.away');
    if (away) away.remove();
    const next = page.querySelector('.away');
    if (next) byId('main').before(next);
    byId('main').replaceChildren(...page.getElementById('main').childNodes);
  }

  function replace(now, next) {
    if (now.isEqualNode(next)) return;
    const focused = now.contains(document.activeElement) ? document.activeElement.id : '';
    const open = [...now.querySelectorAll('details')].map((d) => d.open);
    [...next.querySelectorAll('details')].forEach((d, i) => { if (open[i]) d.open = true; });
    morph(now, next);
    if (focused && byId(focused)) byId(focused).focus();
  }

  // morph makes an element equal another one and leaves alone what is equal
  // already, so that only what changed is announced, and bars move.
  function morph(now, next) {
    for (const name of now.getAttributeNames()) if (!next.hasAttribute(name)) now.removeAttribute(name);
    for (const name of next.getAttributeNames()) {
      if (now.getAttribute(name) !== next.getAttribute(name)) now.setAttribute(name, next.getAttribute(name));
    }
    const ours = [...now.childNodes], theirs = [...next.childNodes];
    theirs.forEach((child, i) => {
      const old = ours[i];
      if (!old) now.append(child);
      else if (old.isEqualNode(child)) return;
      else if (old.nodeType === 1 && child.nodeType === 1 && old.tagName === child.tagName && old.id === child.id) morph(old, child);
      else old.replaceWith(child);
    });
    ours.slice(theirs.length).forEach((child) => child.remove());
  }

  const unreachable = 'This page cannot reach packbase. It tries again by itself.';

  // offline says that the server cannot be reached; '' that it can.
  function offline(text) {
    byId('offline').hidden = !text;
    byId('offline').textContent = text;
  }

  // poll asks how things are each second or two, less often while the server
  // is away, and not at all while nobody looks.
  const usual = 1500, longest = 30000, fullEach = 15000;
  let wait = usual, timer = 0, polling = false, last = '', full = Date.now();
  async function poll() {
    clearTimeout(timer);
    if (document.hidden || polling) return;
    polling = true;
    try {
      const answer = await fetch('/api/status', { credentials: 'omit' });
      const text = (await answer.text()).replace(/"(seen_at|disk_free|request_id)":("[^"]*"|-?\d+)/g, '');
      if (last && text !== last || Date.now() - full > fullEach) {
        await swap();
        full = Date.now();
      }
      last = text;
      wait = answer.ok ? usual : Math.min(wait * 1.5, longest);
      offline('');
    } catch {
      wait = Math.min(wait * 2, longest);
      offline(unreachable);
    }
    polling = false;
    timer = setTimeout(poll, wait * (0.9 + Math.random() / 5));
  }

  // follow watches the page's job until it ends.
  let events = null, watched = '';
  function follow() {
    const element = document.querySelector('[data-follow]');
    const path = element && !document.hidden ? element.dataset.follow : '';
    if (path === watched) return;
    offline('');
    if (events) events.close();
    events = null;
    watched = path;
    if (!path) return;
    events = new EventSource(path);
    let busy = false, again = false;
    const update = async () => {
      if (busy) { again = true; return; }
      busy = true;
      do {
        again = false;
        await swap().catch(() => {});
        await new Promise((done) => setTimeout(done, 300));
      } while (again);
      busy = false;
    };
    events.addEventListener('job', update);
    events.addEventListener('open', () => offline(''));
    events.addEventListener('error', async () => {
      // The server ends the stream with the job: the page then has nothing to
      // follow. Else the browser dials again, unless it was refused.
      update();
      await new Promise((done) => setTimeout(done, 1000));
      if (watched !== path || events.readyState === EventSource.OPEN) return;
      offline(unreachable);
      if (events.readyState === EventSource.CLOSED) {
        watched = '';
        setTimeout(follow, 3000);
      }
    });
  }

  // Search as one types.
  const search = document.querySelector('[data-search]');
  if (search) {
    let pause = 0;
    search.addEventListener('input', () => {
      clearTimeout(pause);
      pause = setTimeout(() => {
        const query = new URLSearchParams([...new FormData(search)].filter(([, value]) => value));
        const url = location.pathname + (query.size ? '?' + query : '');
        history.replaceState(null, '', url);
        swap(url).catch(() => offline(unreachable));
      }, 120);
    });
    search.addEventListener('submit', (event) => event.preventDefault());
  }

  document.addEventListener('keydown', (event) => {
    if (event.key !== '/' || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.closest('input, textarea, select, dialog')) return;
    const field = byId('q') || byId('find');
    if (!field) return;
    event.preventDefault();
    field.focus();
    field.select();
  });

  // Keep "3 minutes ago" true. It is worded as in words.go.
  function ago(then) {
    const d = (Date.now() - then) / 1000, abs = Math.abs(d), future = d < -1;
    if (abs < 45) return future ? 'in a moment' : 'just now';
    const [n, unit] = abs < 2700 ? [abs / 60, 'minute'] : abs < 79200 ? [abs / 3600, 'hour'] :
      abs < 5184000 ? [abs / 86400, 'day'] : abs < 60480000 ? [abs / 86400 / 30.4, 'month'] : [abs / 86400 / 365.25, 'year'];
    const whole = Math.max(Math.round(n), 1);
    const text = whole + ' ' + unit + (whole === 1 ? '' : 's');
    return future ? 'in ' + text : text + ' ago';
  }
  setInterval(() => {
    for (const time of document.querySelectorAll('time[data-ago]')) {
      const text = ago(Date.parse(time.dateTime));
      if (time.textContent !== text) time.textContent = text;
    }
  }, 10000);

  const live = document.querySelector('#headline, #about, #results, #back-soon');
  document.addEventListener('visibilitychange', () => {
    follow();
    if (live) poll();
  });
  follow();
  if (live) poll();
})();
