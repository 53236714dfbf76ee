// Of each text on the page: its contrast with what is behind it (WCAG 2.2), and how it begins.
() => {
    const parse = (text) => { const m = text.match(/[\d.]+/g).map(Number); return [m[0], m[1], m[2], m[3] ?? 1]; };
    const light = (c) => {
        const [r, g, b] = c.slice(0, 3).map((v) => v / 255).map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const behind = (node) => {
        for (let each = node; each; each = each.parentElement) {
            const c = parse(getComputedStyle(each).backgroundColor);
            if (c[3] === 1) return c;
        }
        return [255, 255, 255, 1];
    };
    const found = [];
    const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walk.nextNode()) {
        const element = walk.currentNode.parentElement;
        const style = getComputedStyle(element);
        if (!walk.currentNode.data.trim() || element.closest("noscript, [disabled]") || !element.getClientRects().length) continue;
        const [one, other] = [light(parse(style.color)), light(behind(element))].sort((a, b) => b - a);
        found.push([Math.round((one + 0.05) / (other + 0.05) * 100) / 100, walk.currentNode.data.trim().slice(0, 40)]);
    }
    return found;
}
