// What is wrong with the page for those who see little, type instead of
// point, or have a small screen. WCAG 2.2: 1.3.1, 1.4.3, 1.4.10, 2.4.3, 4.1.2.
(() => {
  const problems = new Set();
  const tell = (element, text) => problems.add(text + ': ' + element.outerHTML.slice(0, 120).replace(/\s+/g, ' '));

  if (document.documentElement.scrollWidth > window.innerWidth) {
    problems.add('the page is ' + document.documentElement.scrollWidth + ' pixels wide on a screen of ' + window.innerWidth);
  }

  const ids = new Map();
  for (const e of document.querySelectorAll('[id]')) {
    if (ids.has(e.id)) tell(e, 'the id is there twice');
    ids.set(e.id, e);
  }
  for (const e of document.querySelectorAll('input:not([type=hidden])')) {
    if (!e.labels.length && !e.getAttribute('aria-label')) tell(e, 'the field has no label');
  }
  for (const e of document.querySelectorAll('button, a[href]')) {
    if (!(e.getAttribute('aria-label') || e.textContent.trim())) tell(e, 'it has no name');
  }
  for (const e of document.querySelectorAll('img:not([alt])')) tell(e, 'the image has no alternative');
  for (const e of document.querySelectorAll('.doc thead')) {
    if (!e.checkVisibility()) tell(e, 'a document has a table without its head');
  }
  for (const e of document.querySelectorAll('progress:not([aria-hidden])')) {
    if (!e.getAttribute('aria-label')) tell(e, 'the bar has no name');
  }
  if (document.querySelectorAll('h1').length !== 1) problems.add('the page has ' + document.querySelectorAll('h1').length + ' h1');
  let level = 0;
  for (const e of document.querySelectorAll('h1, h2, h3, h4')) {
    if (e.closest('dialog')) continue;
    if (+e.tagName[1] > level + 1) tell(e, 'the heading skips a level');
    level = +e.tagName[1];
  }

  const parse = (color) => color.match(/[\d.]+/g).map(Number);
  const over = (top, below, alpha) => top.slice(0, 3).map((v, i) => v * alpha + below[i] * (1 - alpha));
  const background = (e) => {
    if (!e) return [255, 255, 255];
    const c = parse(getComputedStyle(e).backgroundColor);
    const alpha = c.length > 3 ? c[3] : 1;
    return alpha === 1 ? c.slice(0, 3) : over(c, background(e.parentElement), alpha);
  };
  const light = (c) => {
    const [r, g, b] = c.map((v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const e = texts.currentNode.parentElement;
    if (!texts.currentNode.data.trim() || !e.checkVisibility({ checkVisibilityCSS: true }) || e.closest('.out, [aria-hidden=true], noscript, :disabled, svg, .off')) continue;
    const style = getComputedStyle(e);
    let alpha = 1;
    for (let p = e; p; p = p.parentElement) alpha *= +getComputedStyle(p).opacity;
    const ground = background(e);
    const [a, b] = [light(over(parse(style.color), ground, alpha)), light(ground)].sort((x, y) => y - x);
    const contrast = (a + 0.05) / (b + 0.05);
    const large = parseFloat(style.fontSize) >= 24 || parseFloat(style.fontSize) >= 18.66 && +style.fontWeight >= 700;
    if (contrast < (large ? 3 : 4.5)) tell(e, 'the contrast is ' + contrast.toFixed(2));
  }
  return [...problems];
})()
