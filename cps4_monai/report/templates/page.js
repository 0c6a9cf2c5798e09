document.querySelectorAll("th button").forEach(function (button) {
  button.addEventListener("click", function () {
    var head = button.parentElement, table = head.closest("table"), body = table.tBodies[0];
    var column = Array.prototype.indexOf.call(head.parentElement.children, head);
    var up = head.getAttribute("aria-sort") !== "ascending";
    head.parentElement.querySelectorAll("th").forEach(function (th) { th.removeAttribute("aria-sort"); });
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    function key(row) { var s = row.children[column].dataset.sort, n = Number(s); return s === "-inf" ? null : s === "" || isNaN(n) ? s : n; }
    Array.from(body.rows).sort(function (a, b) {
      var x = key(a), y = key(b);
      if (x === null || y === null) { return (x === null) - (y === null); }
      var order = typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y), undefined, { numeric: true });
      return up ? order : -order;
    }).forEach(function (row) { body.appendChild(row); });
  });
});

document.querySelectorAll(".filter").forEach(function (line) {
  var words = line.querySelector("input[type=search]"), flagged = line.querySelector("input[type=checkbox]");
  var rows = Array.from(line.nextElementSibling.querySelectorAll("tbody tr"));
  function apply() {
    var wanted = words.value.trim().toLowerCase().split(/\s+/);
    rows.forEach(function (row) {
      var text = row.textContent.toLowerCase();
      row.hidden = !wanted.every(function (word) { return text.includes(word); }) || (flagged.checked && !row.querySelector(".warn, .bad"));
    });
    line.querySelector("span").textContent = rows.filter(function (row) { return !row.hidden; }).length + " of " + rows.length;
  }
  words.addEventListener("input", apply);
  flagged.addEventListener("change", apply);
  apply();
});
