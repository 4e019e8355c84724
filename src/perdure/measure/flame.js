// Zoom and search of a flame graph: each frame knows its name, place, width and depth.
(function () {
  "use strict";
  var WIDTH = 1200;
  var frames = Array.prototype.slice.call(document.querySelectorAll("g.f"));
  var told = document.getElementById("told");
  var words = told.textContent;

  function place(frame, left, width) {
    var rect = frame.querySelector("rect");
    var text = frame.querySelector("text");
    var shown = width > 0.05 && left < WIDTH && left + width > 0;
    frame.style.display = shown ? "" : "none";
    if (!shown) return;
    left = Math.max(0, left);
    width = Math.min(WIDTH - left, width);
    rect.setAttribute("x", left);
    rect.setAttribute("width", Math.max(0.1, width - 0.3));
    text.setAttribute("x", left + 3);
    var room = Math.floor(width / 7.3) - 1;
    var name = frame.dataset.n;
    text.textContent = name.length <= room ? name : room > 3 ? name.slice(0, room - 1) + "…" : "";
  }

  function zoom(target) {
    var from = parseFloat(target.dataset.x);
    var width = parseFloat(target.dataset.w);
    var scale = WIDTH / width;
    frames.forEach(function (frame) {
      var left = parseFloat(frame.dataset.x);
      var own = parseFloat(frame.dataset.w);
      var isAbove = +frame.dataset.d < +target.dataset.d;
      var isAround = isAbove && left <= from + 1e-3 && left + own >= from + width - 1e-3;
      if (isAround) place(frame, 0, WIDTH);
      else place(frame, (left - from) * scale, own * scale * (isAbove ? 0 : 1));
    });
  }

  function search(pattern) {
    var expression = null;
    try {
      expression = pattern ? new RegExp(pattern, "i") : null;
    } catch (error) {
      told.textContent = String(error.message);
      return;
    }
    var found = 0;
    var ends = [];
    frames.forEach(function (frame) {
      var hit = expression !== null && expression.test(frame.dataset.n);
      frame.querySelector("rect").style.fill = hit ? "#c3f" : "";
      var left = parseFloat(frame.dataset.x);
      var width = parseFloat(frame.dataset.w);
      var isInside = ends.some(function (one) { return left >= one[0] - 1e-3 && left + width <= one[1] + 1e-3; });
      if (hit && !isInside) {
        found += width;
        ends.push([left, left + width]);
      }
    });
    told.textContent = expression === null ? words : "found: " + (100 * found / WIDTH).toFixed(2) + " %";
  }

  frames.forEach(function (frame) {
    frame.style.cursor = "pointer";
    frame.addEventListener("click", function () { zoom(frame); });
  });
  document.addEventListener("keydown", function (event) {
    if (event.key === "/" || (event.key === "f" && event.ctrlKey)) {
      event.preventDefault();
      search(window.prompt("Search by regular expression") || "");
    } else if (event.key === "Escape") {
      zoom(frames[0]);
      search("");
    }
  });
})();
