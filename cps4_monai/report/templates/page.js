document.querySelectorAll(".table").forEach(function (box) {
  var table = box.querySelector("table"), body = table.tBodies[0], rows = Array.from(body.rows), matching = rows, first = 0;
  var line = box.previousElementSibling, pager = box.nextElementSibling;
  if (!line || !line.matches(".filter")) { line = null; }
  if (!pager || !pager.matches(".pager")) { pager = null; }
  var atATime = pager ? Number(pager.dataset.rows) : Infinity;

  function show() {
    var shown = new Set(matching.slice(first, first + atATime));
    rows.forEach(function (row) { if (row.hidden === shown.has(row)) { row.hidden = !row.hidden; } });
    if (!pager) { return; }
    var buttons = pager.querySelectorAll("button");
    pager.querySelector("span").textContent = matching.length ? "rows " + (first + 1) + " to " + (first + shown.size) + " of " + matching.length : "no row";
    buttons[0].disabled = first === 0;
    buttons[1].disabled = first + atATime >= matching.length;
  }

  function turn(by) {
    first = Math.max(0, first + by * atATime);
    show();
    if (box.getBoundingClientRect().top < 0) { box.scrollIntoView({ behavior: "instant" }); }
  }

  function sort(button) {
    var head = button.parentElement, column = Array.prototype.indexOf.call(head.parentElement.children, head);
    var up = head.getAttribute("aria-sort") !== "ascending";
    head.parentElement.querySelectorAll("th").forEach(function (th) { th.removeAttribute("aria-sort"); });
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    function key(row) { var s = row.children[column].dataset.sort, n = Number(s); return s === "-inf" ? null : s === "" || isNaN(n) ? s : n; }
    var keys = new Map(rows.map(function (row) { return [row, key(row)]; }));
    var words = new Intl.Collator(undefined, { numeric: true });
    rows.sort(function (a, b) {
      var x = keys.get(a), y = keys.get(b);
      if (x === null || y === null) { return (x === null) - (y === null); }
      var order = typeof x === "number" && typeof y === "number" ? x - y : words.compare(String(x), String(y));
      return up ? order : -order;
    });
    rows.forEach(function (row) { body.appendChild(row); });
    apply();
  }

  function apply() {
    var wanted = line ? line.querySelector("input[type=search]").value.trim().toLowerCase().split(/\s+/) : [""];
    var flagged = line && line.querySelector("input[type=checkbox]").checked;
    matching = rows.filter(function (row) {
      var text = row.textContent.toLowerCase();
      return wanted.every(function (word) { return text.includes(word); }) && !(flagged && !row.querySelector(".warn, .bad"));
    });
    first = 0;
    if (line) { line.querySelector("span").textContent = matching.length + " of " + rows.length; }
    show();
  }

  table.querySelectorAll("th button").forEach(function (button) { button.addEventListener("click", function () { sort(button); }); });
  if (line) {
    line.querySelector("input[type=search]").addEventListener("input", apply);
    line.querySelector("input[type=checkbox]").addEventListener("change", apply);
  }
  if (pager) {
    pager.querySelectorAll("button").forEach(function (button, place) { button.addEventListener("click", function () { turn(place ? 1 : -1); }); });
  }
  apply();
});
