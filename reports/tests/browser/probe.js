// Put at the end of the test's copy of a report. Says what a reader would see, to the page around the frame.
addEventListener("load", () => setTimeout(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const text = (node) => node.textContent.replace(/\s+/g, " ").trim();
  const badge = (node) => {
    const found = node.querySelector("[data-badge]");
    return found ? found.dataset.badge : null;
  };
  const shown = (node) => node.checkVisibility({ visibilityProperty: true }) && node.getClientRects().length > 0;

  // WCAG contrast of every piece of text against the nearest ground that is painted behind it.
  const parse = (colour) => (colour.match(/[\d.]+/g) || []).map(Number);
  const luminance = ([r, g, b]) => [r, g, b].map((c) => c / 255)
    .map((c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (node) => {
    for (let at = node; at; at = at.parentElement) {
      const colour = parse(getComputedStyle(at).backgroundColor);
      if (colour.length === 3 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  let worst = { contrast: 99, text: "" };
  let texts = 0;
  for (const node of all("body *")) {
    const own = [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim());
    if (!own || !shown(node) || ["SCRIPT", "STYLE"].includes(node.tagName)) continue;
    const style = getComputedStyle(node);
    const colour = node.tagName.toLowerCase() === "text" ? parse(style.fill) : parse(style.color);
    const [a, b] = [luminance(colour), luminance(ground(node))];
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    texts += 1;
    if (contrast < worst.contrast) worst = { contrast, text: text(node).slice(0, 60) };
  }

  // What reaches out of the page to the right without being inside a box that scrolls by itself.
  const width = document.documentElement.clientWidth;
  const wide = all("body *").filter((node) => shown(node)
    && node.getBoundingClientRect().right > width + 1
    && !node.closest(".scroll") && !node.closest("svg"))
    .map((node) => `${node.tagName}.${node.className}: ${text(node).slice(0, 40)}`);

  const smallest = Math.min(...all("figure svg text").filter(shown)
    .map((node) => node.getBoundingClientRect().height));

  parent.postMessage(encodeURIComponent(JSON.stringify({
    width,
    scrollWidth: document.documentElement.scrollWidth,
    wide,
    dark: matchMedia("(prefers-color-scheme: dark)").matches,
    ground: getComputedStyle(document.body).backgroundColor,
    texts,
    worst,
    smallest,
    resources: performance.getEntriesByType("resource").map((entry) => entry.name),
    pwned: window.pwned === undefined ? "no" : "yes",
    figures: all("figure").map((figure) => ({
      drawings: all("svg", figure).length,
      labelled: all("svg", figure).every((svg) => svg.getAttribute("aria-label")),
      folded: figure.closest("details") !== null,
      shown: all("svg", figure).filter(shown).length,
    })),
    answers: all("[data-claim]").map((node) => ({
      claim: node.dataset.claim,
      arm: node.dataset.arm || null,
      answer: node.dataset.answer,
      badge: node.dataset.arm ? badge(node) : null,
      text: text(node),
    })),
    rows: all("table.samples tr[data-arm]").map((row) => ({
      metric: row.closest("[data-metric]").dataset.metric,
      arm: row.dataset.arm,
      state: row.dataset.state,
      median: row.dataset.median === undefined ? null : Number(row.dataset.median),
      cells: all("th,td", row).map(text),
      badge: badge(row),
    })),
    slopes: all("[data-slope-arm]").map((row) => ({
      arm: row.dataset.slopeArm,
      badge: badge(row),
      cells: all("th,td", row).map(text),
    })),
    notices: all(".notice").map(text),
  })), "*");
}, 50));
