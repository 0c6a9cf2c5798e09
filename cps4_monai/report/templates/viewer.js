/* The viewer of a report: NiiVue shows a slab of each scan with its label maps; levels can be corrected and are written
   to corrections.json. Nothing is loaded from anywhere: scans stand in the page as JSON, see report/viewer.py. */
(function () {
  "use strict";

  var SAGITTAL = 2, WRONG = [255, 59, 48], OUTLINE = [255, 255, 255], DIM = 0.75;
  /* NiiVue's type of colours that are the more opaque the higher the value, up to cal_min: here all of it from 0.7 on.
     Of volumes it is 1 in version 0.69, whose name is "transparent below min"; with 2, all below cal_min is hidden. */
  var TRANSLUCENT = 1, OPAQUE = 0.7;

  /* What a structure moves along, from inferior to superior: discs, or vertebrae with the sacrum below them. */
  function rowOf(structures, s) {
    function isBody(t) { return t.kind === "sacrum" || t.kind === "vertebra"; }
    return structures.filter(function (t) { return t.order !== null && (t.kind === s.kind || (isBody(t) && isBody(s))); })
      .sort(function (a, b) { return a.order - b.order; });
  }

  /* Whether below a disc there is the sacrum and nothing else. */
  function liesOnSacrum(structures, disc) {
    var below = structures.filter(function (t) { return t.order !== null && t.order < disc.order; });
    return below.length > 0 && below.every(function (t) { return t.kind === "sacrum"; });
  }

  /* What becomes of each code in a label map if structure `code` is level `is`; or the reason why it cannot be. The
     same as levels/renumber.py: within the sacrum all is sacrum, and a disc there has no name and becomes background. */
  function renumbering(structures, present, code, is, fixed) {
    var moved = {}, reason = "", along = rowOf(structures, structures[code]);
    var shift = along.findIndex(function (s) { return s.name === is; }) - along.indexOf(structures[code]);
    present.forEach(function (c) {
      var from = structures[c], row = rowOf(structures, from), place = row.indexOf(from) + shift, to = row[place];
      if (from.order === null) { return; }
      if (place < 0 && from.kind === "sacrum") { to = row[0]; }
      if (place === -1 && from.kind === "disc" && liesOnSacrum(structures, row[0])) { to = structures[0]; }
      if (!to) { reason = reason || "the chain would leave the levels that there are"; return; }
      if (to !== from && fixed.includes(to.code)) { reason = reason || from.name + " would become " + to.name + ", which the weights never learned"; return; }
      moved[c] = to.code;
    });
    return reason ? { reason: reason } : { moved: moved };
  }

  /* Corrections by scan, kept in the browser's storage where it allows that, so that they outlive the page. */
  function Corrections(settings) {
    var key = "cps4-corrections-" + settings.run, kept = { by: "", scans: {} };
    try { kept = JSON.parse(localStorage.getItem(key)) || kept; } catch (error) { /* storage is closed to this page */ }
    function save() { try { localStorage.setItem(key, JSON.stringify(kept)); } catch (error) { /* as above */ } }
    function says(entry) { return Boolean(entry.level || entry.wrong || entry.accepted); }
    return {
      of: function (scan) { return kept.scans[scan.name] || {}; },
      set: function (scan, change) {
        var entry = Object.assign({ scan: scan.name, label_sha256: scan.label_sha256 }, this.of(scan), change);
        Object.keys(entry).forEach(function (k) { if (entry[k] === undefined) { delete entry[k]; } });
        kept.scans[scan.name] = entry;
        save();
      },
      drop: function (scan) { delete kept.scans[scan.name]; save(); },
      by: function (name) { if (name !== undefined) { kept.by = name; save(); } return kept.by; },
      entries: function () { return Object.values(kept.scans).filter(says); },
      file: function () {
        return {
          format: "cps4_monai.corrections", version: 1, weights_sha256: settings.weights_sha256, by: kept.by,
          made: new Date().toISOString(), scans: this.entries()
        };
      }
    };
  }

  function start(root) {
    var settings = JSON.parse(root.querySelector(".viewer-settings").textContent), structures = settings.structures;
    var sources = Array.from(root.querySelectorAll(".viewer-scan")), canvas = root.querySelector("canvas");
    var corrections = Corrections(settings), nv, scan, index = -1, layer, present = {}, selected = 0, hovered = 0;
    var grey = [0, 255], on = true, asked = 0, map = null, mapCode = 0;

    function show(name) { return root.querySelector("[data-show=" + name + "]"); }
    function input(name) { return root.querySelector("[data-set=" + name + "]"); }
    function button(name) { return root.querySelector("[data-do=" + name + "]"); }

    /* Scans */

    async function open(wanted) {
      var mine = ++asked;
      var next = JSON.parse(sources[wanted].textContent);
      var volumes = await Promise.all([load(next.scan, "gray")].concat(next.layers.map(function (l) { return load(l.data, "gray"); })));
      if (mine !== asked) { return; }
      scan = next;
      index = wanted;
      scan.volumes = volumes.slice(1);
      map = null;
      keepVolumes(0);
      nv.addVolume(volumes[0]);
      selected = 0;
      setOptions(input("layer"), scan.layers.map(function (l, i) { return [i, l.title]; }));
      input("layer").hidden = scan.layers.length < 2;
      listMaps();
      input("slice").max = volumes[0].dimsRAS[1] - 1;
      show("scan").value = wanted;
      show("note").textContent = scan.note;
      nv.setPan2Dxyzmm([0, 0, 0, 1]);
      chooseLayer(0);
      toSlice(middle());
      setGrey(0, 255);
      await chooseMap(mapCode);
      root.dataset.scan = scan.name;
    }

    function load(data, colormap) {
      return niivue.NVImage.loadFromBase64({ base64: data, name: "scan.nii.gz", colormap: colormap, cal_min: 0, cal_max: 255 });
    }

    function step(by) {
      if (settings.pages.length) {
        var page = settings.pages[settings.place + by];
        if (page) { location.href = page; }
      } else if (index + by >= 0 && index + by < sources.length) { open(index + by); }
    }

    /* Label maps: where each structure is, and its colour */

    function chooseLayer(number) {
      layer = scan.volumes[number];
      present = places(layer);
      stack();
      listStructures();
    }

    function keepVolumes(count) { while (nv.volumes.length > count) { nv.removeVolume(nv.volumes[nv.volumes.length - 1]); } }

    /* Over the scan lies the map, if one is shown, and over both the label map. */
    function stack() {
      keepVolumes(1);
      if (map) { nv.addVolume(map); nv.setOpacity(1, 1); }
      paint();
      nv.addVolume(layer);
      nv.setOpacity(nv.volumes.length - 1, opacity());
    }

    /* Maps of values from 0 to 1, one for each prompt */

    function listMaps() {
      root.querySelector(".viewer-map").hidden = !scan.maps.length;
      setOptions(input("map"), [[0, "none"]].concat(scan.maps.map(function (m) { return [m.code, structures[m.code].name + " · " + structures[m.code].long_name]; })));
      if (scan.maps.length && !scan.maps.some(function (m) { return m.code === mapCode; })) { mapCode = firstMap(); }
    }

    /* That of the lowest vertebra in the label map; where there is none, the first. */
    function firstMap() {
      var there = scan.maps.find(function (m) { return structures[m.code].kind === "vertebra"; });
      return (there || scan.maps[0]).code;
    }

    async function chooseMap(code) {
      var wanted = scan.maps.find(function (m) { return m.code === code; }), opened = asked, shown = scan;
      var volume = wanted ? await load(wanted.data, "map") : null;
      if (opened !== asked || shown !== scan) { return; }
      map = volume;
      if (map) { map.colormapType = TRANSLUCENT; map.cal_min = 255 * OPAQUE; }
      mapCode = wanted ? code : 0;
      input("map").value = mapCode;
      root.dataset.map = mapCode ? structures[mapCode].name : "";
      stack();
    }

    function mapColours() {
      var table = { R: [], G: [], B: [], A: [], I: [] }, last = settings.map_colours.length - 1;
      settings.map_colours.forEach(function (colour, i) {
        var level = Math.round(255 * i / last);
        table.R.push(colour[0]); table.G.push(colour[1]); table.B.push(colour[2]); table.A.push(level); table.I.push(level);
      });
      return table;
    }

    /* Value of the map at a place, 0 to 1, or null where none is shown. */
    function valueAt(place) {
      if (!map) { return null; }
      var mm = nv.frac2mm(place), size = map.hdr.dims, affine = map.hdr.affine, voxel = [0, 1, 2].map(function (axis) {
        return Math.round((mm[axis] - affine[axis][3]) / affine[axis][axis]);
      });
      var outside = voxel.some(function (v, axis) { return v < 0 || v >= size[axis + 1]; });
      return outside ? null : map.img[voxel[0] + size[1] * (voxel[1] + size[2] * voxel[2])] / 255;
    }

    function places(volume) {
      var size = volume.dimsRAS, data = volume.img, found = {}, per = size[1];
      for (var i = 0; i < data.length; i++) {
        if (data[i]) {
          var slices = found[data[i]] = found[data[i]] || new Array(per).fill(0);
          slices[i % per]++;
        }
      }
      return found;
    }

    function codes() { return Object.keys(present).map(Number); }

    function moved() {
      var level = corrections.of(scan).level;
      return (settings.corrections && level && renumbering(structures, codes(), level.code, level.is, scan.fixed).moved) || {};
    }

    function shownAs(code) { var m = moved(); return structures[code in m ? m[code] : code]; }

    function paint() {
      var wrong = corrections.of(scan).wrong || [], table = { R: [], G: [], B: [], A: [], I: [], labels: [] };
      structures.forEach(function (s) {
        var colour = map ? OUTLINE : wrong.includes(s.code) ? WRONG : shownAs(s.code).colour;
        var hidden = shownAs(s.code).code === 0 || (map && s.code !== mapCode);
        table.R.push(colour[0]); table.G.push(colour[1]); table.B.push(colour[2]);
        table.A.push(hidden ? 0 : !map && selected && s.code !== selected ? Math.round(255 * DIM) : 255);
        table.I.push(s.code);
        table.labels.push(s.name);
      });
      layer.setColormapLabel(table);
    }

    function repaint() { paint(); nv.updateGLVolume(); listStructures(); }

    function opacity() { return !on ? 0 : map ? 1 : Number(input("opacity").value); }

    function listStructures() {
      var wrong = corrections.of(scan).wrong || [], list = show("structures");
      list.replaceChildren.apply(list, codes().sort(topFirst).map(function (code) {
        var chip = document.createElement("button"), swatch = document.createElement("i"), to = shownAs(code);
        chip.type = "button";
        chip.dataset.code = code;
        chip.title = to.long_name;
        swatch.style.background = "rgb(" + to.colour.join(",") + ")";
        chip.append(swatch);
        if (to.code !== code) { var was = document.createElement("s"); was.textContent = structures[code].name; chip.append(was, " "); }
        chip.append(to.name);
        chip.setAttribute("aria-pressed", code === selected);
        chip.classList.toggle("wrong", wrong.includes(code));
        chip.addEventListener("click", function () { toSlice(fullestOf(present[code])); select(code); });
        return chip;
      }));
      if (settings.corrections) { listCorrection(); }
    }

    function topFirst(a, b) { return (structures[b].order || 0) - (structures[a].order || 0); }

    /* Slices and grey values */

    function fullestOf(slices) { return slices.indexOf(Math.max.apply(null, slices)); }

    /* The slice through the middle of all that is labeled, as in the pictures; that of the slab where nothing is. */
    function middle() {
      var area = new Array(nv.volumes[0].dimsRAS[1]).fill(0), below = 0;
      codes().forEach(function (code) { present[code].forEach(function (n, i) { area[i] += n; }); });
      var half = area.reduce(function (a, b) { return a + b; }, 0) / 2;
      return half ? area.findIndex(function (n) { below += n; return below >= half; }) : Math.floor(area.length / 2);
    }

    function toSlice(number) {
      var last = Number(input("slice").max), centre = nv.frac2vox([0.5, 0.5, 0.5]);
      number = Math.min(last, Math.max(0, number));
      nv.scene.crosshairPos = nv.vox2frac([number, centre[1], centre[2]]);
      nv.drawScene();
      tellSlice(number);
    }

    function tellSlice(number) {
      input("slice").value = number;
      show("slice").textContent = number + 1 + " of " + (Number(input("slice").max) + 1);
    }

    function setGrey(black, white) {
      grey = [Math.min(black, white - 1), white];
      input("black").value = grey[0];
      input("white").value = grey[1];
      nv.volumes[0].cal_min = grey[0];
      nv.volumes[0].cal_max = grey[1];
      nv.updateGLVolume();
    }

    /* What lies under the pointer */

    function placeOf(event) {
      var box = canvas.getBoundingClientRect(), ratio = nv.uiData.dpr || 1;
      return nv.canvasPos2frac([(event.clientX - box.left) * ratio, (event.clientY - box.top) * ratio]);
    }

    function codeAt(event) {
      var place = placeOf(event);
      if (!on || !layer || place[0] < 0) { return 0; }
      var voxel = nv.frac2vox(place), size = layer.dimsRAS;
      return layer.img[voxel[0] + size[1] * (voxel[1] + size[2] * voxel[2])] || 0;
    }

    function hover(event) {
      var code = codeAt(event), label = root.querySelector(".viewer-name"), box = canvas.getBoundingClientRect();
      var place = placeOf(event), value = place[0] < 0 ? null : valueAt(place), words = [], to = shownAs(code);
      if (value !== null) { words.push("A of " + structures[mapCode].name + " " + value.toFixed(2)); }
      if (code) { words.push(to.name + (to.code === code ? "" : ", was " + structures[code].name) + " · " + to.long_name); }
      label.hidden = !words.length;
      if (words.length) {
        label.textContent = words.join(" · ");
        label.style.left = Math.min(event.clientX - box.left, box.width - label.offsetWidth - 20) + "px";
        label.style.top = event.clientY - box.top + "px";
      }
      if (code !== hovered) {
        hovered = code;
        root.querySelectorAll(".viewer-chips button").forEach(function (chip) {
          chip.classList.toggle("hovered", Number(chip.dataset.code) === code);
        });
      }
    }

    function select(code) { selected = code === selected ? 0 : code; repaint(); }

    /* Corrections */

    function levelOptions() {
      return rowOf(structures, structures[selected]).reverse()
        .map(function (t) { return [t.name, t.name, renumbering(structures, codes(), selected, t.name, scan.fixed).reason]; });
    }

    /* Levels that cannot be, together where they have one reason. */
    function refusals(options) {
      var names = {};
      options.forEach(function (o) { if (o[2]) { (names[o[2]] = names[o[2]] || []).push(o[0]); } });
      var told = Object.keys(names).map(function (reason) { return names[reason].join(", ") + " (" + reason + ")"; });
      return told.length ? "Not possible: " + told.join("; ") : "";
    }

    function listCorrection() {
      var entry = corrections.of(scan), wrong = entry.wrong || [], count = corrections.entries().length;
      var can = selected && structures[selected].order !== null;
      show("tools").hidden = !selected;
      show("selected").textContent = selected ? "Chosen: " + shownAs(selected).name + ", " + shownAs(selected).long_name : "Click a structure to correct it.";
      show("refused").textContent = "";
      input("level").disabled = !can;
      if (can) {
        var options = levelOptions();
        setOptions(input("level"), options);
        input("level").value = shownAs(selected).name;
        show("refused").textContent = refusals(options);
      }
      button("wrong").setAttribute("aria-pressed", wrong.includes(selected));
      button("fine").setAttribute("aria-pressed", Boolean(entry.accepted));
      input("comment").value = entry.comment || "";
      button("download").disabled = !count;
      button("download").textContent = "download corrections.json" + (count ? " (" + count + (count > 1 ? " scans)" : " scan)") : "");
      Array.from(show("scan").options).forEach(function (o) { if (Number(o.value) === index) { o.textContent = titleOf(scan); } });
    }

    function titleOf(s) {
      var entry = corrections.of(s), words = [];
      if (entry.level) { words.push(structures[entry.level.code].name + " is " + entry.level.is); }
      if (entry.wrong) { words.push("outline wrong"); }
      if (entry.accepted) { words.push("fine"); }
      return (s.flagged ? "⚑ " : "") + s.name + (words.length ? " · " + words.join(", ") : "");
    }

    function setLevel(is) {
      corrections.set(scan, { level: is === structures[selected].name ? undefined : { code: selected, is: is } });
      repaint();
    }

    function toggleWrong() {
      var wrong = (corrections.of(scan).wrong || []).filter(function (c) { return c !== selected; });
      if (!(corrections.of(scan).wrong || []).includes(selected)) { wrong.push(selected); }
      corrections.set(scan, { wrong: wrong.length ? wrong.sort(function (a, b) { return a - b; }) : undefined, accepted: undefined });
      repaint();
    }

    function toggleFine() {
      corrections.set(scan, { accepted: corrections.of(scan).accepted ? undefined : true, wrong: undefined });
      repaint();
    }

    function download() {
      var link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob([JSON.stringify(corrections.file(), null, 1) + "\n"], { type: "application/json" }));
      link.download = "corrections.json";
      link.click();
      setTimeout(function () { URL.revokeObjectURL(link.href); }, 1000);
    }

    /* Controls */

    function setOptions(select, options) {
      select.replaceChildren.apply(select, options.map(function (o) {
        var option = new Option(o[1], o[0]);
        option.disabled = Boolean(o[2]);
        return option;
      }));
    }

    function setLabels(shown) { on = shown; input("labels").checked = on; nv.setOpacity(nv.volumes.length - 1, opacity()); }

    var keys = {
      n: function () { step(1); }, p: function () { step(-1); }, l: function () { setLabels(!on); },
      arrowup: function () { toSlice(Number(input("slice").value) - 1); }, arrowdown: function () { toSlice(Number(input("slice").value) + 1); }
    };

    function inView() {
      var box = root.getBoundingClientRect();
      return box.bottom > 0 && box.top < innerHeight;
    }

    function pressed(event) {
      var act = keys[event.key.toLowerCase()], typing = event.target.matches("select, textarea, input[type=text], input[type=search]");
      if (!act || !scan || typing || event.ctrlKey || event.metaKey || event.altKey || !inView()) { return; }
      event.preventDefault();
      event.stopPropagation();
      act();
    }

    function connect() {
      var does = {
        previous: function () { step(-1); }, next: function () { step(1); }, window: function () { setGrey(0, 255); },
        wrong: toggleWrong, fine: toggleFine, undo: function () { corrections.drop(scan); repaint(); }, download: download,
        index: function () { location.href = settings.index; }
      };
      root.querySelectorAll("[data-do]").forEach(function (b) { b.addEventListener("click", does[b.dataset.do]); });
      var sets = {
        slice: function (i) { toSlice(Number(i.value)); }, black: function (i) { setGrey(Number(i.value), grey[1]); },
        white: function (i) { setGrey(grey[0], Math.max(1, Number(i.value))); }, opacity: function () { setLabels(true); },
        labels: function (i) { setLabels(i.checked); }, layer: function (i) { chooseLayer(Number(i.value)); },
        map: function (i) { chooseMap(Number(i.value)); }, level: function (i) { setLevel(i.value); }, by: function (i) { corrections.by(i.value); },
        comment: function (i) { corrections.set(scan, { comment: i.value || undefined }); }
      };
      root.querySelectorAll("[data-set]").forEach(function (i) { i.addEventListener("input", function () { sets[i.dataset.set](i); }); });
      show("scan").addEventListener("change", function () { open(Number(show("scan").value)); });
      document.addEventListener("keydown", pressed, true);
      canvas.addEventListener("mousemove", hover);
      canvas.addEventListener("mouseleave", function () { root.querySelector(".viewer-name").hidden = true; });
      canvas.addEventListener("click", function (event) { var code = codeAt(event); if (code) { select(code); } });
      if (settings.linked) { window.addEventListener("hashchange", fromAddress); }
    }

    /* A link #scan-3 in a table opens that scan. */
    function fromAddress() {
      var wanted = /^#scan-(\d+)$/.exec(location.hash);
      if (wanted && Number(wanted[1]) < sources.length) { open(Number(wanted[1])); root.scrollIntoView(); }
    }

    async function begin() {
      nv = new niivue.Niivue({
        sagittalNoseLeft: true, crosshairWidth: 0, dragMode: niivue.DRAG_MODE.windowing, dragAndDropEnabled: false, logLevel: "error",
        clipPlaneHotKey: "", cycleClipPlaneHotKey: "", viewModeHotKey: "", loadingText: "", backColor: [0.059, 0.071, 0.086, 1]
      });
      await nv.attachToCanvas(canvas);
      nv.setSliceType(SAGITTAL);
      nv.onLocationChange = function (place) { if (scan) { tellSlice(place.vox[0]); } };
      nv.onIntensityChange = function (volume) { input("black").value = volume.cal_min; input("white").value = volume.cal_max; grey = [volume.cal_min, volume.cal_max]; };
      setOptions(show("scan"), sources.map(function (source, i) { return [i, titleOf(JSON.parse(source.textContent))]; }));
      button("index").hidden = !settings.index;
      show("scan").hidden = Boolean(settings.index);
      if (settings.corrections) { input("by").value = corrections.by(); }
      connect();
      if (!sources.length) { throw new Error("the scan or its label map could not be read when the page was made"); }
      if (settings.map_colours.length) { nv.addColormap("map", mapColours()); }
      await open(0);
      if (settings.linked) { fromAddress(); }
      root.classList.add("ready");
    }

    begin().catch(function (error) {
      root.querySelector(".viewer-fallback").textContent = "The viewer could not start (" + error.message + "); the pictures below show the same.";
    });
  }

  document.querySelectorAll(".viewer").forEach(start);
})();
